"""Error rates over pairs that share identities: what other identities may show.

A rate p over pairs is uncertain because of the identities it was counted on. Pairs that have an identity in common
are correlated, pairs that have none are not, so the variance of p is the sum of the products of the deviations over
all pairs of pairs with an identity in common (dyadic cluster-robust variance: Fafchamps and Gubert 2007; Aronow, Samii
and Assenova 2015); drawing identities with replacement many times tends to the same figure. From it follows the
effective number of pairs m = p (1 - p) / variance: so many independent pairs would be as uncertain. The interval is
Clopper's and Pearson's for p m errors in m pairs, m reduced for the few identities that the variance itself was
estimated from (Korn and Graubard, Analysis of Health Surveys, 1999): it stays within [0, 1], and is skewed as it
must be for rare errors.

Legend: P pairs; I identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit  # not scipy.stats, which takes most of a second to import

from tercet.errors import InvalidInput

__all__ = ["ErrorRate", "binomial_interval", "error_rate"]

_NORMAL_975 = 1.959963984540054
_ROUNDING = 1e-9  # share of the variance of independent pairs: less is a sum of zeros


@final
@dataclass(frozen=True)
class ErrorRate:
    """A share of pairs decided wrongly: `value` of `pairs` pairs of `identities` identities.

    `effective` is the number of independent pairs that would be as uncertain, at most `pairs`.
    """

    value: float
    pairs: int
    identities: int
    effective: float

    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate among all identities of the kind that these were drawn from."""
        return binomial_interval(self.value, self.effective * _few(self.identities))

    def foresee(self, pairs: int, identities: int) -> tuple[float, float]:
        """95 % interval of what is measured at the same threshold on so many pairs of so many other identities.

        It is wider than `interval`, since it allows for the sampling of both sets. The pairs of the other set are taken
        to be as correlated as those here, so that its effective number grows with its identities.
        """
        own = self.effective * _few(self.identities)
        theirs = min(float(pairs), self.effective * identities / self.identities)
        return binomial_interval(self.value, 1 / (1 / own + 1 / theirs))


def error_rate(errors: npt.ArrayLike, identities: npt.ArrayLike) -> ErrorRate:
    """The rate of some errors and how far identities let it be trusted.

    `errors` [P] bool, `identities` [P, 2] integers: whose the two samples of each pair are. Without an error, without
    a correct decision, or where every identity errs equally often, the correlation is unknown and each identity is
    counted in one pair only: I / 2 effective pairs of two identities, I of one. Cost: O(P log P). Raises InvalidInput.
    """
    wrong, codes = np.asarray(errors, dtype=np.bool_), np.asarray(identities)
    if wrong.ndim != 1 or not len(wrong):
        raise InvalidInput(f"errors: expected at least one pair [P], got shape {list(wrong.shape)}")
    if codes.shape != (len(wrong), 2) or not np.issubdtype(codes.dtype, np.integer):
        raise InvalidInput(f"identities: expected integers [{len(wrong)}, 2], got {codes.dtype} {list(codes.shape)}")
    names, code = np.unique(codes, return_inverse=True)
    one, other = code.reshape(-1, 2).min(axis=1), code.reshape(-1, 2).max(axis=1)
    people, value = len(names), float(wrong.mean())
    distinct = people / 2 if (one != other).any() else float(people)
    if value in (0.0, 1.0) or people < 2:
        return ErrorRate(value, len(wrong), people, min(float(len(wrong)), distinct))
    deviation = wrong - value
    of_identity = np.bincount(one, deviation, people)
    apart = one != other
    of_identity += np.bincount(other[apart], deviation[apart], people)
    # Each pair of identities stands in the sums of both of them, so its square is counted twice: once is taken off.
    dyad = np.unique(one * people + other, return_inverse=True)[1]
    of_dyad = np.bincount(dyad, deviation)
    two = np.zeros(len(of_dyad), dtype=np.bool_)
    two[dyad] = apart
    alone = float((of_dyad**2).sum())
    total = float((of_identity**2).sum()) - float((of_dyad[two] ** 2).sum())
    variance = max(total, alone) / len(wrong) ** 2 * people / (people - 1)
    # Errors spread evenly over all identities leave no variance (but rounding): nothing is known of the correlation.
    known = variance > _ROUNDING * value * (1 - value) / len(wrong)
    effective = value * (1 - value) / variance if known else distinct
    # A variance estimated small by chance must not promise more than the pairs can hold.
    return ErrorRate(value, len(wrong), people, min(float(len(wrong)), effective))


def binomial_interval(value: float, trials: float) -> tuple[float, float]:
    """Clopper's and Pearson's 95 % interval of a share seen in `trials` independent trials, which need not be whole."""
    errors = value * trials
    low = float(betaincinv(errors, trials - errors + 1, 0.025)) if errors > 0 else 0.0
    high = float(betaincinv(errors + 1, trials - errors, 0.975)) if errors < trials else 1.0
    return low, high


def _few(identities: int) -> float:
    """What is left of the effective number where the variance comes from few identities: (z / t)^2."""
    return float((_NORMAL_975 / stdtrit(max(1, identities - 1), 0.975)) ** 2)
