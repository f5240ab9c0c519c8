"""Verification: are two samples of one identity? Figures over scored pairs.

FMR(t) is the share of impostor pairs with score >= t, FNMR(t) the share of genuine pairs with score < t (ISO/IEC
19795-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.evaluate.accuracy import cross_validated_decisions
from tercet.evaluate.error_curve import ErrorCurve, checked_scores, error_curve, least_impostors

__all__ = ["TAR_TARGETS", "Roc", "Verification", "roc", "verification"]

TAR_TARGETS = {"0.1": 0.1, "0.01": 0.01, "0.001": 0.001}


@final
@dataclass(frozen=True)
class Roc:
    """FMR and FNMR [T + 1] at thresholds in descending order, all finite; the first one accepts nothing."""

    thresholds: npt.NDArray[np.float64]
    fmr: npt.NDArray[np.float64]
    fnmr: npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class Verification:
    """What `verification` returns; rates between 0 and 1.

    `eer_threshold` is the score at which FMR and FNMR are nearest to each other on these very pairs: it describes them
    and is no threshold to decide by (`calibrate` chooses one). `genuine` and `impostor` are numbers of pairs.
    """

    eer: float
    eer_threshold: float
    auc: float
    tar_at_fmr: dict[str, float | None]
    accuracy: float | None
    genuine: int
    impostor: int


def roc(scores: npt.ArrayLike, genuine: npt.ArrayLike) -> Roc:
    """Both error rates at every distinct score, accepting where score >= threshold.

    `scores` [P] numbers, `genuine` [P] bool. Pairs with equal scores are accepted together, so nothing depends on their
    order. The points run from (FMR 0, FNMR 1) to (FMR 1, FNMR 0). Cost: O(P log P). Raises InvalidInput for scores that
    are not finite and where either kind of pair is missing.

    >>> curve = roc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
    >>> curve.fmr.tolist(), curve.fnmr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0])
    """
    curve = error_curve(*checked_scores(scores, genuine))
    return Roc(curve.thresholds, curve.false_matches / curve.impostor, curve.false_non_matches / curve.genuine)


def verification(scores: npt.ArrayLike, genuine: npt.ArrayLike, *, folds: npt.ArrayLike | None = None) -> Verification:
    """The verification figures of scored pairs, exact, safe at ties and independent of the pairs' order.

    - eer: where the convex hull of the ROC meets FMR = FNMR (Brummer and de Villiers, BOSARIS, 2011); 0.5 where all
      scores are equal.
    - auc: P(genuine > impostor) + P(equal) / 2.
    - tar_at_fmr: 1 - FNMR at the largest FMR that does not exceed 0.1, 0.01, 0.001, without interpolation; None below
      300, 3,000 and 30,000 impostor pairs, where fewer than 30 errors are expected (rule of 30).
    - accuracy: the share of correct decisions, each by a threshold chosen on other folds (`cross_validated_decisions`
      says how; give `folds` [P] of a benchmark, or `identity_folds`). With many more impostor than genuine pairs it
      says little: rejecting everything is then accurate too. None where the folds leave too little to choose on.

    `scores` [P] numbers, `genuine` [P] bool, `folds` integers [P] or [P, 2]. Cost: O(P log P + P per fold). Raises
    InvalidInput for scores that are not finite and where either kind of pair is missing.

    >>> verification([0.5] * 4, [True, True, False, False]).eer
    0.5
    """
    s, g = checked_scores(scores, genuine)
    curve = error_curve(s, g)
    accepted = cross_validated_decisions(s, g, folds)
    return Verification(
        eer=curve.eer(),
        eer_threshold=float(curve.thresholds[curve.balance()]),
        auc=curve.auc(),
        tar_at_fmr=tar_at_targets(curve),
        accuracy=None if accepted is None else float((accepted == g).mean()),
        genuine=curve.genuine,
        impostor=curve.impostor,
    )


def tar_at_targets(curve: ErrorCurve) -> dict[str, float | None]:
    """TAR at the three targets; None where the impostor pairs are too few for one."""
    return {
        name: curve.tar_at(fmr) if curve.impostor >= least_impostors(fmr) else None for name, fmr in TAR_TARGETS.items()
    }
