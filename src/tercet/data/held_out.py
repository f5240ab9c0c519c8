"""A fold of a published list of pairs kept for the test: its identities are not trained on, its pairs are scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tercet.data.manifest import Manifest
from tercet.data.trials import Trials
from tercet.errors import DataError, InvalidOption

__all__ = ["hold_out"]


def hold_out(manifest: Manifest, trials: Trials, fold: int | None = None) -> tuple[Manifest, Trials]:
    """Mark the identities of a fold as test, and all others as not; give the pairs of that fold besides.

    Args:
        manifest: The samples; without a split of their own.
        trials: The list.
        fold: The fold, as the list numbers it; None: the last one, or all pairs of a list without folds.

    Raises:
        InvalidOption: The list has no such fold, or the samples have a split already.
        DataError: A file of the fold is not among the samples.
    """
    if any(row.split for row in manifest.rows):
        raise InvalidOption("--pairs: the data say themselves who is kept for the test (their split column)")
    kept = np.ones(len(trials), dtype=bool)
    if trials.fold is not None:
        known = np.unique(trials.fold).tolist()
        fold = known[-1] if fold is None else fold
        if fold not in known:
            raise InvalidOption.unknown("fold", fold, known)
        kept = trials.fold == fold
    elif fold is not None:
        raise InvalidOption(f"--fold {fold}: {trials.path} has no folds")
    rows = np.flatnonzero(kept)
    some = Trials(
        trials.path,
        tuple(trials.a[n] for n in rows),
        tuple(trials.b[n] for n in rows),
        trials.genuine[rows],
        None if trials.fold is None else trials.fold[rows],
        trials.line[rows],
    )
    identity_of = {row.path: row.identity for row in manifest.rows}
    tested = set()
    for n, pair in enumerate(zip(some.a, some.b, strict=True)):
        for path in pair:
            if path not in identity_of:
                raise DataError(f"{trials.path}: line {int(some.line[n])}: {path.name} is not among the data")
            tested.add(identity_of[path])
    marked = tuple(replace(row, split="test" if row.identity in tested else "") for row in manifest.rows)
    return Manifest(manifest.root, marked, manifest.skipped), some
