"""What the functions of this package accept: option values, shapes, dtypes, ranges; one clear error for the rest.

Legend: B rows of the batch, M reference rows, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.errors import InvalidInput, InvalidOption
from tercet.functional.distances import compiled_lines

__all__ = [
    "DISTANCES",
    "MINING",
    "REDUCTIONS",
    "Margin",
    "Relation",
    "RelationTable",
    "check_choice",
    "check_embeddings",
    "check_labels",
    "check_margin",
    "check_relation_table",
    "working_dtype",
]

DISTANCES = ("squared", "euclidean", "cosine")
MINING = ("all", "hard", "semihard", "hard_negative", "easy_positive", "distance_weighted", "random")
REDUCTIONS = ("mean", "active", "anchor", "sum", "none")

Margin = float | str | Tensor
Relation = Callable[[Tensor, Tensor], Tensor]


def check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `InvalidOption` unless `value` is one of `allowed`."""
    if not (isinstance(value, str) and value in allowed):
        raise InvalidOption.unknown(option, value, allowed)


def check_embeddings(name: str, x_BD: Tensor, distance: str = "cosine") -> None:
    """Raise `InvalidInput` unless `x_BD` is a finite floating-point matrix whose distances are finite too."""
    if not isinstance(x_BD, Tensor):
        raise InvalidInput(f"{name} must be a torch tensor [rows, width], got {type(x_BD).__name__}")
    if x_BD.ndim != 2:
        raise InvalidInput(f"{name} must be a matrix [rows, width], got shape {list(x_BD.shape)}")
    if x_BD.shape[1] == 0:
        raise InvalidInput(f"{name} must have at least one column, got shape {list(x_BD.shape)}")
    if not x_BD.is_floating_point():
        raise InvalidInput(f"{name} must be floating point, got {x_BD.dtype}")
    if x_BD.numel() == 0:
        return
    low, high = torch.aminmax(x_BD.detach())  # one pass that makes no [B, D]; NaN comes through
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        raise InvalidInput(f"{name} must be finite, found NaN or infinity")
    limit = math.sqrt(torch.finfo(working_dtype(x_BD)).max / (8 * x_BD.shape[1]))
    if distance != "cosine" and largest > limit:
        raise InvalidInput(f"{name} must stay below {limit:.2g}, or squared distances overflow; found {largest:.2g}")


def check_labels(name: str, labels: Tensor, rows: int, like: Tensor) -> Tensor:
    """Labels as int64 [rows], checked."""
    if not isinstance(labels, Tensor):
        raise InvalidInput(f"{name} must be an integer tensor [{rows}], got {type(labels).__name__}")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InvalidInput(f"{name} must be integers, got {labels.dtype}")
    if labels.shape != (rows,):
        raise InvalidInput(f"{name} must have shape [{rows}], one label per row, got {list(labels.shape)}")
    if labels.device != like.device:
        raise InvalidInput(f"{name} is on {labels.device}, the embeddings are on {like.device}")
    if labels.dtype == torch.uint64 and bool((labels.to(torch.int64) < 0).any()):
        raise InvalidInput(f"{name} must be below 2^63")
    # A copy: a label buffer that is used again before backward must not change what has been summed.
    return labels.to(torch.int64, copy=True)


def check_margin(margin: Margin, rows: int, like: Tensor) -> Tensor | float | None:
    """The margin as a float, as a tensor [rows] in the dtype of `like`, or None for `"soft"`."""
    if isinstance(margin, str):
        if margin != "soft":
            raise InvalidOption.unknown("margin", margin, ("soft", "a number >= 0", "a tensor [B]"))
        return None
    if isinstance(margin, Tensor) and margin.ndim > 0:
        if margin.shape != (rows,):
            raise InvalidInput(f"margin must be one number or have shape [{rows}], got {list(margin.shape)}")
        if not margin.is_floating_point():
            raise InvalidInput(f"margin must be floating point, got {margin.dtype}")
        if margin.device != like.device:
            raise InvalidInput(f"margin is on {margin.device}, the embeddings are on {like.device}")
        if not bool((torch.isfinite(margin) & (margin >= 0)).all()):
            raise InvalidInput("margin must be finite and at least 0 in every row")
        return margin.detach().to(like.dtype, copy=True)
    if isinstance(margin, bool) or not isinstance(margin, (int, float, Tensor)):
        raise InvalidInput(f'margin must be a number, "soft" or a tensor [B], got {type(margin).__name__}')
    try:
        value = float(margin)
    except (OverflowError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"margin must be a finite number >= 0 ({error})") from error
    if not 0 <= value <= torch.finfo(like.dtype).max:
        raise InvalidInput(f"margin must be finite and at least 0, got {value}")
    return value


def working_dtype(x_BD: Tensor) -> torch.dtype:
    """float64 stays; everything else is computed in float32."""
    return torch.float64 if x_BD.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class RelationTable:
    """Who is positive and who is negative to whom, read a tile of rows at a time; never [B, M] as a whole.

    `self_rows_B` holds, per anchor, the column where the anchor itself stands (-1: nowhere).
    """

    labels_B: Tensor | None
    other_labels_M: Tensor | None
    relation: Relation | None
    self_rows_B: Tensor
    others: int

    def tile(self, rows: slice) -> tuple[Tensor, Tensor]:
        """(positive, negative) as bool [T, M]; rows that are not anchors have no positive and no negative."""
        self_T = self.self_rows_B[rows]
        if self.relation is not None:
            anchor_rows = torch.arange(rows.start, rows.stop, device=self_T.device)
            sign_TM = self._call(anchor_rows)
            positive_TM, negative_TM = sign_TM > 0, sign_TM < 0
            here = torch.nonzero(self_T >= 0).squeeze(1)
            positive_TM[here, self_T[here]] = False
            negative_TM[here, self_T[here]] = False
        else:
            assert self.labels_B is not None and self.other_labels_M is not None
            passes = compiled_lines(self_T)
            if passes is not None:
                masks = self_T.new_empty(2, len(self_T), self.others, dtype=torch.bool)
                given = (self.labels_B[rows], self.other_labels_M, self_T, masks[0], masks[1])
                passes.run(passes.label_masks, len(self_T), masks[0].numel(), *given)
                return masks[0], masks[1]
            mine_T1 = self.labels_B[rows].unsqueeze(1)
            positive_TM = mine_T1 == self.other_labels_M
            negative_TM = ~positive_TM
            here = torch.nonzero(self_T >= 0).squeeze(1)
            positive_TM[here, self_T[here]] = False
            # With anchor_rows the labels of one item may disagree on the two sides; it is still not its own negative.
            negative_TM[here, self_T[here]] = False
            anchor_T1 = mine_T1 >= 0
            positive_TM &= anchor_T1
            negative_TM &= anchor_T1
        anchor_T1 = positive_TM.any(1, keepdim=True) & negative_TM.any(1, keepdim=True)
        return positive_TM & anchor_T1, negative_TM & anchor_T1

    def _call(self, anchor_rows: Tensor) -> Tensor:
        assert self.relation is not None
        other_rows = torch.arange(self.others, device=anchor_rows.device)
        sign_TM = self.relation(anchor_rows, other_rows)
        wanted = (len(anchor_rows), self.others)
        if not isinstance(sign_TM, Tensor) or sign_TM.shape != wanted or sign_TM.dtype != torch.int8:
            got = f"{sign_TM.dtype} {list(sign_TM.shape)}" if isinstance(sign_TM, Tensor) else type(sign_TM).__name__
            raise InvalidInput(f"relation must return an int8 tensor {list(wanted)}, got {got}")
        return sign_TM


def check_relation_table(
    x_BD: Tensor,
    labels: Tensor | None,
    reference: Tensor | None,
    reference_labels: Tensor | None,
    anchor_rows: Tensor | None,
    relation: Relation | None,
) -> RelationTable:
    """Check everything that says who is who, and bring it into one form."""
    rows = x_BD.shape[0]
    if reference is None:
        if reference_labels is not None:
            raise InvalidInput("reference_labels was given without reference")
        if anchor_rows is not None:
            raise InvalidInput("anchor_rows was given without reference")
        others = rows
        self_rows_B = torch.arange(rows, device=x_BD.device)
    else:
        check_embeddings("reference", reference)
        if reference.shape[1] != x_BD.shape[1]:
            raise InvalidInput(f"reference has width {reference.shape[1]}, embeddings have width {x_BD.shape[1]}")
        if reference.device != x_BD.device:
            raise InvalidInput(f"reference is on {reference.device}, embeddings are on {x_BD.device}")
        others = reference.shape[0]
        self_rows_B = torch.full((rows,), -1, device=x_BD.device)
        if anchor_rows is not None:
            self_rows_B = check_labels("anchor_rows", anchor_rows, rows, x_BD)
            if rows and not bool(((self_rows_B >= -1) & (self_rows_B < others)).all()):
                raise InvalidInput(f"anchor_rows must lie in -1..{others - 1}, the rows of reference")
    if relation is not None:
        if not callable(relation):
            raise InvalidInput(f"relation must be callable, got {type(relation).__name__}")
        return RelationTable(None, None, relation, self_rows_B, others)
    if labels is None:
        raise InvalidInput("labels may be None only when relation is given")
    labels_B = check_labels("labels", labels, rows, x_BD)
    if reference is None:
        return RelationTable(labels_B, labels_B, None, self_rows_B, others)
    if reference_labels is None:
        raise InvalidInput("reference was given without reference_labels")
    other_labels_M = check_labels("reference_labels", reference_labels, others, x_BD)
    return RelationTable(labels_B, other_labels_M, None, self_rows_B, others)
