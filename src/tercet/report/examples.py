"""Which examples the report shows: queries drawn at random, and the pairs that the model finds hardest.

Legend: N rows; P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.evaluate import Pairs

__all__ = ["draw_queries", "hardest_false_matches", "hardest_false_non_matches"]


def draw_queries(
    labels_N: npt.NDArray[np.int64], included_N: npt.NDArray[np.bool_], *, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """At most `count` rows to show as queries, drawn and not chosen: one of each identity first, then further ones.

    Only rows in `included_N` (those with another sample of their identity) are drawn; the same seed gives the same.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(included_N))
    shown = order[_spread(labels_N[order][:, None], count)]
    return shown[np.argsort(labels_N[shown], kind="stable")]


def hardest_false_matches(pairs: Pairs, labels_N: npt.NDArray[np.int64], *, count: int) -> npt.NDArray[np.int64]:
    """Indices into `pairs` of impostor pairs with the highest scores, best spread over who is taken for whom.

    One pair for each two identities, and more only where there are fewer such twos than `count`.
    """
    impostor = np.flatnonzero(~pairs.genuine)
    order = impostor[np.argsort(-pairs.scores[impostor], kind="stable")]
    one, other = labels_N[pairs.first[order]], labels_N[pairs.second[order]]
    who = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
    return order[_spread(who, count)]


def hardest_false_non_matches(pairs: Pairs, labels_N: npt.NDArray[np.int64], *, count: int) -> npt.NDArray[np.int64]:
    """Indices into `pairs` of genuine pairs with the lowest scores, spread over the identities in the same way."""
    genuine = np.flatnonzero(pairs.genuine)
    order = genuine[np.argsort(pairs.scores[genuine], kind="stable")]
    return order[_spread(labels_N[pairs.first[order]][:, None], count)]


def _spread(keys: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` positions, ascending: the first of each distinct row of keys, then the second of each, ..."""
    if not len(keys):
        return np.empty(0, dtype=np.int64)
    _, key = np.unique(keys, axis=0, return_inverse=True)
    by_key = np.argsort(key.ravel(), kind="stable")
    size = np.bincount(key.ravel())
    turn = np.empty(len(keys), dtype=np.int64)
    turn[by_key] = np.arange(len(keys)) - np.repeat(np.cumsum(size) - size, size)
    return np.sort(np.argsort(turn, kind="stable")[:count])
