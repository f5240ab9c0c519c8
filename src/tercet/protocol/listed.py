"""A published list of pairs on decoded data: which rows are compared, and which comparisons cannot be made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.data import GENUINE, SampleStore
from tercet.data.trials import Trials
from tercet.errors import DataError
from tercet.protocol.rows import seen_identities
from tercet.run import Model

__all__ = ["ListedPairs", "listed_pairs"]


@final
@dataclass(frozen=True)
class ListedPairs:
    """The pairs of a list that are scored.

    Args:
        first: Row of the store of each pair's first file.
        second: Row of its second file.
        genuine: Which pairs the list calls genuine.
        fold: The list's folds, or None.
        failed: How many further pairs hold a file that cannot be read (failure to acquire).
        left_out: How many pairs were left out because the model has seen one of the identities.
        identities: Names of those identities.
        warnings: What a reader of the figures should know.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    genuine: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64] | None
    failed: int
    left_out: int
    identities: tuple[str, ...]
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)


def listed_pairs(model: Model, store: SampleStore, trials: Trials, *, keep_seen: bool = False) -> ListedPairs:
    """Find the files of a list among the decoded samples.

    Pairs of an identity that the model was trained or validated on are left out and counted, unless `keep_seen`.

    Raises:
        DataError: A file of the list is not part of the data, or a pair has both labels ("list: line N: reason"); or
            nothing is left to score.
    """
    manifest = store.manifest
    at = {row.path: n for n, row in enumerate(manifest.rows)}
    unreadable = {row.path: row.identity for row in store.unreadable}
    seen = seen_identities(model, store)
    rows: list[tuple[int, int, int]] = []
    failed = left_out = differ = agree = 0
    named: set[str] = set()
    label_of: dict[frozenset[Path], tuple[bool, int]] = {}
    for n, (a, b) in enumerate(zip(trials.a, trials.b, strict=True)):
        label, line = bool(trials.genuine[n]), int(trials.line[n])
        before = label_of.setdefault(frozenset((a, b)), (label, line))
        if before[0] != label:
            raise DataError(f"{trials.path}: line {line}: the pair of line {before[1]}, with the other label")
        people = []
        for path in (a, b):
            if path in at:
                people.append(manifest.rows[at[path]].identity)
            elif path in unreadable:
                people.append(unreadable[path])
            else:
                shown = path.relative_to(manifest.root) if path.is_relative_to(manifest.root) else path
                raise DataError(f"{trials.path}: line {line}: {shown.as_posix()} is not among the data")
        known = seen.intersection(people)
        named |= known
        if known and not keep_seen:
            left_out += 1
        elif a in unreadable or b in unreadable:
            failed += 1
        else:
            rows.append((at[a], at[b], n))
            same = people[0] == people[1]
            differ += label and not same
            agree += not label and same and {manifest.rows[at[path]].kind for path in (a, b)} == {GENUINE}
    first, second, kept = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    genuine = trials.genuine[kept]
    if not 0 < genuine.sum() < len(genuine):
        raise DataError(
            f"{trials.path}: {int(genuine.sum())} genuine and {int((~genuine).sum())} impostor pairs are left to score"
            f" ({left_out} were left out because the model has seen an identity, {failed} hold an unreadable file)"
        )
    warnings = []
    if named:
        who = ", ".join(sorted(named)[:5]) + (" ..." if len(named) > 5 else "")
        warnings.append(
            f"{len(named)} identities of the list were in training or validation, and their pairs are "
            + (f"scored all the same: these figures are too good ({who})" if keep_seen else f"left out: {who}")
        )
    if differ:
        warnings.append(f"{differ} pairs are genuine by the list, though their files lie under two identities")
    if agree:
        warnings.append(f"{agree} pairs are impostors by the list, though their files lie under one identity")
    if len(label_of) < len(trials):
        warnings.append(f"{len(trials) - len(label_of)} pairs stand in the list more than once, and count each time")
    if selves := sum(len(pair) == 1 for pair in label_of):
        warnings.append(f"{selves} pairs are of a file with itself, which every model calls genuine")
    fold = None if trials.fold is None else trials.fold[kept]
    if fold is not None and len(np.unique(fold)) == 1:
        warnings.append(
            "all pairs are in one fold, so that there is no other fold to choose a threshold on: no accuracy"
        )
    return ListedPairs(first, second, genuine, fold, failed, left_out, tuple(sorted(named)), tuple(warnings))
