"""The exact reduction as one compiled pass per panel of distances: CPU, float32, classes by label.

Rows are sorted by class. A panel is a block of rows against itself and all later rows, so each pair of rows is visited
once and serves both as anchor: half a matrix product for the distances. The pass leaves the coefficients S = -(G + G^T)
of each pair in the panel, and the gradient is two products with it, half a full one each:

    dx = 2 (S x - rowsum(S) * x)   (squared, euclidean; cosine: S u),      plus the positive pairs, O(B K D).

So the floor is 1.5 products of B x B x D, against 3 for tiles of rows. Thresholds, counts and what else is kept per
positive is [B, K]; nothing is [B, B].

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a panel, H threads, L buckets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tercet.functional import _counting, _kernels, _nearest
from tercet.functional._panels import Array, SortedBatch, share
from tercet.functional._tiles import Problem, Sums

__all__ = ["can_reduce", "reduce_triplets"]

_COLUMNS = 1024  # columns of one pass: 4 KB a row
_BUCKET_COLUMNS, _BUCKET_ROWS = 128, 64
_MANY_POSITIVES = 48  # beyond this a search in sorted thresholds beats a pass per three thresholds
_KEPT_NUMBERS = 1 << 22  # largest [B, K]: 16 MB each
_WHICH = {"hard": _nearest.FARTHEST, "easy_positive": _nearest.NEAREST}


def can_reduce(x_BD: Tensor, y_MD: Tensor | None, problem: Problem) -> bool:
    """Whether this engine does calls of this kind; what it leaves goes to `_tiles`."""
    if y_MD is not None or x_BD.device.type != "cpu" or x_BD.dtype != torch.float32:
        return False
    if problem.relation.labels_B is None or problem.swap or problem.mining in ("random", "distance_weighted"):
        return False
    return problem.mining != "all" or problem.margin is not None


def reduce_triplets(
    x_BD: Tensor,
    problem: Problem,
    *,
    gradient: bool,
    weight_B: Tensor | None = None,
    mean_per_anchor: bool = False,
    anyhow: bool = False,
) -> Sums | None:
    """As `_tiles.reduce_triplets`, for calls that `can_reduce` accepts.

    None where classes are so large that [B, K] would be more than memory allows, and, unless `anyhow`, where the rows
    are such that float32 thresholds would cost accuracy that the tiles keep.
    """
    if len(x_BD) == 0:
        empty_B = torch.zeros(0, dtype=torch.int64)
        return Sums(x_BD.new_zeros(0), empty_B, empty_B.clone(), torch.zeros_like(x_BD), None)
    batch = SortedBatch.of(x_BD, problem)
    if len(x_BD) * batch.positives > _KEPT_NUMBERS or not (anyhow or batch.is_plain(problem)):
        return None
    if batch.positives == 0:
        kept_B = torch.zeros(len(x_BD), dtype=torch.int64)
        return Sums(x_BD.new_zeros(len(x_BD)), kept_B, kept_B.clone(), torch.zeros_like(x_BD), None)
    reduce = _all_triplets if problem.mining == "all" else _chosen_triplets
    return reduce(batch, problem, gradient, weight_B, mean_per_anchor, anyhow)


def _all_triplets(
    batch: SortedBatch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool, anyhow: bool
) -> Sums | None:
    assert problem.margin is not None
    d_BK = batch.positive_distances()
    end_BK = d_BK + batch.sorted(problem.margin)[:, None]
    kept_B = batch.positive_B * (len(d_BK) - 1 - batch.positive_B)
    if mean_per_anchor:
        counts_B = (1.0 / np.maximum(kept_B, 1)).astype(np.float32)
    else:
        counts_B = batch.sorted(1.0 if weight_B is None else weight_B)
    work = _Gradient(batch) if gradient else None
    passes = _by_thresholds if batch.positives <= _MANY_POSITIVES else _by_buckets
    found = passes(batch, problem, end_BK, counts_B, work, anyhow)
    if found is None:
        return None
    loss_sorted_B, count_BK = found
    loss_B, given_kept_B, active_B = np.empty(len(d_BK), np.float32), np.empty_like(kept_B), np.empty_like(kept_B)
    loss_B[batch.order_B], given_kept_B[batch.order_B] = np.maximum(loss_sorted_B, 0), kept_B
    active_B[batch.order_B] = count_BK.sum(1, dtype=np.float64)
    sums = Sums(torch.from_numpy(loss_B), torch.from_numpy(given_kept_B), torch.from_numpy(active_B), None, None)
    if work is not None:
        sums.dx_BD = batch.finish(work.finish(count_BK * counts_B[:, None], d_BK))
    return sums


class _Gradient:
    """The gradient on prepared, sorted rows, as panels of coefficients come in."""

    def __init__(self, batch: SortedBatch) -> None:
        self.batch = batch
        self.x_BD = torch.from_numpy(batch.x_BD)
        self.dx_BD = torch.zeros_like(self.x_BD)
        self.scale = 1.0 if batch.kind == _kernels.COSINE else 2.0
        self.sum_HB: list[Array] = []

    def add_panel(self, rows: slice, columns: slice, s_RC: Tensor) -> None:
        self.dx_BD[rows].addmm_(s_RC, self.x_BD[columns], alpha=self.scale)
        self.dx_BD[columns].addmm_(s_RC.T, self.x_BD[rows], alpha=self.scale)

    def finish(self, g_BK: Array, d_BK: Array) -> Array:
        """With the part of each row itself, and with the positive pairs."""
        batch = self.batch
        if batch.kind != _kernels.COSINE:
            sum_B = torch.from_numpy(sum(self.sum_HB[1:], self.sum_HB[0]))
            self.dx_BD.addcmul_(sum_B.unsqueeze(1), self.x_BD, value=-2.0)
        dx_BD: Array = self.dx_BD.numpy()
        share(
            lambda lo, hi, _: _kernels.add_positive_pairs(
                batch.x_BD, batch.first_B, batch.positive_B, g_BK, d_BK, batch.kind, lo, hi, dx_BD
            ),
            len(dx_BD),
            dx_BD.size * batch.positives,
        )
        return dx_BD


def _by_thresholds(
    batch: SortedBatch, problem: Problem, end_BK: Array, weight_B: Array, work: _Gradient | None, anyhow: bool
) -> tuple[Array, Array] | None:
    """Loss per anchor [B] and negatives below each threshold [B, K], three thresholds at a time."""
    rows, positives = end_BK.shape
    threes = -(-positives // _counting.FEW) * _counting.FEW
    # Rows of these are not a power of two apart, or all would fall on the same lines of the first cache.
    end_KB = np.full((threes, rows + 16), -np.inf, np.float32)
    end_KB[:positives, :rows] = end_BK.T
    count_HKB = [np.zeros((threes, rows + 16), np.float32) for _ in range(_threads())]
    spent_B = _by_panels(
        batch, problem, _counting.threshold_panel, 2 * positives, work, anyhow, lambda _: (end_KB, weight_B, count_HKB)
    )
    if spent_B is None:
        return None
    count_BK = np.ascontiguousarray(sum(count_HKB[1:], count_HKB[0])[:positives, :rows].T)
    real_BK = np.where(np.isneginf(end_BK), 0, end_BK)
    return np.einsum("bk,bk->b", real_BK, count_BK, dtype=np.float64) - spent_B, count_BK


def _by_buckets(
    batch: SortedBatch, problem: Problem, end_BK: Array, weight_B: Array, work: _Gradient | None, anyhow: bool
) -> tuple[Array, Array] | None:
    """The same by search in sorted thresholds."""
    rows, positives = end_BK.shape
    buckets = positives + 1
    sorted_BK, place_BK = torch.from_numpy(np.where(np.isneginf(end_BK), np.float32(np.inf), end_BK)).sort(dim=1)
    end_BL = np.full((rows, buckets), np.inf, np.float32)
    end_BL[:, :positives] = sorted_BK.numpy()
    low_B, scale_B = np.empty((2, rows), np.float32)
    cell_BG = np.empty((rows, 4 * buckets), np.int16)  # so fine that most cells hold one threshold or none
    share(
        lambda lo, hi, _: _counting.fill_cells(end_BL, batch.positive_B, lo, hi, low_B, scale_B, cell_BG),
        rows,
        cell_BG.size,
    )
    count_BL = np.zeros((rows, buckets), np.int32)

    def arguments(panel_rows: slice) -> tuple[object, ...]:
        count_HRL = [np.zeros((panel_rows.stop - panel_rows.start, buckets), np.int32) for _ in range(_threads())]
        waiting.append((panel_rows, count_HRL))
        return (
            *(batch.first_B, end_BL, batch.positive_B, low_B, scale_B, cell_BG, weight_B),
            *(_BUCKET_COLUMNS, _BUCKET_ROWS, count_BL, count_HRL),
        )

    def settle() -> None:
        for panel_rows, count_HRL in waiting:
            for count_RL in count_HRL:
                count_BL[panel_rows] += count_RL
        waiting.clear()

    waiting: list[tuple[slice, list[Array]]] = []
    spent_B = _by_panels(batch, problem, _counting.bucket_panel, 2 * buckets, work, anyhow, arguments, settle)
    if spent_B is None:
        return None
    below_BK = count_BL.cumsum(1, dtype=np.int32)[:, :positives].astype(np.float32)
    below_BK[np.isinf(end_BL[:, :positives])] = 0
    real_BK = np.where(np.isinf(end_BL[:, :positives]), 0, end_BL[:, :positives])
    loss_B = np.einsum("bk,bk->b", real_BK, below_BK, dtype=np.float64) - spent_B
    count_BK = np.zeros_like(below_BK)
    np.put_along_axis(count_BK, place_BK.numpy(), below_BK, 1)
    return loss_B, count_BK


def _threads() -> int:
    return torch.get_num_threads()


def _by_panels(
    batch: SortedBatch,
    problem: Problem,
    panel: Callable[..., int],
    cost: int,
    work: _Gradient | None,
    anyhow: bool,
    arguments: Callable[[slice], tuple[object, ...]],
    settle: Callable[[], None] = lambda: None,
) -> Array | None:
    """Run a counting pass over every panel, gradient included; what each anchor has spent [B].

    None where the passes find rows that are better left to the tiles, unless `anyhow`.
    """
    rows_in_all = len(batch.x_BD)
    spent_HB = [np.zeros(rows_in_all) for _ in range(_threads())]
    sum_HB = [np.zeros(rows_in_all, np.float32) for _ in range(_threads())]
    if work is not None:
        work.sum_HB = sum_HB
    for rows, columns, panel_RC in batch.panels():
        found = batch.pass_over(panel, rows, panel_RC, cost, *arguments(rows), spent_HB, sum_HB)
        settle()
        if not anyhow and batch.is_lossy(found, problem):
            return None
        if work is not None:
            work.add_panel(rows, columns, panel_RC)
    spent_B: Array = sum(spent_HB[1:], spent_HB[0])
    return spent_B


def _chosen_triplets(
    batch: SortedBatch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool, anyhow: bool
) -> Sums | None:
    """One negative per anchor or per pair: the nearest above a floor."""
    d_BK = batch.positive_distances()
    rows = len(d_BK)
    soft = problem.margin is None
    margin_B = batch.sorted(0.0 if problem.margin is None else problem.margin)
    anchor_B = batch.positive_B > 0
    if problem.mining == "semihard":
        floor_FB = np.ascontiguousarray(d_BK.T)
        ceiling_FB = np.full_like(floor_FB, np.inf) if soft else floor_FB + margin_B
        floor_FB[np.isneginf(floor_FB)] = np.inf
    else:
        floor_FB = np.where(anchor_B, np.float32(-np.inf), np.float32(np.inf))[None]
        ceiling_FB = np.full_like(floor_FB, np.inf)
    best_HFB = np.repeat(ceiling_FB[None], _threads(), 0)
    name_HFB = np.full(best_HFB.shape, -1, np.int32)
    name_B = batch.order_B.astype(np.int32)
    for panel_rows, _, panel_RC in batch.panels():
        found = batch.pass_over(
            *(_nearest.nearest_panel, panel_rows, panel_RC, len(floor_FB), _COLUMNS),
            *(floor_FB, name_B, list(best_HFB), list(name_HFB)),
        )
        if not anyhow and batch.is_lossy(found, problem):
            return None
    _nearest.merge_threads(best_HFB, name_HFB)
    loss_B, kept_B, active_B = np.empty(rows, np.float32), np.empty(rows, np.int64), np.empty(rows, np.int64)
    dx_BD = np.zeros_like(batch.x_BD)
    _nearest.choose_and_sum(
        *(batch.x_BD, batch.order_B, batch.first_B, batch.positive_B, d_BK, best_HFB[0], name_HFB[0]),
        *(margin_B, soft, _WHICH.get(problem.mining, _nearest.ALL_POSITIVES), batch.kind),
        *(batch.sorted(1.0 if weight_B is None else weight_B), mean_per_anchor, gradient),
        *(loss_B, kept_B, active_B, dx_BD),
    )
    dx = batch.finish(dx_BD) if gradient else None
    return Sums(torch.from_numpy(loss_B), torch.from_numpy(kept_B), torch.from_numpy(active_B), dx, None)
