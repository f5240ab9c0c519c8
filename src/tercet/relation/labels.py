"""A relation from one label per row.

Legend: B anchor rows, M other rows, T and O rows of a tile.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import torch
from torch import Tensor

from tercet.errors import InvalidInput
from tercet.functional.options import Relation
from tercet.relation.tables import Columns, Names, coded

__all__ = ["from_labels"]


def from_labels(labels: Names, *, others: Names | None = None, unlabelled: Hashable | None = None) -> Relation:
    """Equal labels are positive, different ones negative: what the losses do with `labels` themselves.

    Args:
        labels: [B] integers, or names of any hashable kind. A label below 0, or None among names, is negative only:
            nobody's positive and no anchor.
        others: [M] of the same kind, for the reference rows.
        unlabelled: the label of rows of which nothing is known: they are neither positive nor negative to anyone.

    Cost: O(T O) a tile, O(B + M) memory.

    Raises:
        InvalidInput: no list or vector; floating labels; integers on one side and names on the other.

    >>> import torch, tercet
    >>> rows = torch.arange(4)
    >>> tercet.relation.from_labels(torch.tensor([0, 0, 1, -1]))(rows[:2], rows)
    tensor([[ 1,  1, -1, -1],
            [ 1,  1, -1, -1]], dtype=torch.int8)
    """
    mine_B, theirs_M, code = coded("labels", labels, others)
    unknown = None
    if unlabelled is not None and code is not None:
        unknown = code.get(unlabelled)
    elif isinstance(unlabelled, int) and not isinstance(unlabelled, bool):
        unknown = unlabelled
    elif unlabelled is not None and len(mine_B) + len(theirs_M):
        raise InvalidInput(f"unlabelled must be an integer, as the labels are, got {unlabelled!r}")
    return partial(_by_labels, Columns(mine_B), Columns(theirs_M), unknown)


def _by_labels(mine: Columns, theirs: Columns, unknown: int | None, anchor_rows: Tensor, other_rows: Tensor) -> Tensor:
    a_T, b_O = mine.at(anchor_rows), theirs.at(other_rows)
    sign_TO = (a_T.unsqueeze(1) == b_O).to(torch.int8).mul_(2).sub_(1)
    sign_TO[a_T < 0] = 0
    if unknown is not None:
        sign_TO[a_T == unknown] = 0
        sign_TO[:, b_O == unknown] = 0
    return sign_TO
