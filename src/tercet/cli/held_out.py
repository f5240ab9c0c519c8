"""The options of `train` that keep a fold of a published list of pairs for the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.errors import InvalidOption

if TYPE_CHECKING:
    from tercet.data import Manifest
    from tercet.data.trials import Trials

__all__ = ["FoldOption", "PairsOption", "held_out"]

PairsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Test on a fold of this list of pairs (LFW, or path path label fold): it is left out of training.",
        show_default=False,
    ),
]
FoldOption = Annotated[int | None, typer.Option(help="With --pairs: which fold.", show_default="the last")]


def held_out(manifest: Manifest, pairs: Path | None, fold: int | None) -> tuple[Manifest, Trials | None]:
    """The data with the fold's identities marked as test, and the pairs to be scored.

    Raises:
        InvalidOption: Options or data that mean nothing together.
        DataError: The list cannot be read, or names a file that is not among the data.
    """
    from tercet.data.held_out import hold_out
    from tercet.data.trials import read_trials

    if pairs is None:
        if fold is not None:
            raise InvalidOption("--fold is for the folds of --pairs")
        return manifest, None
    return hold_out(manifest, read_trials(pairs, manifest), fold)
