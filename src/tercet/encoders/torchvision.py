"""Imports torchvision, which timm needs, also where its compiled part does not fit the torch that is installed.

The torchvision of PyPI is built for CUDA. Beside a torch without CUDA its compiled operators cannot be loaded, and then
its Python part fails to import with `RuntimeError: operator torchvision::nms does not exist`, because it describes
operators (for object detection) that nobody has declared. Declared here by their signatures, they let everything be
imported; whoever calls one of them is told that it has no implementation. With a torchvision that fits (for a torch
without CUDA: from download.pytorch.org/whl/cpu) nothing of this happens.
"""

from __future__ import annotations

import importlib
import re
from typing import Final

import torch

from tercet.errors import MissingExtra

__all__ = ["import_torchvision"]

_SIGNATURES: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # what is declared is gone with the object that declared it


def import_torchvision() -> None:
    """Import torchvision, its missing operators declared where that is what it takes.

    Raises:
        MissingExtra: It is not installed, or does not fit the installed torch.
    """
    for _ in range(1 + len(_SIGNATURES)):
        try:
            importlib.import_module("torchvision")
            return
        except ImportError as error:
            raise MissingExtra.of("timm:", "vision") from error
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None or missing[1] not in _SIGNATURES:
                raise MissingExtra(f"torchvision does not fit torch {torch.__version__}: {error}") from error
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(_SIGNATURES[missing[1]])  # type: ignore[no-untyped-call]
            _declared.append(library)
    raise MissingExtra(f"torchvision does not fit torch {torch.__version__}")
