"""Relations from other relations: without the pairs of one group, or the first of several that knows.

Legend: B anchor rows, M other rows, T and O rows of a tile.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tercet.errors import InvalidInput
from tercet.functional.options import Relation, check_choice
from tercet.relation.tables import Columns, Names, coded

__all__ = ["first_known", "leave_out_groups"]


def leave_out_groups(relation: Relation, groups: Names, *, others: Names | None = None, what: str = "both") -> Relation:
    """Another relation with the pairs of one group ignored: the same recording, photo, page or session.

    Samples that were taken together are alike for reasons that have nothing to do with identity; as positives they
    teach those reasons, as negatives (two people in one photo) they may teach the opposite of them.

    Args:
        relation: what holds between rows of different groups.
        groups: [B] integers or names; below 0, or None among names, is in no group.
        others: [M], for the reference rows.
        what: which pairs inside a group are ignored: `"both"`, `"positive"` or `"negative"`.

    Cost: that of `relation`, and O(T O) a tile.

    Raises:
        InvalidOption: an unknown `what`.
        InvalidInput: as in `from_labels`; a relation that cannot be called.

    >>> import torch, tercet
    >>> labels, rows = tercet.relation.from_labels(torch.tensor([0, 0, 0, 1])), torch.arange(4)
    >>> tercet.relation.leave_out_groups(labels, ["mon", "mon", "tue", "tue"], what="positive")(rows[:1], rows)
    tensor([[ 0,  0,  1, -1]], dtype=torch.int8)
    """
    check_choice("what", what, ("both", "positive", "negative"))
    if not callable(relation):
        raise InvalidInput(f"relation must be callable, got {type(relation).__name__}")
    mine_B, theirs_M, _ = coded("groups", groups, others)
    return partial(_without_groups, relation, Columns(mine_B), Columns(theirs_M), what)


def _without_groups(
    relation: Relation, mine: Columns, theirs: Columns, what: str, anchor_rows: Tensor, other_rows: Tensor
) -> Tensor:
    a_T, b_O = mine.at(anchor_rows), theirs.at(other_rows)
    sign_TO = relation(anchor_rows, other_rows)
    out_TO = (a_T.unsqueeze(1) == b_O).logical_and_((a_T >= 0).unsqueeze(1))
    if what != "both":
        out_TO &= sign_TO > 0 if what == "positive" else sign_TO < 0
    return sign_TO.masked_fill(out_TO, 0)


def first_known(*relations: Relation) -> Relation:
    """Of several relations the first that says +1 or -1: reviewed pairs before labels, labels before guesses.

    Cost: that of all of them.

    Raises:
        InvalidInput: no relation, or one that cannot be called.

    >>> import torch, tercet
    >>> reviewed = tercet.relation.from_pairs(torch.tensor([[0, 2]]), torch.zeros(0, 2, dtype=torch.int64), rows=3)
    >>> labels, rows = tercet.relation.from_labels(torch.tensor([0, 0, 1])), torch.arange(3)
    >>> tercet.relation.first_known(reviewed, labels)(rows[:1], rows)
    tensor([[1, 1, 1]], dtype=torch.int8)
    """
    if not relations:
        raise InvalidInput("relations must be at least one")
    for relation in relations:
        if not callable(relation):
            raise InvalidInput(f"relations must be callable, got {type(relation).__name__}")
    return partial(_first_known, relations)


def _first_known(relations: tuple[Relation, ...], anchor_rows: Tensor, other_rows: Tensor) -> Tensor:
    sign_TO = relations[0](anchor_rows, other_rows)
    for relation in relations[1:]:
        sign_TO = torch.where(sign_TO == 0, relation(anchor_rows, other_rows), sign_TO)
    return sign_TO
