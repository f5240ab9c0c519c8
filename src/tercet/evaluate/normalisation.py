"""Adaptive symmetric score normalisation (AS-norm): a similarity judged by those to a cohort of other identities.

A probe that resembles everybody gets high similarities that mean little. With the mean and standard deviation of each
side's similarities to its most similar members of a cohort,

    s' = 1/2 [(s - mu_a) / sd_a + (s - mu_b) / sd_b]

Cohort: one mean embedding per training identity; the mean of the cohort is subtracted from everything first (Matejka
et al., Analysis of score normalization, 2017; wespeaker's recipe, where 300 members are used).

Legend: N rows; D embedding width; C cohort members; P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.pairs import Pairs
from tercet.evaluate.similarity import checked_labels, checked_vectors, unit_rows

__all__ = ["AsNorm", "Normalised"]

_ROWS = 4096
_LEAST_SPREAD = 1e-6  # a cohort that says nothing about a row must not make its scores infinite


@final
@dataclass(frozen=True)
class Normalised:
    """Embeddings made ready: `vectors` [N, D] less the cohort's mean, `mean` and `spread` [N] of their similarities."""

    vectors: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]

    def scores(
        self, cosine_P: npt.ArrayLike, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """S' [P] of the similarities of rows `first` with rows `second`."""
        s = np.asarray(cosine_P, dtype=np.float64)
        one = (s - self.mean[first]) / self.spread[first]
        other = (s - self.mean[second]) / self.spread[second]
        return (one + other) / 2

    def pairs(self, pairs: Pairs) -> Pairs:
        """The same pairs with their normalised scores; `pairs` are those of `vectors`."""
        return Pairs(self.scores(pairs.scores, pairs.first, pairs.second), pairs.genuine, pairs.first, pairs.second)


@final
@dataclass(frozen=True)
class AsNorm:
    """A cohort [C, D] with the mean [D] that is subtracted first, and how many of its members judge a row (`top`)."""

    cohort: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    top: int

    @classmethod
    def of(cls, vectors_ND: npt.ArrayLike, labels_N: npt.ArrayLike, *, top: int = 300) -> AsNorm:
        """The cohort of embeddings of known identities: the mean of each, less the mean of those means.

        `top` is reduced to the number of identities. Raises InvalidInput, also below two identities.
        """
        x = checked_vectors(vectors_ND, "vectors_ND").astype(np.float64)
        names, code = np.unique(checked_labels(labels_N, len(x), "labels_N"), return_inverse=True)
        if len(names) < 2 or top < 2:
            raise InvalidInput(f"cohort: needs at least two identities, got {len(names)} and top={top}")
        means = np.zeros((len(names), x.shape[1]))
        np.add.at(means, code, x)
        means /= np.bincount(code)[:, None]
        centre = means.mean(axis=0)
        return cls((means - centre).astype(np.float32), centre.astype(np.float32), min(top, len(names)))

    def normalised(self, vectors_ND: npt.ArrayLike) -> Normalised:
        """What `scores` needs of each row. Cost: O(N C D). Raises InvalidInput."""
        x = checked_vectors(vectors_ND, "vectors_ND")
        if x.shape[1] != self.cohort.shape[1]:
            raise InvalidInput(f"vectors_ND: expected width {self.cohort.shape[1]} as the cohort, got {x.shape[1]}")
        centred = (x - self.mean).astype(np.float32)
        cohort = unit_rows(self.cohort)
        mean, spread = np.empty(len(x)), np.empty(len(x))
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            similar = unit_rows(centred[rows]) @ cohort.T
            nearest = np.sort(similar, axis=1)[:, -self.top :]
            mean[rows], spread[rows] = nearest.mean(axis=1), nearest.std(axis=1)
        return Normalised(centred, mean, np.maximum(spread, _LEAST_SPREAD))
