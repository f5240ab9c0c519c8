"""Does something trivial tell the pairs apart? How well one number per row separates, and whether that is chance.

Legend: N rows; P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import error_curve
from tercet.evaluate.similarity import checked_labels

__all__ = ["Separation", "separation_of_pairs", "separation_of_rows"]

_GROUPS = 20  # of identities, left out one after the other


@final
@dataclass(frozen=True)
class Separation:
    """How well a feature alone separates two kinds.

    Args:
        auc: Of rows, 0.5 to 1, whichever way it points; of pairs, 0 to 1, above 0.5 where genuine pairs are alike.
        low: Lower end of a one-sided interval over identities, in the direction of `auc`.
        identities: How many it is drawn from.
    """

    auc: float
    low: float
    identities: int

    def beyond(self, limit: float) -> bool:
        """Whether it is above the limit, and above 0.5 by more than the choice of identities explains."""
        return self.auc > limit and self.low > 0.5


def separation_of_rows(
    values_N: npt.ArrayLike, forged_N: npt.ArrayLike, labels_N: npt.ArrayLike, *, level: float = 0.999
) -> Separation:
    """AUC with which a number (or a name) alone tells forged rows from genuine ones.

    For numbers, max(A, 1 - A) with A = P(forged > genuine) + P(equal) / 2. For names, the largest such AUC of "is it
    this one?" over the names. The interval leaves out one of 20 groups of identities at a time (jackknife, Student's t,
    one-sided `level`): rows of one identity are not independent.

    Cost: 21 sorts. Raises InvalidInput where a kind is missing or a number is not finite.
    """
    forged = np.asarray(forged_N, dtype=np.bool_)
    labels = checked_labels(labels_N, len(forged), "labels_N")
    values = np.asarray(values_N)
    if values.shape != forged.shape:
        raise InvalidInput(f"values_N: expected [{len(forged)}], got shape {list(values.shape)}")
    if values.dtype.kind == "U":
        # One name of two says the same as the other; beyond that, the one that separates best.
        found = [
            separation_of_rows((values == name).astype(float), forged, labels, level=level)
            for name in np.unique(values)
        ]
        return max(found, key=lambda one: one.auc)
    whole = _auc(values, forged)
    sign = 1.0 if whole >= 0.5 else -1.0
    return _jackknife(lambda kept: _auc(sign * values[kept], forged[kept]), labels[:, None], level)


def separation_of_pairs(
    values_N: npt.ArrayLike,
    first_P: npt.NDArray[np.int64],
    second_P: npt.NDArray[np.int64],
    genuine_P: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    *,
    level: float = 0.999,
) -> Separation:
    """AUC of genuine over impostor pairs by the score -|value of the first row - value of the second|.

    For names the score is 0 where both are equal and -1 where they differ. The interval as in `separation_of_rows`; a
    pair goes where either identity goes. Cost: 21 sorts of P. Raises InvalidInput where a kind of pair is missing or a
    number is not finite.
    """
    values, genuine = np.asarray(values_N), np.asarray(genuine_P, dtype=np.bool_)
    labels = checked_labels(labels_N, len(values), "labels_N")
    one, other = values[first_P], values[second_P]
    scores = -(one != other).astype(float) if values.dtype.kind == "U" else -np.abs(one - other).astype(float)
    who = np.stack([labels[first_P], labels[second_P]], axis=1)
    return _jackknife(lambda kept: _auc(scores[kept], genuine[kept]), who, level)


def _auc(values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    if not 0 < int(positive.sum()) < len(positive):
        raise InvalidInput("needs both kinds")
    if not np.isfinite(values).all():
        raise InvalidInput("values_N: holds NaN or infinity")
    return error_curve(values.astype(np.float64), positive).auc()


def _jackknife(
    auc_of: Callable[[npt.NDArray[np.bool_]], float], labels_PK: npt.NDArray[np.int64], level: float
) -> Separation:
    """The AUC of all, and its lower end by leaving groups of identities out."""
    from scipy.stats import t

    people, code = np.unique(labels_PK, return_inverse=True)
    code = code.reshape(labels_PK.shape)
    groups = min(_GROUPS, len(people))
    whole = auc_of(np.ones(len(labels_PK), dtype=np.bool_))
    group_of = np.random.default_rng(0).permutation(len(people)) % groups
    without = []
    for group in range(groups):
        try:
            without.append(auc_of(~(group_of[code] == group).any(axis=1)))
        except InvalidInput:  # nothing of a kind is left
            continue
    if len(without) < 3:
        return Separation(whole, 0.0, len(people))
    left = np.array(without)
    count = len(left)
    deviation = float(np.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))
    return Separation(whole, max(0.0, whole - float(t.ppf(level, count - 1)) * deviation), len(people))
