"""A relation from several labels per row.

Legend: B anchor rows, M other rows, L labels, T and O rows of a tile, S rows of a piece of it,
E and F entries of lists.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from tercet.errors import InvalidInput
from tercet.functional.options import Relation
from tercet.relation.tables import CHUNK, Columns, Lists, check_matrix, check_sequences, meetings

__all__ = ["from_sets"]

Sets = Tensor | Sequence[Collection[Hashable]]


def from_sets(
    sets: Tensor | Sequence[Collection[Hashable]],
    *,
    others: Tensor | Sequence[Collection[Hashable]] | None = None,
    share: int = 1,
    jaccard: float = 0.0,
) -> Relation:
    """Several labels per row: positive with enough labels in common, negative with none, ignored in between.

    Enough is |A and B| >= `share` and |A and B| / |A or B| >= `jaccard`. A row without labels is negative only.

    Args:
        sets: a matrix [B, L] of 0 and 1 (bool or integers; dense or sparse), or per row a collection of names.
        others: [M, L], or a list of M collections, for the reference rows.
        share: how many labels positives have in common, at least 1.
        jaccard: which share of their labels positives have in common, 0 to 1.

    Cost: a dense matrix O(T O L) a tile; lists and sparse matrices as many operations as pairs of rows have labels in
    common. Memory: what was given, and one tile.

    Raises:
        InvalidInput: no matrix of 0 and 1; a matrix on one side and lists on the other; different widths; thresholds
            out of range.

    >>> import torch, tercet
    >>> rows = torch.arange(3)
    >>> tercet.relation.from_sets([{"red", "shoe"}, {"red", "shoe", "new"}, {"hat"}], share=2)(rows, rows)
    tensor([[ 1,  1, -1],
            [ 1,  1, -1],
            [-1, -1,  0]], dtype=torch.int8)
    """
    if isinstance(share, bool) or not isinstance(share, int) or share < 1:
        raise InvalidInput(f"share must be a whole number of at least 1, got {share!r}")
    if isinstance(jaccard, bool) or not isinstance(jaccard, (int, float)) or not 0 <= jaccard <= 1:
        raise InvalidInput(f"jaccard must lie in 0..1, got {jaccard!r}")
    if others is not None and isinstance(sets, Tensor) is not isinstance(others, Tensor):
        raise InvalidInput("others must be a matrix where sets is one, and a list of collections where sets is one")
    if isinstance(sets, Tensor):
        theirs = others if isinstance(others, Tensor) else sets
        check_matrix("sets", sets)
        check_matrix("others", theirs)
        if sets.shape[1] != theirs.shape[1]:
            raise InvalidInput(f"others has {theirs.shape[1]} labels, sets has {sets.shape[1]}")
        if sets.layout == theirs.layout == torch.strided:
            return partial(_by_members, _members("sets", sets), _members("others", theirs), share, jaccard)
        return partial(_by_lists, _entries("sets", sets), _entries("others", theirs), share, jaccard)
    codes: dict[Hashable, int] = {}
    a = _listed("sets", sets, codes)
    b = a if others is None or isinstance(others, Tensor) else _listed("others", others, codes)
    return partial(_by_lists, a, b, share, jaccard)


def _members(name: str, matrix: Tensor) -> Columns:
    _check_ones(name, matrix)
    return Columns(matrix.detach().to(torch.bool, copy=True))


def _entries(name: str, matrix: Tensor) -> Lists:
    """The ones of a matrix of any layout, row by row."""
    if matrix.layout == torch.strided:
        _check_ones(name, matrix)
        row_E, label_E = torch.nonzero(matrix.detach(), as_tuple=True)
        return Lists(row_E, label_E, rows=len(matrix))
    sparse: Tensor = matrix.detach().to_sparse_coo()  # type: ignore[no-untyped-call]
    sparse = sparse.coalesce()
    value_E = sparse.values()
    _check_ones(name, value_E)
    row_E, label_E = sparse.indices()[:, value_E != 0].unbind(0)
    return Lists(row_E, label_E, rows=len(matrix))


def _check_ones(name: str, values: Tensor) -> None:
    if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
        raise InvalidInput(f"{name} must hold 0 and 1 only: whether a row has a label")


def _listed(name: str, rows: Sequence[Collection[Hashable]], codes: dict[Hashable, int]) -> Lists:
    check_sequences(name, rows, "set")
    sets = [{codes.setdefault(value, len(codes)) for value in row} for row in rows]
    row_E = [i for i, row in enumerate(sets) for _ in row]
    value_E = [value for row in sets for value in row]
    return Lists(torch.tensor(row_E, dtype=torch.int64), torch.tensor(value_E, dtype=torch.int64), rows=len(sets))


def _by_members(
    mine: Columns, theirs: Columns, share: int, jaccard: float, anchor_rows: Tensor, other_rows: Tensor
) -> Tensor:
    a_TL = mine.at(anchor_rows).float()
    sign_TO = torch.empty(len(anchor_rows), len(other_rows), dtype=torch.int8, device=anchor_rows.device)
    step = max(1, CHUNK // max(1, a_TL.shape[1]))
    for start in range(0, len(other_rows), step):
        b_SL = theirs.at(other_rows[start : start + step]).float()
        common_TS = torch.mm(a_TL, b_SL.T)
        sign_TO[:, start : start + step] = _enough(common_TS, a_TL.sum(1), b_SL.sum(1), share, jaccard)
    return sign_TO


def _by_lists(
    mine: Lists, theirs: Lists, share: int, jaccard: float, anchor_rows: Tensor, other_rows: Tensor
) -> Tensor:
    a_E, a_key_E, a_size_T = mine.at(anchor_rows)
    b_F, b_key_F, b_size_O = theirs.at(other_rows)
    common_TO = torch.zeros(len(anchor_rows), len(other_rows), dtype=torch.float32, device=anchor_rows.device)
    for row, other in meetings(a_E, a_key_E, b_F, b_key_F):
        common_TO.index_put_((row, other), common_TO.new_ones(()), accumulate=True)
    return _enough(common_TO, a_size_T, b_size_O, share, jaccard)


def _enough(common_TO: Tensor, a_size_T: Tensor, b_size_O: Tensor, share: int, jaccard: float) -> Tensor:
    """Signs from the numbers of common labels and of labels."""
    positive_TO = common_TO >= share
    if jaccard > 0:
        either_TO = a_size_T.unsqueeze(1) + b_size_O - common_TO
        positive_TO &= common_TO / either_TO.clamp_(min=1) >= jaccard
    sign_TO = positive_TO.to(torch.int8) - (common_TO == 0).to(torch.int8)
    sign_TO[a_size_T == 0] = 0
    return sign_TO
