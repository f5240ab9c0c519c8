"""From scores to log-likelihood ratios: the map, its cost, and decisions at the Bayes threshold.

A log-likelihood ratio llr = ln p(score | genuine) / p(score | impostor) is evidence that does not depend on how often
genuine pairs come; with a prior P of a genuine pair and equal costs, accepting from llr >= ln((1 - P) / P) on is best.

Legend: P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import checked_scores

__all__ = ["PRIORS", "LlrMap", "actual_dcf", "bayes_threshold", "cllr", "fit_llr"]

PRIORS = {"0.01": 0.01, "0.05": 0.05}


@final
@dataclass(frozen=True)
class LlrMap:
    """llr = slope * score + offset, natural logarithm; slope > 0, so the order of scores stays."""

    slope: float
    offset: float

    def __call__(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The log-likelihood ratios of scores, of any shape."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset


def fit_llr(scores: npt.ArrayLike, genuine: npt.ArrayLike, *, prior: float = 0.5) -> LlrMap:
    """The affine map from score to log-likelihood ratio, by logistic regression.

    Minimises (P/G) sum_genuine ln(1 + e^-(llr + L)) + ((1-P)/I) sum_impostor ln(1 + e^(llr + L)) with L = logit P, so
    that the numbers of pairs of the two kinds have no part in it (Brummer and du Preez, Application-independent
    evaluation of speaker detection, 2006); P is `prior`. A penalty of slope^2 / (2 M), with scores scaled to standard
    deviation 1 and M the number of pairs of the rarer kind, keeps the slope finite where the kinds do not overlap.

    `scores` [P] numbers, `genuine` [P] bool. Cost: a sort and some ten passes. Raises InvalidInput where the scores
    carry no evidence (slope <= 0).
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    s, g = checked_scores(scores, genuine)
    if not 0 < prior < 1:
        raise InvalidInput(f"prior: expected a probability between 0 and 1, got {prior}")
    order = np.lexsort((g, s))  # so that the order of the pairs leaves no trace in the last bit
    s, g = s[order], g[order]
    centre, spread = float(s.mean()), float(s.std())
    if spread == 0:
        raise InvalidInput("scores: all are equal; they carry no evidence")
    own = int(g.sum())
    weight = np.where(g, prior / own, (1 - prior) / (len(g) - own))
    rarer = min(own, len(g) - own)
    fit = LogisticRegression(C=float(rarer), tol=1e-10, max_iter=100, solver="newton-cholesky")
    with threadpool_limits(1):  # two unknowns: threads would only wait for each other
        fit.fit(((s - centre) / spread)[:, None], g, sample_weight=weight)
    slope = float(fit.coef_[0, 0]) / spread
    if slope <= 0:
        raise InvalidInput("scores: genuine pairs do not score higher than impostor pairs")
    return LlrMap(slope, float(fit.intercept_[0]) - slope * centre - math.log(prior / (1 - prior)))


def cllr(llr: npt.ArrayLike, genuine: npt.ArrayLike) -> float:
    """The cost of log-likelihood ratios over all priors, in bits: 0 is perfect, 1 is what llr = 0 everywhere costs.

    Cllr = 1/2 [mean_genuine log2(1 + e^-llr) + mean_impostor log2(1 + e^llr)] (Brummer and du Preez, 2006). It exceeds
    1 where the evidence misleads. Raises InvalidInput.

    >>> cllr([0.0, 0.0], [True, False])
    1.0
    """
    s, g = checked_scores(llr, genuine)
    return float(np.logaddexp(0.0, -s[g]).mean() + np.logaddexp(0.0, s[~g]).mean()) / (2 * math.log(2))


def bayes_threshold(prior: float) -> float:
    """The log-likelihood ratio from which accepting costs less: ln((1 - P) / P), both kinds of error costing 1."""
    return math.log((1 - prior) / prior)


def actual_dcf(llr: npt.ArrayLike, genuine: npt.ArrayLike, *, prior: float) -> float:
    """The detection cost of deciding at `bayes_threshold(prior)`: (P FNMR + (1 - P) FMR) / min(P, 1 - P).

    What exceeds `min_dcf` is the price of a poor calibration. Raises InvalidInput.

    >>> actual_dcf([5.0, 2.0, -3.0], [True, True, False], prior=0.05)
    0.5
    """
    s, g = checked_scores(llr, genuine)
    if not 0 < prior < 1:
        raise InvalidInput(f"prior: expected a probability between 0 and 1, got {prior}")
    accepted = s >= bayes_threshold(prior)
    cost = prior * float((~accepted[g]).mean()) + (1 - prior) * float(accepted[~g].mean())
    return cost / min(prior, 1 - prior)
