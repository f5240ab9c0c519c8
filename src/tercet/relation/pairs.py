"""A relation from pairs that are known, where nothing is known of all others.

Legend: B anchor rows, M other rows, P pairs, T and O rows of a tile, E entries of lists.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tercet.errors import InvalidInput
from tercet.functional.options import Relation
from tercet.relation.tables import Lists, check_rows, meetings

__all__ = ["from_pairs"]


def from_pairs(positive: Tensor, negative: Tensor, *, rows: int, others: int | None = None) -> Relation:
    """Known pairs and nothing else: listed positives, listed negatives, every other pair is ignored.

    Args:
        positive: [P, 2] integers, (row, row); with `others`, (anchor row, reference row).
        negative: likewise.
        rows: B.
        others: M, the number of reference rows. Without it the pairs have no direction: (i, j) says (j, i) as well.

    Cost: O(O log O + T O) a tile, O(P) memory.

    Raises:
        InvalidInput: no [P, 2]; a row that does not exist; a row paired with itself; a pair that is in both lists.

    >>> import torch, tercet
    >>> known = tercet.relation.from_pairs(torch.tensor([[0, 1]]), torch.tensor([[0, 2]]), rows=3)
    >>> known(torch.arange(3), torch.arange(3))
    tensor([[ 0,  1, -1],
            [ 1,  0,  0],
            [-1,  0,  0]], dtype=torch.int8)
    """
    for name, count in (("rows", rows), ("others", 0 if others is None else others)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidInput(f"{name} must be a whole number of at least 0, got {count!r}")
    width = rows if others is None else others
    keys = [
        _pair_keys(name, pairs, rows, width, same=others is None)
        for name, pairs in (("positive", positive), ("negative", negative))
    ]
    keys[1] = keys[1].to(keys[0].device)
    both = keys[0][torch.isin(keys[0], keys[1])]
    if len(both):
        i, j = divmod(int(both[0]), width)
        raise InvalidInput(f"negative: the pair ({i}, {j}) is listed as positive too")
    known, denied = (Lists(key // max(1, width), key % max(1, width), rows=rows) for key in keys)
    return partial(_by_pairs, known, denied, width)


def _pair_keys(name: str, pairs: Tensor, rows: int, width: int, *, same: bool) -> Tensor:
    """The pairs as row * width + other, each once and in order, checked; in both directions on the same rows."""
    whole = isinstance(pairs, Tensor) and not (pairs.is_floating_point() or pairs.is_complex())
    if not whole or pairs.dtype == torch.bool or pairs.ndim != 2 or pairs.shape[1] != 2:
        got = f"{pairs.dtype} {list(pairs.shape)}" if isinstance(pairs, Tensor) else type(pairs).__name__
        raise InvalidInput(f"{name} must be an integer tensor [pairs, 2], got {got}")
    i_P, j_P = pairs.detach().to(torch.int64).unbind(1)
    for side, index_P, count in (("first", i_P, rows), ("second", j_P, width)):
        if len(index_P) and not 0 <= int(index_P.min()) <= int(index_P.max()) < count:
            raise InvalidInput(f"{name}: the {side} rows must lie in 0..{count - 1}")
    if same and bool((i_P == j_P).any()):
        raise InvalidInput(f"{name}: row {int(i_P[i_P == j_P][0])} is paired with itself")
    keys_P = i_P * width + j_P
    once_P: Tensor = torch.unique(torch.cat((keys_P, j_P * width + i_P)) if same else keys_P)
    return once_P


def _by_pairs(positive: Lists, negative: Lists, width: int, anchor_rows: Tensor, other_rows: Tensor) -> Tensor:
    check_rows(other_rows, width)
    sign_TO = torch.zeros(len(anchor_rows), len(other_rows), dtype=torch.int8, device=anchor_rows.device)
    places_O = torch.arange(len(other_rows), device=other_rows.device)
    for lists, sign in ((positive, 1), (negative, -1)):
        row_E, partner_E, _ = lists.at(anchor_rows)
        for row, other in meetings(row_E, partner_E, places_O, other_rows):
            sign_TO[row, other] = sign
    return sign_TO
