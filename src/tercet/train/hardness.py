"""What is hard in the whole training set: identities that are near each other, and samples that look like others.

A sample is the harder, the more alike the nearest sample of another identity is to it, and the less its own are:

    hardness_n = max over m of another identity <x_n, x_m>  -  mean over the other m of its own <x_n, x_m>

For a sample that is alone of its identity the mean of all others' second term stands in. The hardest share of all
samples is left out, of the choice and of the vote: above all of others they are samples with a wrong label.

Each sample left names the identities of its K nearest foreign ones; the identities that an identity's samples name most
often are near it.

The search is exact, in tiles (`tercet.evaluate.nearest`): O(N^2 D) operations, memory O(N (D + K)). After Harwood et
al., "Smart Mining for Deep Metric Learning", ICCV 2017; that the hardest are often mislabelled: Schroff et al.,
"FaceNet", CVPR 2015.

Legend: N samples, D embedding width, I identities, K neighbours of a sample, M of an identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from tercet.evaluate import nearest

__all__ = ["NEIGHBOURS", "Hardness", "judge", "nearest_foreign"]

NEIGHBOURS: Final = 8  # K
_NEAR: Final = 9  # M, of which a lead draws its partners
_HARDER: Final = 2  # one of so many of an identity's samples is hard


def nearest_foreign(
    x_ND: npt.NDArray[np.float32], identities_N: npt.NDArray[np.int64], rows: slice
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For these rows the K nearest of other identities, best first, and their similarities; -1 and 0 at empty places.

    Shapes [Q, K]. `x_ND` are embeddings of any length, `identities_N` whose they are.
    """
    found = nearest(x_ND[rows], x_ND, NEIGHBOURS, query_ids=identities_N[rows], gallery_ids=identities_N)
    return found.index_QK, found.score_QK


@final
@dataclass(frozen=True, slots=True)
class Hardness:
    """What is hard; chooses partners for `PartnerSampler`.

    Args:
        near_IM: int64, the identities nearest to each, the nearest first; -1: there are no more.
        hard_N: float32, how hard each row is; minus infinity: it is left out.
    """

    near_IM: npt.NDArray[np.int64]
    hard_N: npt.NDArray[np.float32]

    def partners(self, lead: int, random: np.random.Generator) -> Iterator[int]:
        """The nearest identities, in a random order."""
        near = self.near_IM[lead]
        yield from random.permutation(near[near >= 0]).tolist()

    def samples(
        self, rows: npt.NDArray[np.int64], wanted: int, random: np.random.Generator
    ) -> npt.NDArray[np.int64] | None:
        """Of the harder half of those that are not left out, and no fewer than are wanted; None where all are."""
        kept = rows[np.isfinite(self.hard_N[rows])]
        if not len(kept):
            return None
        hardest = kept[np.argsort(-self.hard_N[kept], kind="stable")]
        return random.permutation(hardest[: max(wanted, len(hardest) // _HARDER)])[:wanted]


def judge(
    x_ND: npt.NDArray[np.float32],
    identities_N: npt.NDArray[np.int64],
    index_NK: npt.NDArray[np.int64],
    score_NK: npt.NDArray[np.float32],
    *,
    skip: float,
) -> Hardness:
    """What is hard, by the nearest foreign samples of all.

    Args:
        x_ND: Unit vectors.
        identities_N: Their identities, 0 to I - 1, each of which occurs.
        index_NK: As `nearest_foreign` has found them for all rows ...
        score_NK: ... with their similarities.
        skip: The share of the hardest that is left out.
    """
    hard_N = np.where(index_NK[:, 0] >= 0, score_NK[:, 0], -1.0) - _likeness_to_own(x_ND, identities_N)
    left_out = np.argsort(-hard_N, kind="stable")[: int(skip * len(hard_N))]
    hard_N[left_out] = -np.inf
    identities = int(identities_N.max()) + 1
    voting = np.isfinite(hard_N)[:, None] & (index_NK >= 0)
    pair_V = (identities_N[:, None] * identities + identities_N[index_NK])[voting]
    near_IM = _most_named(pair_V, score_NK[voting], identities)
    return Hardness(near_IM, hard_N.astype(np.float32))


def _likeness_to_own(x_ND: npt.NDArray[np.float32], identities_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of each row the mean similarity to the others of its identity; where there are none, the mean of all these."""
    count_I = np.bincount(identities_N)
    order = np.argsort(identities_N, kind="stable")
    ends = np.cumsum(count_I)
    sum_ID = np.add.reduceat(x_ND[order], ends - count_I, axis=0, dtype=np.float64).astype(np.float32)
    own_N = np.empty(len(x_ND))
    for start in range(0, len(x_ND), 2**16):
        part = slice(start, start + 2**16)
        own_N[part] = np.einsum("nd,nd->n", x_ND[part], sum_ID[identities_N[part]] - x_ND[part])
    others_N = count_I[identities_N] - 1
    own_N /= np.maximum(others_N, 1)
    alone = others_N == 0
    own_N[alone] = own_N[~alone].mean() if not alone.all() else 0.0
    return own_N


def _most_named(
    pair_V: npt.NDArray[np.int64], score_V: npt.NDArray[np.float32], identities: int
) -> npt.NDArray[np.int64]:
    """[I, M] from votes (one identity * I + another): by their number, then by the best score."""
    order = np.lexsort((-score_V, pair_V))
    pair_V = pair_V[order]
    first_P = np.flatnonzero(np.diff(pair_V, prepend=-1))
    votes_P = np.diff(first_P, append=len(pair_V))
    pair_P, best_P = pair_V[first_P], score_V[order[first_P]]
    one_P, other_P = np.divmod(pair_P, identities)
    ranked = np.lexsort((other_P, -best_P, -votes_P, one_P))
    count_I = np.bincount(one_P, minlength=identities)
    rank = np.arange(len(ranked)) - np.repeat(np.cumsum(count_I) - count_I, count_I)
    near_IM = np.full((identities, _NEAR), -1, np.int64)
    kept = rank < _NEAR
    near_IM[one_P[ranked][kept], rank[kept]] = other_P[ranked][kept]
    return near_IM
