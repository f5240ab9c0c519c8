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
    # The turn of a row: 0 for the first drawn of its identity, 1 for the second, ...
    turns = np.empty(len(order), dtype=np.int64)
    seen: dict[int, int] = {}
    for i, row in enumerate(order):
        label = int(labels_N[row])
        turns[i] = seen.get(label, 0)
        seen[label] = int(turns[i]) + 1
    shown = order[np.argsort(turns, kind="stable")][:count]
    return shown[np.argsort(labels_N[shown], kind="stable")]


def hardest_false_matches(pairs: Pairs, labels_N: npt.NDArray[np.int64], *, count: int) -> npt.NDArray[np.int64]:
    """Indices into `pairs` of the impostor pairs with the highest scores, at most one for each two identities."""
    impostor = np.flatnonzero(~pairs.genuine)
    order = impostor[np.argsort(-pairs.scores[impostor], kind="stable")]
    one, other = labels_N[pairs.first[order]], labels_N[pairs.second[order]]
    who = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
    return order[_first_of_each(who)][:count]


def hardest_false_non_matches(pairs: Pairs, labels_N: npt.NDArray[np.int64], *, count: int) -> npt.NDArray[np.int64]:
    """Indices into `pairs` of the genuine pairs with the lowest scores, at most one for each identity."""
    genuine = np.flatnonzero(pairs.genuine)
    order = genuine[np.argsort(pairs.scores[genuine], kind="stable")]
    return order[_first_of_each(labels_N[pairs.first[order]][:, None])][:count]


def _first_of_each(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of the first occurrence of each distinct row, in order of position."""
    return np.sort(np.unique(keys, axis=0, return_index=True)[1]) if len(keys) else np.empty(0, dtype=np.int64)
