"""Genuine and impostor pairs of a set of embeddings, scored without an N x N matrix.

Legend: N rows; D embedding width; P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.similarity import checked_labels, checked_vectors, row_similarity, tile_similarity, unit_rows

__all__ = ["Pairs", "all_pairs"]

_GATHERED_VALUES = 2**21  # float64 values gathered at a time for sampled pairs: 16 MiB a side


@final
@dataclass(frozen=True)
class Pairs:
    """Scored pairs: `scores` [P] (larger: more alike), `genuine` [P] bool, and the rows `first` and `second` [P]."""

    scores: npt.NDArray[np.floating]
    genuine: npt.NDArray[np.bool_]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def all_pairs(
    x_ND: npt.ArrayLike, labels_N: npt.ArrayLike, *, max_pairs: int = 5_000_000, seed: int = 0, tile: int = 1024
) -> Pairs:
    """Every pair i < j with its cosine similarity, or a seeded sample of at most `max_pairs` of them.

    A pair is genuine where both labels are equal. Two rows with a negative label (distractors: nobody knows whose) make
    no pair; one such row makes an impostor pair with every labelled row.

    Up to `max_pairs` all pairs come, in the order of (i, j). Above, genuine pairs are kept whole as long as they fit
    into half of `max_pairs` or leave room for all impostors; what is too many of a kind is sampled uniformly without
    replacement. The sample follows `seed` and the order of the rows; within each kind it is unbiased, so FMR and FNMR
    are too.

    Cost: O(P D) time; memory for the result, the rows as float64 and one tile x tile block. Raises InvalidInput.

    >>> pairs = all_pairs([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [5, 5, 7])
    >>> pairs.scores.tolist(), pairs.genuine.tolist()
    ([1.0, 0.0, 0.0], [True, False, False])
    """
    x = checked_vectors(x_ND, "x_ND")
    labels = checked_labels(labels_N, len(x), "labels_N")
    if max_pairs < 2 or tile < 1:
        raise InvalidInput(f"max_pairs, tile: expected at least 2 and 1, got {max_pairs} and {tile}")
    unit = unit_rows(x)
    index = _PairIndex.of(labels)
    if index.genuine + index.impostor <= max_pairs:
        return _every_pair(unit, labels, index.genuine + index.impostor, tile)
    keep_genuine = min(index.genuine, max(max_pairs // 2, max_pairs - index.impostor))
    keep_impostor = min(index.impostor, max_pairs - keep_genuine)
    rng = np.random.default_rng(seed)
    g_first, g_second = index.genuine_pair(_ranks(index.genuine, keep_genuine, rng))
    i_first, i_second = index.impostor_pair(_ranks(index.impostor, keep_impostor, rng))
    one, other = np.concatenate([g_first, i_first]), np.concatenate([g_second, i_second])
    first, second = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    scores = np.empty(len(first), dtype=np.float32)
    step = max(1, _GATHERED_VALUES // max(1, x.shape[1]))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        scores[part] = row_similarity(unit[first[part]], unit[second[part]])
    return Pairs(scores, labels[first] == labels[second], first, second)


def _every_pair(x_ND: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], count: int, tile: int) -> Pairs:
    pairs = Pairs(
        np.empty(count, np.float32), np.empty(count, np.bool_), np.empty(count, np.int64), np.empty(count, np.int64)
    )
    at = 0
    for start in range(0, len(x_ND), tile):
        rows = np.arange(start, min(start + tile, len(x_ND)))
        blocks = []
        for other in range(start, len(x_ND), tile):
            columns = np.arange(other, min(other + tile, len(x_ND)))
            wanted = (rows[:, None] < columns) & ((labels[rows, None] >= 0) | (labels[columns] >= 0))
            i, j = np.nonzero(wanted)
            blocks.append((tile_similarity(x_ND[rows], x_ND[columns])[i, j], rows[i], columns[j]))
        scores, first, second = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        order = np.lexsort((second, first))
        part = slice(at, at + len(order))
        pairs.scores[part], pairs.first[part], pairs.second[part] = scores[order], first[order], second[order]
        pairs.genuine[part] = labels[pairs.first[part]] == labels[pairs.second[part]]
        at += len(order)
    return pairs


@final
@dataclass(frozen=True)
class _PairIndex:
    """A numbering of the genuine pairs and one of the impostor pairs, from which any pair is found by its number.

    Rows stand sorted by label, distractors last. A row's genuine partners are the later rows of its own block, its
    impostor partners all rows of later blocks, so that cumulated partner counts number the pairs.
    """

    rows: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]  # where the block of each position ends
    genuine_before: npt.NDArray[np.int64]
    impostor_before: npt.NDArray[np.int64]
    genuine: int
    impostor: int

    @classmethod
    def of(cls, labels: npt.NDArray[np.int64]) -> _PairIndex:
        block = np.where(labels < 0, np.iinfo(np.int64).max, labels)
        rows = np.argsort(block, kind="stable")
        block = block[rows]
        end = np.searchsorted(block, block, side="right")
        same = np.where(labels[rows] < 0, 0, end - np.arange(len(rows)) - 1)
        different = len(rows) - end
        genuine, impostor = int(same.sum()), int(different.sum())
        return cls(rows, end, np.cumsum(same) - same, np.cumsum(different) - different, genuine, impostor)

    def genuine_pair(self, rank: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        at = np.searchsorted(self.genuine_before, rank, side="right") - 1
        return self.rows[at], self.rows[at + 1 + rank - self.genuine_before[at]]

    def impostor_pair(self, rank: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        at = np.searchsorted(self.impostor_before, rank, side="right") - 1
        return self.rows[at], self.rows[self.end[at] + rank - self.impostor_before[at]]


def _ranks(population: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`size` of the numbers below `population`, uniformly without replacement, in O(size) memory."""
    if size == population:
        return np.arange(population)
    if population <= 4 * size:
        return rng.permutation(population)[:size]
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < size:
        drawn = np.sort(np.concatenate([drawn, rng.integers(population, size=size + size // 4)]))
        drawn = drawn[np.append(True, drawn[1:] != drawn[:-1])]
    return rng.permutation(drawn)[:size]
