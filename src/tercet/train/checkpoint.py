"""Where a training stands, on the disk: whole or not there, so that a kill or a full disk costs minutes, not the run.

    checkpoints/
      step-000001200/       state.json (small numbers, checksum of the tensors), tensors.safetensors
      step-000001350/       two or more are kept: if the last is damaged, the one before serves

A checkpoint is written under a temporary name and renamed when all of it is on the disk. There is no state of random
generators in it: every draw is a function of the seed and the step.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, final

import torch
from torch import nn

from tercet.errors import RunError
from tercet.run.files import read_json, read_tensors, sync_folder, write_json, write_tensors
from tercet.train.care import Care

__all__ = ["Progress", "Stateful", "load_checkpoint", "save_checkpoint"]

_logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """What else has a state: a memory bank, the factor of float16."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of the state."""
        ...

    def set_tensors(self, state: Mapping[str, torch.Tensor]) -> None:
        """Stand where `tensors` was taken; KeyError, TypeError, ValueError or RuntimeError where it does not fit."""
        ...


@final
@dataclass(slots=True)
class Progress:
    """How far a training has come.

    Args:
        step: Steps done.
        elapsed_s: Seconds of training, over all sessions.
        validations: Validations done.
        best_eer: Equal error rate of the best weights so far on the held-out identities; None before the first.
        best_map_at_r: Their MAP@R.
        best_step: The step they come from.
        best_healthy: Whether the doctor found them good to come back to.
        care: The state of the doctor and of the mining curriculum.
    """

    step: int = 0
    elapsed_s: float = 0.0
    validations: int = 0
    best_eer: float | None = None
    best_map_at_r: float | None = None
    best_step: int | None = None
    best_healthy: bool = False
    care: Care = field(default_factory=Care)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    encoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    best_weights: Mapping[str, torch.Tensor] | None,
    criterion: nn.Module,
    more: Mapping[str, Stateful] | None = None,
    *,
    kept: int = 2,
) -> None:
    """Write a checkpoint and drop all but the newest ones; the loss may have a state too (a margin that moves).

    Args:
        folder: Where checkpoints are.
        progress: How far the training is.
        encoder: Its weights are kept ...
        optimizer: ... and its state.
        best_weights: The best so far.
        criterion: The loss.
        more: What else has a state, by its name.
        kept: How many checkpoints stay.

    Raises:
        RunError: It cannot be written; the checkpoints from before are untouched.
    """
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    tensors |= {f"criterion.{name}": tensor for name, tensor in criterion.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (best_weights or {}).items()}
    for part, stateful in (more or {}).items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in stateful.tensors().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    place = folder / f"step-{progress.step:09d}"
    partial = folder / f".partial-{progress.step:09d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        sha256 = write_tensors(partial / "tensors.safetensors", tensors)
        write_json(partial / "state.json", {"progress": asdict(progress), "tensors_sha256": sha256})
        if place.exists():
            shutil.rmtree(place)  # of this very step: what was resumed from
        partial.rename(place)
        sync_folder(folder)
    except OSError as error:
        raise RunError(f"{place}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    until_now = [other for other in _places(folder) if other <= place]
    # What stands beyond this step was damaged, or the training would have gone on from there.
    for old in {*_places(folder)} - {*until_now[-kept:]}:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    encoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    more: Mapping[str, Stateful] | None = None,
) -> tuple[Progress, dict[str, torch.Tensor] | None] | None:
    """Put encoder, optimizer and loss where the newest whole checkpoint stands; returns progress and best weights.

    None where there is no checkpoint yet. A damaged one is reported and the one before it is used.

    Raises:
        RunError: There are checkpoints, and all are damaged.
    """
    places = _places(folder)
    for place in reversed(places):
        with contextlib.suppress(_Damaged):
            return _load(place, encoder, optimizer, criterion, more or {})
    if places:
        raise RunError(f"{folder}: every checkpoint is damaged; start again with another --out")
    return None


class _Damaged(Exception):
    """A checkpoint that cannot be used."""


def _load(
    place: Path,
    encoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    more: Mapping[str, Stateful],
) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    try:
        state = read_json(place / "state.json")
        tensors = read_tensors(place / "tensors.safetensors", sha256=str(state.get("tensors_sha256")))
        progress = Progress(**{**state["progress"], "care": Care.from_json(state["progress"]["care"])})
        _set_weights(encoder, _part(tensors, "encoder."))
        criterion.load_state_dict(_part(tensors, "criterion."))
        _set_optimizer(optimizer, _part(tensors, "optimizer."))
        for part, stateful in more.items():
            stateful.set_tensors(_part(tensors, f"{part}."))
    except (RunError, KeyError, TypeError, ValueError, RuntimeError) as error:
        _logger.warning("%s; trying the checkpoint before it", error)
        raise _Damaged from error
    return progress, _part(tensors, "best.") or None


def _set_weights(encoder: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    encoder.load_state_dict(weights)


def _set_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Moments of AdamW, in the memory layout of their parameter: another layout rounds in another order."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        like = parameters[int(number)]
        same_shape = tensor.shape == like.shape
        state.setdefault(int(number), {})[key] = torch.empty_like(like).copy_(tensor) if same_shape else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _places(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []
