"""Forgeries: samples that are known not to be of the identity they pretend to be, scored against that identity alone.

An impostor comparison is random (a genuine sample of somebody else), or by a forgery: simple (made knowing the name),
skilled (made with the identity's own sample at hand). An error rate means nothing until it is said which. Two forgeries
are never compared, nor is a forgery with anybody but its target.

Legend: N rows, D embedding width, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import error_curve
from tercet.evaluate.pairs import Pairs
from tercet.evaluate.similarity import checked_labels, checked_vectors, row_similarity, unit_rows
from tercet.evaluate.verification import verification

__all__ = ["by_kind", "forgery_pairs", "mean_eer", "with_forgeries"]

_GENUINE, _RANDOM = "genuine", "random"
_GATHERED_VALUES = 2**21  # float64 values gathered at a time: 16 MiB a side
_OPERATING_FMR = (0.1, 0.01)


def forgery_pairs(
    x_ND: npt.ArrayLike, labels_N: npt.ArrayLike, kinds_N: npt.ArrayLike, *, max_pairs: int = 2_000_000, seed: int = 0
) -> dict[str, Pairs]:
    """The impostor pairs of forgeries: for each kind of them, every forgery with every genuine row of its target.

    Above `max_pairs` of a kind, a seeded uniform sample of that many. `first` is the forgery's row, `second` the
    genuine one. Kinds of which there is no pair are left out; so the result is empty where nothing is forged.

    Args:
        x_ND: one vector a row.
        labels_N: int, whose it is, or of a forgery whose it pretends to be.
        kinds_N: str, "genuine" or the kind of forgery.
        max_pairs: at least 1.
        seed: of the sample.

    Cost: O(P D) time beside sorting the rows. Raises InvalidInput.

    >>> found = forgery_pairs([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [4, 9, 9], ["genuine", "genuine", "skilled"])
    >>> {kind: (pairs.first.tolist(), pairs.second.tolist(), pairs.scores.tolist()) for kind, pairs in found.items()}
    {'skilled': ([2], [1], [0.0])}
    """
    x = checked_vectors(x_ND, "x_ND")
    labels = checked_labels(labels_N, len(x), "labels_N")
    kinds = np.asarray(kinds_N)
    if kinds.shape != (len(x),) or kinds.dtype.kind != "U":
        raise InvalidInput(f"kinds_N: expected strings [{len(x)}], got {kinds.dtype} {list(kinds.shape)}")
    if max_pairs < 1:
        raise InvalidInput(f"max_pairs: expected at least 1, got {max_pairs}")
    genuine = np.flatnonzero(kinds == _GENUINE)
    genuine = genuine[np.argsort(labels[genuine], kind="stable")]
    found: dict[str, Pairs] = {}
    for kind in sorted(set(kinds.tolist()) - {_GENUINE}):
        forged = np.flatnonzero(kinds == kind)
        start, end = (np.searchsorted(labels[genuine], labels[forged], side=side) for side in ("left", "right"))
        before = np.cumsum(end - start) - (end - start)
        count = int((end - start).sum())
        rank = np.arange(count)
        if count > max_pairs:
            rank = np.sort(np.random.default_rng(seed).choice(count, size=max_pairs, replace=False))
        if not count:
            continue
        # Forgeries without a genuine row share their number with the next one, whose place the search must give.
        at = np.searchsorted(before, rank, side="right") - 1
        first, second = forged[at], genuine[start[at] + rank - before[at]]
        found[kind] = Pairs(_scores(x, first, second), np.zeros(len(rank), np.bool_), first, second)
    return found


def mean_eer(pairs: Pairs, forged: Mapping[str, Pairs]) -> float:
    """The mean of the equal error rates of the genuine pairs against each kind of impostor, random ones included.

    `pairs` are those of genuine rows; with nothing forged it is their EER.
    """
    genuine = pairs.scores[pairs.genuine]
    kinds = [pairs.scores[~pairs.genuine], *(found.scores for found in forged.values())]
    return float(np.mean([_curve(genuine, impostor).eer() for impostor in kinds]))


def by_kind(pairs: Pairs, forged: Mapping[str, Pairs], *, threshold: float | None = None) -> dict[str, Any]:
    """Figures of the genuine pairs against each kind of impostor apart, and what thresholds let through of each.

    Args:
        pairs: genuine and random impostor pairs.
        forged: of `forgery_pairs`.
        threshold: a calibrated one, chosen on other identities; None: there is none.

    Returns:
        {"random": {...}, "skilled": {...}, ...}: eer, auc, tar_at_fmr (as in `verification`), impostor (pairs); and
        "thresholds": a list of {name, threshold, a_posteriori, frr, far: {kind: rate}}: the lowest thresholds that let
        at most 10 % and 1 % of the random impostors of these very pairs through (a posteriori: they describe the pairs
        and are no forecast), and the calibrated one.
    """
    genuine = pairs.scores[pairs.genuine]
    impostors = {_RANDOM: pairs.scores[~pairs.genuine], **{kind: found.scores for kind, found in forged.items()}}
    figures: dict[str, Any] = {}
    for kind, impostor in impostors.items():
        found = verification(*_together(genuine, impostor))
        kept = {"eer": found.eer, "auc": found.auc, "tar_at_fmr": found.tar_at_fmr, "impostor": found.impostor}
        figures[kind] = kept
    curve = _curve(genuine, impostors[_RANDOM])
    chosen = [
        (f"random FMR {100 * fmr:g} %", float(curve.thresholds[curve.last_within(fmr)]), True) for fmr in _OPERATING_FMR
    ]
    if threshold is not None:
        chosen.append(("calibrated", threshold, False))
    figures["thresholds"] = [
        {
            "name": name,
            "threshold": at,
            "a_posteriori": after,
            "frr": float((genuine < at).mean()),
            "far": {kind: float((impostor >= at).mean()) for kind, impostor in impostors.items()},
        }
        for name, at, after in chosen
    ]
    return figures


def with_forgeries(pairs: Pairs, forged: Pairs) -> Pairs:
    """The genuine pairs of `pairs` with the impostor pairs of `forged`; both must number the same rows."""
    kept = pairs.genuine
    return Pairs(
        np.concatenate([pairs.scores[kept], forged.scores]),
        np.concatenate([pairs.genuine[kept], forged.genuine]),
        np.concatenate([pairs.first[kept], forged.first]),
        np.concatenate([pairs.second[kept], forged.second]),
    )


def _scores(
    x_ND: npt.NDArray[np.floating], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    unit = unit_rows(x_ND)
    scores = np.empty(len(first), dtype=np.float32)
    step = max(1, _GATHERED_VALUES // max(1, unit.shape[1]))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        scores[part] = row_similarity(unit[first[part]], unit[second[part]])
    return scores


def _together(
    genuine: npt.NDArray[np.floating], impostor: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    scores = np.concatenate([genuine, impostor]).astype(np.float64)
    return scores, np.arange(len(scores)) < len(genuine)


def _curve(genuine: npt.NDArray[np.floating], impostor: npt.NDArray[np.floating]) -> Any:
    return error_curve(*_together(genuine, impostor))
