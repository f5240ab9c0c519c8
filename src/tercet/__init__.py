"""Triplet-loss metric learning, from the exact formula to a decision one can trust.

The names below are imported on first use, so that `tercet --help` answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tercet import relation
    from tercet.errors import DataError, InvalidInput, InvalidOption, MissingExtra, RunError, TercetError
    from tercet.losses import AutoMargin, MultiSampleTripletLoss, TripletLoss
    from tercet.run import Model, load

__version__ = "0.1.0"

__all__ = [
    "TripletLoss",
    "MultiSampleTripletLoss",
    "AutoMargin",
    "load",
    "Model",
    "relation",
    "TercetError",
    "InvalidOption",
    "InvalidInput",
    "DataError",
    "RunError",
    "MissingExtra",
    "__version__",
]

_HOME = {
    "TripletLoss": "losses",
    "MultiSampleTripletLoss": "losses",
    "AutoMargin": "losses",
    "load": "run",
    "Model": "run",
} | dict.fromkeys(("TercetError", "InvalidOption", "InvalidInput", "DataError", "RunError", "MissingExtra"), "errors")

_MODULES = ("relation",)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"tercet.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'tercet' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tercet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
