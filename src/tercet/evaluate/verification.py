"""Verification: are two samples of one identity? Figures over scored pairs.

FMR(t) is the share of impostor pairs with score >= t, FNMR(t) the share of genuine pairs with score < t (ISO/IEC
19795-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.accuracy import cross_validated_decisions, standard_error
from tercet.evaluate.error_curve import ErrorCurve, checked_scores, error_curve, least_impostors
from tercet.evaluate.likelihood import PRIORS, actual_dcf, cllr

__all__ = ["TAR_TARGETS", "Det", "Roc", "Verification", "det", "roc", "thinned", "verification"]

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
class Det:
    """Where both error rates lie strictly between 0 and 1: thresholds, rates and their normal deviates, all [T].

    The deviate of a rate p is the x with Phi(x) = p; scores that are normally distributed give a straight line.
    """

    thresholds: npt.NDArray[np.float64]
    fmr: npt.NDArray[np.float64]
    fnmr: npt.NDArray[np.float64]
    fmr_deviate: npt.NDArray[np.float64]
    fnmr_deviate: npt.NDArray[np.float64]


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
    accuracy_standard_error: float | None
    min_dcf: dict[str, float]
    act_dcf: dict[str, float | None]
    cllr: float | None
    min_cllr: float
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


def thinned(curve: Roc, points: int = 200) -> Roc:
    """At most so many points of a curve, spread along it as it lies on the axes of `det`; both ends stay.

    Each is a point of the curve as it is: nothing is interpolated. Raises InvalidInput below two points.
    """
    from scipy.special import ndtri

    if points < 2:
        raise InvalidInput(f"points: expected at least 2, got {points}")
    if len(curve.fmr) <= points:
        return curve
    ends = 1e-6, 1 - 1e-6  # rates of 0 and 1 lie at infinity
    x, y = (ndtri(np.clip(rate, *ends)) for rate in (curve.fmr, curve.fnmr))
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)).clip(0, len(along) - 1))
    kept = np.unique(np.concatenate([[0], kept[kept > 0][: points - 2], [len(along) - 1]]))
    return Roc(curve.thresholds[kept], curve.fmr[kept], curve.fnmr[kept])


def det(scores: npt.ArrayLike, genuine: npt.ArrayLike) -> Det:
    """The detection error trade-off: the curve of `roc` on normal-deviate axes (Martin et al., 1997).

    Points at which a rate is 0 or 1 lie at infinity and are left out, so there may be none. Arguments, cost and errors
    as for `roc`.

    >>> det([0.9, 0.4, 0.4, 0.1], [True, True, False, False]).fmr_deviate.tolist()
    []
    """
    from scipy.special import ndtri

    curve = roc(scores, genuine)
    inside = (curve.fmr > 0) & (curve.fmr < 1) & (curve.fnmr > 0) & (curve.fnmr < 1)
    fmr, fnmr = curve.fmr[inside], curve.fnmr[inside]
    return Det(curve.thresholds[inside], fmr, fnmr, ndtri(fmr), ndtri(fnmr))


def verification(
    scores: npt.ArrayLike,
    genuine: npt.ArrayLike,
    *,
    folds: npt.ArrayLike | None = None,
    llr: npt.ArrayLike | None = None,
    force_small: bool = False,
) -> Verification:
    """The verification figures of scored pairs, exact, safe at ties and independent of the pairs' order.

    - eer: where the convex hull of the ROC meets FMR = FNMR (Brummer and de Villiers, BOSARIS, 2011); 0.5 where all
      scores are equal.
    - auc: P(genuine > impostor) + P(equal) / 2.
    - tar_at_fmr: 1 - FNMR at the largest FMR that does not exceed 0.1, 0.01, 0.001, without interpolation; None below
      300, 3,000 and 30,000 impostor pairs, where fewer than 30 errors are expected (rule of 30), unless `force_small`.
    - accuracy: the share of correct decisions, each by a threshold chosen on other folds (`cross_validated_decisions`
      says how; give `folds` [P] of a benchmark, or `identity_folds`). With many more impostor than genuine pairs it
      says little: rejecting everything is then accurate too. None where the folds leave too little to choose on. Its
      standard error is that of the mean over the folds, where `folds` [P] names them.
    - min_dcf: the smallest P FNMR + (1 - P) FMR over min(P, 1 - P), for P = 0.01 and 0.05 (the keys), both costs 1.
    - min_cllr: the Cllr in bits of the best non-decreasing map of the score (PAV): what the ranking alone is worth.
    - act_dcf, cllr: the costs of decisions at the Bayes threshold, and of the values, of `llr` [P], the pairs'
      log-likelihood ratios by a map that was fitted on other pairs; None without.

    `scores` [P] numbers, `genuine` [P] bool, `folds` integers [P] or [P, 2]. Cost: O(P log P + P per fold). Raises
    InvalidInput for scores that are not finite and where either kind of pair is missing.

    >>> verification([0.5] * 4, [True, True, False, False]).eer
    0.5
    """
    s, g = checked_scores(scores, genuine)
    curve = error_curve(s, g)
    accepted = cross_validated_decisions(s, g, folds)
    ratios = None if llr is None else checked_scores(llr, genuine)[0]
    if ratios is not None and ratios.shape != s.shape:
        raise InvalidInput(f"llr: expected [{len(s)}] as scores, got [{len(ratios)}]")
    return Verification(
        eer=curve.eer(),
        eer_threshold=float(curve.thresholds[curve.balance()]),
        auc=curve.auc(),
        tar_at_fmr=tar_at_targets(curve, force_small=force_small),
        accuracy=None if accepted is None else float((accepted == g).mean()),
        accuracy_standard_error=None if accepted is None else standard_error(accepted == g, folds),
        min_dcf={name: curve.min_dcf(prior) for name, prior in PRIORS.items()},
        act_dcf={name: None if ratios is None else actual_dcf(ratios, g, prior=p) for name, p in PRIORS.items()},
        cllr=None if ratios is None else cllr(ratios, g),
        min_cllr=curve.min_cllr(),
        genuine=curve.genuine,
        impostor=curve.impostor,
    )


def tar_at_targets(curve: ErrorCurve, *, force_small: bool = False) -> dict[str, float | None]:
    """TAR at the three targets; None where the impostor pairs are too few for one, unless forced."""
    return {
        name: curve.tar_at(fmr) if force_small or curve.impostor >= least_impostors(fmr) else None
        for name, fmr in TAR_TARGETS.items()
    }
