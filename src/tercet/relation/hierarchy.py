"""A relation from classes in a tree: who shares how many levels.

Legend: B anchor rows, M other rows, H levels, T and O rows of a tile.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from tercet.errors import InvalidInput
from tercet.functional.options import Relation
from tercet.relation.tables import Columns, check_matrix, check_sequences

__all__ = ["from_hierarchy"]

Paths = Tensor | Sequence[Sequence[Hashable]]


def from_hierarchy(
    paths: Tensor | Sequence[Sequence[Hashable]],
    *,
    others: Tensor | Sequence[Sequence[Hashable]] | None = None,
    positive_from: int | None = None,
    ignore_from: int | None = None,
) -> Relation:
    """Rows in a tree of classes: positive from one shared level on, negative below another, ignored in between.

    Two rows share as many levels as their paths agree from the top. They are positive when they share at least
    `positive_from`, negative when they share fewer than `ignore_from`, else ignored. A path may end early, because what
    follows is not known; what the known levels leave open is ignored. A row with no known level is ignored altogether.

    Args:
        paths: [B, H] integers from the top level down, or B sequences of at most H names. A number below 0, or None,
            is unknown, and so is everything after it.
        others: [M, H], or M sequences, for the reference rows.
        positive_from: 1 to H; by default H, the same leaf.
        ignore_from: 1 to `positive_from`; by default one level above, so that siblings (same parent, another leaf) are
            ignored. With `ignore_from=positive_from` nothing is.

    Cost: O(T O) a tile, times `ignore_from` where paths end early; O((B + M) H) memory.

    Raises:
        InvalidInput: no matrix of integers and no sequences; different numbers of levels; levels out of range.

    >>> import torch, tercet
    >>> paths = [("animal", "dog", "poodle"), ("animal", "dog", "beagle"), ("animal", "cat", "manx")]
    >>> tercet.relation.from_hierarchy(paths)(torch.arange(3), torch.arange(3))
    tensor([[ 1,  0, -1],
            [ 0,  1, -1],
            [-1, -1,  1]], dtype=torch.int8)
    """
    if others is not None and isinstance(paths, Tensor) != isinstance(others, Tensor):
        raise InvalidInput("others must be a matrix where paths is one, and a list of sequences where paths is one")
    if isinstance(paths, Tensor):
        mine_BH = _known("paths", paths)
        theirs_MH = _known("others", others) if isinstance(others, Tensor) else mine_BH
        if mine_BH.shape[1] != theirs_MH.shape[1]:
            raise InvalidInput(f"others has {theirs_MH.shape[1]} levels, paths has {mine_BH.shape[1]}")
    else:
        check_sequences("paths", paths, "sequence")
        if others is not None:
            check_sequences("others", others, "sequence")
        both = [*paths, *(paths if others is None else others)]
        numbers = _numbered(both)
        mine_BH, theirs_MH = numbers[: len(paths)], numbers[len(paths) :]
    levels = mine_BH.shape[1]
    if levels == 0:
        raise InvalidInput("paths must have at least one level")
    positive_from = levels if positive_from is None else positive_from
    if isinstance(positive_from, bool) or not isinstance(positive_from, int) or not 1 <= positive_from <= levels:
        raise InvalidInput(f"positive_from must lie in 1..{levels}, the levels of paths, got {positive_from!r}")
    ignore_from = max(1, positive_from - 1) if ignore_from is None else ignore_from
    if isinstance(ignore_from, bool) or not isinstance(ignore_from, int) or not 1 <= ignore_from <= positive_from:
        raise InvalidInput(f"ignore_from must lie in 1..{positive_from}, up to positive_from, got {ignore_from!r}")
    prefix = _prefixes(torch.cat((mine_BH, theirs_MH.to(mine_BH.device)))[:, :positive_from])
    open_ended = bool((prefix[:, ignore_from - 1] < 0).any())
    told_apart = range(0 if open_ended else ignore_from - 1, ignore_from)
    mine, theirs = Columns(prefix[: len(mine_BH)]), Columns(prefix[len(mine_BH) :])
    return partial(_by_paths, mine, theirs, positive_from - 1, told_apart)


def _known(name: str, paths: Tensor) -> Tensor:
    check_matrix(name, paths)
    return paths.detach().to(torch.int64, copy=True)


def _numbered(paths: Sequence[Sequence[Hashable]]) -> Tensor:
    """Names as numbers, short paths filled up with -1."""
    codes: dict[Hashable, int] = {}
    levels = max((len(path) for path in paths), default=0)
    numbers = torch.full((len(paths), levels), -1)
    for i, path in enumerate(paths):
        for level, value in enumerate(path):
            if value is not None and not (isinstance(value, int) and value < 0):
                numbers[i, level] = codes.setdefault(value, len(codes))
    return numbers


def _prefixes(numbers_RH: Tensor) -> Tensor:
    """Per row and level one number for the path down to there; -1 from the first unknown level on."""
    prefix_RH = torch.full_like(numbers_RH, -1)
    above_R = torch.zeros_like(numbers_RH[:, 0])
    for level, number_R in enumerate(numbers_RH.unbind(1)):
        known_R = (above_R >= 0) & (number_R >= 0)
        _, place_R = torch.unique(torch.stack((above_R, number_R), 1), dim=0, return_inverse=True)
        above_R = torch.where(known_R, place_R, -1)
        prefix_RH[:, level] = above_R
    return prefix_RH


def _by_paths(
    mine: Columns, theirs: Columns, positive: int, told_apart: range, anchor_rows: Tensor, other_rows: Tensor
) -> Tensor:
    a_TH, b_OH = mine.at(anchor_rows), theirs.at(other_rows)
    a_T, b_O = a_TH[:, positive], b_OH[:, positive]
    sign_TO = ((a_T.unsqueeze(1) == b_O) & (a_T >= 0).unsqueeze(1)).to(torch.int8)
    for level in told_apart:
        a_T, b_O = a_TH[:, level], b_OH[:, level]
        differ_TO = (a_T.unsqueeze(1) != b_O).logical_and_((a_T >= 0).unsqueeze(1)).logical_and_(b_O >= 0)
        sign_TO.masked_fill_(differ_TO, -1)
    return sign_TO
