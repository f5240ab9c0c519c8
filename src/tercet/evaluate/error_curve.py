"""The two error counts of every threshold, and the figures that follow from them; all in whole numbers until the end.

Legend: P pairs; T distinct scores, so T + 1 operating points: "accept nothing" and "accept scores >= t" for every t.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput

__all__ = ["ErrorCurve", "between", "checked_scores", "error_curve", "least_impostors"]

_RULE_OF_THIRTY = 30


@final
@dataclass(frozen=True)
class ErrorCurve:
    """Error counts at thresholds in descending order; the first threshold, just above every score, accepts nothing.

    `false_matches` and `false_non_matches` are int64 [T + 1] (numbers of pairs, or sums of whole weights), `impostor`
    and `genuine` their totals.
    """

    thresholds: npt.NDArray[np.float64]
    false_matches: npt.NDArray[np.int64]
    false_non_matches: npt.NDArray[np.int64]
    impostor: int
    genuine: int

    def eer(self) -> float:
        """Where the lower convex hull of the points (FMR, FNMR) meets FMR = FNMR.

        The hull is what mixing two thresholds at random attains, so the figure needs no convention for ties or for the
        order of pairs, and it is at most 0.5. Only the hull's edge that crosses the diagonal is looked for: from the
        chord between the ends, step to the point farthest below it until none is below. O(T) per step, in whole
        numbers.
        """
        x, y = self.false_matches, self.false_non_matches
        above, below = 0, len(x) - 1  # points with FNMR >= FMR, and with FMR > FNMR
        while True:
            rise, run = int(y[above] - y[below]), int(x[below] - x[above])
            depth = rise * x[above : below + 1] + run * y[above : below + 1]
            vertex = above + int(np.argmin(depth))
            if depth[vertex - above] >= depth[0]:
                break
            if int(y[vertex]) * self.impostor >= int(x[vertex]) * self.genuine:
                above = vertex
            else:
                below = vertex
        left = Fraction(int(y[above]), self.genuine) - Fraction(int(x[above]), self.impostor)
        right = Fraction(int(x[below]), self.impostor) - Fraction(int(y[below]), self.genuine)
        share = left / (left + right)
        return float(Fraction(int(x[above]) + share * run) / self.impostor)

    def balance(self) -> int:
        """The point whose FMR and FNMR are nearest to each other; of two, the one with the higher threshold."""
        gap = np.abs(self.false_matches / self.impostor - self.false_non_matches / self.genuine)
        return int(np.argmin(gap))

    def auc(self) -> float:
        """P(genuine score > impostor score) + P(equal) / 2: the trapezoid rule, which counts a tie as half."""
        true_matches = self.genuine - self.false_non_matches
        twice = int(np.dot(np.diff(self.false_matches), true_matches[1:] + true_matches[:-1]))
        return twice / (2 * self.impostor * self.genuine)

    def min_dcf(self, prior: float) -> float:
        """The smallest detection cost P FNMR + (1 - P) FMR of any threshold, over min(P, 1 - P); 0 to 1.

        P is the prior of a genuine pair, both kinds of error cost 1; 1 is the cost of deciding without a look.
        """
        miss, match = self.false_non_matches / self.genuine, self.false_matches / self.impostor
        return float((prior * miss + (1 - prior) * match).min()) / min(prior, 1 - prior)

    def posteriors(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The share of genuine pairs as the best non-decreasing function of the score, and the pairs it is made from.

        Pool adjacent violators (PAV) over the distinct scores that carry weight: the share, the genuine and the
        impostor pairs at each, in descending order of score.
        """
        from scipy.optimize import isotonic_regression  # on use: it takes long to import

        genuine, impostor = -np.diff(self.false_non_matches), np.diff(self.false_matches)
        weight = genuine + impostor
        used = weight > 0
        genuine, impostor, weight = genuine[used], impostor[used], weight[used]
        pooled = isotonic_regression(genuine / weight, weights=weight.astype(np.float64), increasing=False).x
        return np.clip(pooled, 0.0, 1.0), genuine, impostor

    def min_cllr(self) -> float:
        """Cllr in bits of the best non-decreasing map from score to log-likelihood ratio (PAV, as in BOSARIS)."""
        share, genuine, impostor = self.posteriors()
        odds = self.genuine / self.impostor
        own, other = genuine > 0, impostor > 0  # where a kind is present, its share is not 0, so no term is infinite
        miss = np.log2(1 + (1 - share[own]) / share[own] * odds) @ genuine[own] / self.genuine
        match = np.log2(1 + share[other] / (1 - share[other]) / odds) @ impostor[other] / self.impostor
        return float(miss + match) / 2

    def last_within(self, fmr: float) -> int:
        """The point with the largest FMR that does not exceed `fmr` (of equal ones, the lowest threshold)."""
        errors = int(fmr * self.impostor) + 1
        while errors / self.impostor > fmr:
            errors -= 1
        return int(np.searchsorted(self.false_matches, errors, side="right")) - 1

    def tar_at(self, fmr: float) -> float:
        """The share of genuine pairs accepted at the largest FMR <= `fmr`; not interpolated."""
        return 1.0 - float(self.false_non_matches[self.last_within(fmr)]) / self.genuine


def checked_scores(
    scores_P: npt.ArrayLike, genuine_P: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Finite float64 scores and boolean kinds with at least one pair of each kind, or InvalidInput."""
    scores = np.asarray(scores_P)
    if scores.ndim != 1 or not (np.issubdtype(scores.dtype, np.floating) or np.issubdtype(scores.dtype, np.integer)):
        raise InvalidInput(f"scores: expected numbers [P], got {scores.dtype} of shape {list(scores.shape)}")
    scores = scores.astype(np.float64)
    if not (np.abs(scores) < 1e300).all():
        raise InvalidInput("scores: holds NaN or infinity")
    genuine = np.asarray(genuine_P)
    if genuine.shape != scores.shape:
        raise InvalidInput(f"genuine: expected [{len(scores)}] as scores, got shape {list(genuine.shape)}")
    if genuine.dtype != np.bool_:
        whole = np.issubdtype(genuine.dtype, np.integer) and np.isin(genuine, (0, 1)).all()
        if genuine.size and not whole:
            raise InvalidInput(f"genuine: expected booleans, got {genuine.dtype}")
        genuine = genuine.astype(np.bool_)
    count = int(genuine.sum())
    if count == 0 or count == len(genuine):
        raise InvalidInput(
            f"genuine: needs pairs of both kinds, got {count} genuine and {len(genuine) - count} impostor"
        )
    return scores, genuine


def error_curve(scores_P: npt.NDArray[np.float64], genuine_P: npt.NDArray[np.bool_]) -> ErrorCurve:
    """The curve of checked scores. Cost: one sort, O(P log P)."""
    order = np.argsort(scores_P)[::-1]
    descending, kind = scores_P[order], genuine_P[order]
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(descending) - 1)
    accepted_genuine = np.concatenate([[0], np.cumsum(kind, dtype=np.int64)[last]])
    accepted = np.concatenate([[0], last + 1])
    total = int(accepted_genuine[-1])
    nothing = np.nextafter(descending[0], np.inf)
    return ErrorCurve(
        thresholds=np.concatenate([[nothing], descending[last]]),
        false_matches=accepted - accepted_genuine,
        false_non_matches=total - accepted_genuine,
        impostor=len(descending) - total,
        genuine=total,
    )


def least_impostors(fmr: float) -> int:
    """Fewest impostor pairs that can show an FMR of `fmr`: 30 errors to be expected (the rule of 30).

    >>> least_impostors(0.1), least_impostors(0.001)
    (300, 30000)
    """
    return -int(-_RULE_OF_THIRTY / Fraction(str(fmr)) // 1)


def between(upper: float, lower: float) -> float:
    """A threshold that accepts `upper` and not `lower`, half way where floats allow."""
    middle = upper / 2 + lower / 2
    return middle if middle > lower else upper
