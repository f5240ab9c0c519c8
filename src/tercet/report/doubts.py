"""Samples whose label may be wrong: the model sees somebody else in them, or nobody.

Legend: N scored rows, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.evaluate import RetrievalPerQuery, cosine

__all__ = ["Doubt", "doubtful_labels"]

_NEIGHBOURS = 5
_FEWEST = 3  # neighbours that must agree, for identities of no more samples


@final
@dataclass(frozen=True, slots=True)
class Doubt:
    """A row whose label may be wrong.

    Args:
        row: Which.
        suggested: The label that its nearest neighbours share; None where it is merely far from its own.
        neighbour: The nearest row of the suggested label, or the nearest of its own.
        own: Cosine similarity to the nearest row of its own label.
        other: To the nearest row of the suggested label; None without one.
        agreeing: How many nearest neighbours agree.
    """

    row: int
    suggested: int | None
    neighbour: int
    own: float
    other: float | None
    agreeing: int


def doubtful_labels(
    vectors_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    per_query: RetrievalPerQuery,
    *,
    stranger: float,
    count: int = 8,
) -> tuple[tuple[Doubt, ...], int]:
    """At most `count` rows of either reason, the clearest first, and how many there are in all.

    A row is doubtful where its five nearest neighbours (three or four, where that identity has no more) are all of one
    other identity; then that one is suggested, and the lead over its own nearest sample is how clear it is. Or where
    even the nearest sample of its own identity is less alike than `stranger`, a similarity usual between identities.
    Rows alone of their identity are never doubtful: nothing says what they should be like.
    """
    size = np.bincount(labels_N)
    swapped: list[tuple[float, Doubt]] = []
    far: list[tuple[float, Doubt]] = []
    by_label = np.argsort(labels_N, kind="stable")
    start = np.searchsorted(labels_N[by_label], np.arange(len(size) + 1))
    for row in np.flatnonzero(per_query.included):
        label = int(labels_N[row])
        own = by_label[start[label] : start[label + 1]]
        own = own[own != row]
        alike = cosine(np.broadcast_to(vectors_ND[row], (len(own), vectors_ND.shape[1])), vectors_ND[own])
        best = int(np.argmax(alike))
        nearest = per_query.nearest[row]
        suggested = int(labels_N[nearest[0]])
        needed = min(_NEIGHBOURS, int(size[suggested]))
        agreed = labels_N[nearest[:needed]] == suggested
        if suggested != label and needed >= _FEWEST and nearest[needed - 1] >= 0 and bool(agreed.all()):
            other = float(per_query.scores[row, 0])
            doubt = Doubt(int(row), suggested, int(nearest[0]), float(alike[best]), other, needed)
            swapped.append((float(per_query.scores[row, :needed].mean()) - float(alike[best]), doubt))
        elif alike[best] < stranger:
            far.append((-float(alike[best]), Doubt(int(row), None, int(own[best]), float(alike[best]), None, 0)))
    swapped.sort(key=lambda pair: (-pair[0], pair[1].row))
    far.sort(key=lambda pair: (-pair[0], pair[1].row))
    shown = (*(doubt for _, doubt in swapped[:count]), *(doubt for _, doubt in far[:count]))
    return shown, len(swapped) + len(far)
