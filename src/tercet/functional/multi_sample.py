"""Formula 2: mean distance to the positives against mean distance to the negatives, per anchor.

For the squared distance no pair is ever formed: the mean of |a - y|^2 over a set is |a|^2 - 2 a.mean(y) + mean(|y|^2),
so class sums are enough, O((B + M) D). The cosine distance is the same with unit rows. The euclidean distance has no
such form and goes tile by tile, O(B M D).

Legend: B rows of the batch, M reference rows, D embedding width, C classes, T rows of a tile.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tercet.functional._compile import outside_graph
from tercet.functional._once import once
from tercet.functional._threads import on_one_core
from tercet.functional._tiles import Backward, Problem, loss_and_slope, tiles
from tercet.functional.distances import Geometry
from tercet.functional.options import REDUCTIONS, Margin, RelationTable, check_choice, working_dtype
from tercet.functional.triplets import check_problem

__all__ = ["multi_sample_triplet_loss"]

_EPSILON = torch.finfo(torch.float64).eps


@outside_graph
def multi_sample_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    reduction: str = "mean",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Formula 2: mean over anchors of max(0, mean distance to positives - mean distance to negatives + margin).

    All positives and all negatives of an anchor count, each set by its mean; anchors are rows with both. A label < 0
    marks a row that is negative only.

    Args:
        embeddings: [B, D], floating point. float16 and bfloat16 are computed in float32.
        labels: [B], any integer dtype.
        margin: in units of `distance`: a number >= 0, a tensor [B], or `"soft"` for log(1 + exp(difference)).
        distance: `"squared"`, `"euclidean"` or `"cosine"`, as in `batch_triplet_loss`.
        reduction: `"mean"` over anchors (`"anchor"` is the same), `"active"` over anchors with loss > 0, `"sum"`,
            `"none"` ([B]).
        reference: [M, D] rows from which positives and negatives come instead; no row of it is left out as the anchor.
        reference_labels: [M].

    Returns:
        A scalar, or [B]; 0 with gradient 0 where there is no anchor. Time and memory O((B + M) D) for squared and
        cosine, time O(B M D) for euclidean.

    Raises:
        InvalidOption: an unknown option.
        InvalidInput: wrong shape, dtype, device, or values out of range.

    >>> import torch, tercet.functional as TF
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> TF.multi_sample_triplet_loss(x, torch.tensor([0, 0, 1, 1]), margin=2.0)  # of 0, 1.5 and 1.5 and 0 at the ends
    tensor(0.2500)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    problem = check_problem(embeddings, labels, margin, distance, "all", reference, reference_labels)
    dtype = working_dtype(embeddings)
    x_BD = embeddings.to(dtype)
    y_MD = None if reference is None else reference.to(dtype)
    loss_B, anchor_B = _MultiSample.apply(x_BD, y_MD, problem)  # type: ignore[no-untyped-call]
    if reduction == "none":
        result: Tensor = loss_B
        return result
    active_B = anchor_B if problem.margin is None else loss_B > 0
    count = {"sum": 1, "active": int(active_B.sum())}.get(reduction, int(anchor_B.sum()))
    result = loss_B.sum() / max(count, 1)
    return result


class _MultiSample(torch.autograd.Function):
    """Losses [B] (0 where a row is no anchor) and which rows are anchors."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, y_MD: Tensor | None, problem: Problem) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_BD.device.type, enabled=False), on_one_core(x_BD, y_MD):
            if problem.distance == "euclidean":
                gap_B, anchor_B = _gap_by_tiles(Geometry(x_BD, y_MD, problem.distance), problem)
            else:
                ctx.sums = _ClassSums.of(_exact_geometry(x_BD, y_MD, problem), problem.relation)
                gap_B, anchor_B, rounding_B = ctx.sums.gap()
                if problem.margin is not None:  # what cannot be told from the hinge point is the hinge point
                    tied_B = (gap_B + problem.margin).abs() <= rounding_B
                    gap_B = torch.where(tied_B, -problem.margin, gap_B)
                gap_B = gap_B.to(x_BD.dtype)
            margin = problem.margin
            loss_B, slope_B = loss_and_slope(gap_B if margin is None else gap_B + margin, margin is None)
            loss_B, slope_B = loss_B.masked_fill(~anchor_B, 0), slope_B.masked_fill(~anchor_B, 0)
        ctx.save_for_backward(x_BD, y_MD, slope_B)
        ctx.problem = problem
        ctx.mark_non_differentiable(anchor_B)
        return loss_B, anchor_B

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, y_MD, slope_B = ctx.saved_tensors
        off = torch.autocast(x_BD.device.type, enabled=False)
        with torch.no_grad(), off, on_one_core(x_BD, y_MD):
            weight_B = upstream[0] * slope_B
            if ctx.problem.distance == "euclidean":
                dx_BD, dy_MD = _back_by_tiles(Geometry(x_BD, y_MD, ctx.problem.distance), ctx.problem, weight_B)
            else:
                dx_BD, dy_MD = ctx.sums.back(weight_B.to(torch.float64))
                dx_BD, dy_MD = dx_BD.to(x_BD.dtype), None if dy_MD is None else dy_MD.to(x_BD.dtype)
        return once(dx_BD, x_BD, upstream[0]), None if dy_MD is None else once(dy_MD, y_MD, upstream[0]), None


def _exact_geometry(x_BD: Tensor, y_MD: Tensor | None, problem: Problem) -> Geometry:
    """In float64: sums over a class cancel where its rows lie close together, and O(B D) costs little."""
    y_MD = None if y_MD is None else y_MD.to(torch.float64)
    return Geometry(x_BD.to(torch.float64), y_MD, problem.distance)


@dataclass(frozen=True)
class _ClassSums:
    """How many others each class has, and their sums of rows and of squares; the last class gathers labels < 0."""

    geometry: Geometry
    class_B: Tensor
    class_M: Tensor
    count_C: Tensor
    row_CD: Tensor
    square_C: Tensor

    @classmethod
    def of(cls, geometry: Geometry, relation: RelationTable) -> _ClassSums:
        assert relation.labels_B is not None and relation.other_labels_M is not None
        labels_BM = relation.labels_B
        if not geometry.same:
            labels_BM = torch.cat([relation.labels_B, relation.other_labels_M])
        known, class_BM = torch.unique(labels_BM, return_inverse=True)
        class_BM = torch.where(labels_BM < 0, len(known), class_BM)
        class_B, class_M = class_BM[: len(relation.labels_B)], class_BM[len(class_BM) - len(geometry.y_MD) :]
        y_MD = geometry.y_MD
        zeros_C = y_MD.new_zeros(len(known) + 1)
        return cls(
            geometry,
            class_B,
            class_M,
            zeros_C.index_add(0, class_M, torch.ones_like(geometry.y_square_M)),
            y_MD.new_zeros(len(zeros_C), y_MD.shape[1]).index_add_(0, class_M, y_MD),
            zeros_C.index_add(0, class_M, geometry.y_square_M),
        )

    @functools.cached_property
    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """(positives, negatives, is anchor) of each row [B]; the counts at least 1, to divide by."""
        itself = 1 if self.geometry.same else 0
        positive_B = self.count_C[self.class_B] - itself
        negative_B = self.count_C.sum() - self.count_C[self.class_B]
        anchor_B = (positive_B > 0) & (negative_B > 0) & (self.class_B < len(self.count_C) - 1)
        return positive_B.clamp(min=1), negative_B.clamp(min=1), anchor_B

    def gap(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean distance to positives - mean distance to negatives [B], which rows are anchors [B], rounding [B]."""
        positive_B, negative_B, anchor_B = self._counts
        x_BD, square_B = self.geometry.x_BD, self.square_C[self.class_B]
        near_B, far_B = square_B, self.square_C.sum() - square_B
        near_dot_B = torch.linalg.vecdot(x_BD, self.row_CD[self.class_B])
        far_dot_B = x_BD @ self.row_CD.sum(0) - near_dot_B
        if self.geometry.same:  # a row is not its own positive
            near_B = near_B - self.geometry.y_square_M
            near_dot_B = near_dot_B - self.geometry.y_square_M
        if self.geometry.distance == "cosine":
            return far_dot_B / negative_B - near_dot_B / positive_B, anchor_B, torch.full_like(far_dot_B, 32 * _EPSILON)
        # Sums of distances first and one division each, as in the definition: whole numbers meet the hinge exactly.
        square_B = self.geometry.y_square_M if self.geometry.same else x_BD.square().sum(1)
        rounding_B = 32 * _EPSILON * (square_B + near_B / positive_B + far_B / negative_B)
        near_B = positive_B * square_B - 2 * near_dot_B + near_B
        far_B = negative_B * square_B - 2 * far_dot_B + far_B
        return near_B / positive_B - far_B / negative_B, anchor_B, rounding_B

    def back(self, weight_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of sum_a w_a gap_a, where w_a = 0 unless a is an anchor.

        With G[a, j] = w_a / positives for positives and -w_a / negatives for negatives, G sums to 0 along each row, and
        its column sums and G^T x need sums per class only.
        """
        positive_B, negative_B, _ = self._counts
        near_w_B, far_w_B = weight_B / positive_B, weight_B / negative_B
        both_w_B = near_w_B + far_w_B
        x_BD, y_MD = self.geometry.x_BD, self.geometry.y_MD
        # dx = sum over negatives * far_w - sum over positives * near_w
        dx_BD = torch.outer(far_w_B, self.row_CD.sum(0))
        dx_BD.addcmul_(both_w_B.unsqueeze(1), self.row_CD[self.class_B], value=-1)
        # A negative j collects from every anchor but those of its class; a positive from its class but itself.
        w_C = torch.zeros_like(self.count_C).index_add_(0, self.class_B, both_w_B)
        w_CD = torch.zeros_like(self.row_CD).index_add_(0, self.class_B, both_w_B.unsqueeze(1) * x_BD)
        w_CD -= far_w_B @ x_BD
        column_M = w_C[self.class_M] - far_w_B.sum()
        dy_MD = w_CD[self.class_M].neg_()
        if self.geometry.same:
            column_M = column_M - near_w_B
            dx_BD.addcmul_(near_w_B.unsqueeze(1), x_BD, value=2)  # both sides of the row that is not its own positive
        if self.geometry.distance != "cosine":
            dy_MD.addcmul_(column_M.unsqueeze(1), y_MD)
        scale = 1 if self.geometry.distance == "cosine" else 2
        if self.geometry.same:
            return self.geometry.back_rows(dx_BD.add_(dy_MD).mul_(scale)), None
        return self.geometry.back_rows(dx_BD.mul_(scale)), self.geometry.back_rows(dy_MD.mul_(scale), of_others=True)


def _gap_by_tiles(geometry: Geometry, problem: Problem) -> tuple[Tensor, Tensor]:
    gap_B = geometry.x_BD.new_zeros(len(geometry.x_BD))
    anchor_B = torch.zeros_like(gap_B, dtype=torch.bool)
    for tile in tiles(geometry, problem):
        rows = slice(tile.start, tile.start + len(tile.d_TM))
        near_T, far_T = tile.positive_TM.sum(1), tile.negative_TM.sum(1)
        anchor_B[rows] = near_T > 0
        gap_B[rows] = (tile.d_TM * tile.positive_TM).sum(1) / near_T.clamp(min=1)
        gap_B[rows] -= (tile.d_TM * tile.negative_TM).sum(1) / far_T.clamp(min=1)
    return gap_B, anchor_B


def _back_by_tiles(geometry: Geometry, problem: Problem, weight_B: Tensor) -> tuple[Tensor, Tensor | None]:
    back = Backward(geometry)
    for tile in tiles(geometry, problem):
        weight_T = weight_B[tile.start : tile.start + len(tile.d_TM)]
        near_T, far_T = tile.positive_TM.sum(1).clamp(min=1), tile.negative_TM.sum(1).clamp(min=1)
        g_TM = (weight_T / near_T).unsqueeze(1) * tile.positive_TM - (weight_T / far_T).unsqueeze(1) * tile.negative_TM
        back.add_tile(tile, g_TM)
    return back.finish()
