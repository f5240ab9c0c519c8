"""The exact reduction as one compiled pass per block of distances: CPU, float32, classes by label.

Rows are sorted by class and each pair of rows is visited once and serves both as anchor: half a matrix product for the
distances. The pass leaves the coefficients S = -(G + G^T) of each pair in the block, and the gradient is two products
with it, half a full one each:

    dx = 2 (S x - rowsum(S) * x)   (squared, euclidean; cosine: S u),      plus the positive pairs, O(B K D).

So the floor is 1.5 products of B x B x D, against 3 for tiles of rows. Thresholds, counts and what else is kept per
positive is [B, K]; nothing is [B, B].

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a block, H threads, L buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tercet.functional import _counting, _kernels, _nearest
from tercet.functional._blocks import LARGE_CLASS, Array, Block, SortedBatch
from tercet.functional._threads import share
from tercet.functional._tiles import Problem, Sums

__all__ = ["can_reduce", "reduce_triplets"]

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

    None where classes are so large that [B, K] would be more than memory allows or numbers so large that sums overflow,
    and, unless `anyhow`, where the rows are such that float32 thresholds would cost accuracy that the tiles keep.
    """
    if len(x_BD) == 0:
        empty_B = x_BD.new_zeros(0, dtype=torch.int64)
        return Sums(x_BD.new_zeros(0), empty_B, empty_B.clone(), torch.zeros_like(x_BD), None)
    batch = SortedBatch.of(x_BD, problem)
    if len(x_BD) * batch.positives > _KEPT_NUMBERS or batch.overflows(problem):
        return None
    if not (anyhow or batch.is_plain(problem)):
        return None
    if batch.positives == 0:
        kept_B = x_BD.new_zeros(len(x_BD), dtype=torch.int64)
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
    passes = _by_thresholds if batch.positives <= _MANY_POSITIVES else _by_buckets
    threads = batch.threads(max(batch.x_BD.shape[1], batch.positives))
    work = _Gradient(batch, threads) if gradient else None
    found = passes(batch, problem, end_BK, counts_B, threads, work, anyhow)
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
    """The gradient on prepared, sorted rows, as blocks of coefficients come in from one thread or several."""

    def __init__(self, batch: SortedBatch, threads: int) -> None:
        rows, width = batch.x_BD.shape
        self.batch = batch
        self.x_BD = torch.from_numpy(batch.x_BD)
        self.dx_BD = torch.zeros_like(self.x_BD)
        self.scale = 1.0 if batch.kind == _kernels.COSINE else 2.0
        self.sum_B = np.zeros(rows, np.float32)
        self.strips = batch.in_strips(self.dx_BD)
        # A strip's rows are one thread's, but its columns are everyone's. The turned product is the faster one; its
        # lines do not lie a power of two apart.
        self.turned_HDB = self.x_BD.new_empty(threads, width, rows + 16 + rows % 2)
        self.places_H: list[Sequence[Tensor]] = [()] * threads

    def add_block(self, thread: int, block: Block) -> None:
        if not self.places_H[thread]:
            turned_DB = self.turned_HDB[thread].zero_()  # here, so that each thread touches its own first
            self.places_H[thread] = self.batch.in_places(turned_DB[:, : len(self.x_BD)].T)
        s_RC = block.numbers_RC
        self.strips[block.strip].addmm_(s_RC, block.x_CD, alpha=self.scale)
        self.places_H[thread][block.place][-len(block.x_CD) :].addmm_(s_RC.T, block.x_RD, alpha=self.scale)

    def finish(self, g_BK: Array, d_BK: Array) -> Array:
        """With the part of each row itself, and with the positive pairs."""
        batch = self.batch
        dx_BD: Array = self.dx_BD.numpy()
        turned_HDB = self.turned_HDB.numpy()
        share(
            lambda lo, hi, _: _kernels.add_turned(turned_HDB, self.sum_B, batch.x_BD, batch.kind, lo, hi, dx_BD),
            len(dx_BD),
            turned_HDB.size,
        )
        # Not for euclidean distances: their coefficients on nearly coincident pairs are large, and only differences of
        # rows are exact there.
        if batch.positives >= LARGE_CLASS and batch.kind != _kernels.EUCLIDEAN:
            self._add_large_classes(g_BK)
            return dx_BD
        share(
            lambda lo, hi, _: _kernels.add_positive_pairs(
                batch.x_BD, batch.first_B, batch.positive_B, g_BK, d_BK, batch.kind, lo, hi, dx_BD
            ),
            len(dx_BD),
            dx_BD.size * batch.positives,
        )
        return dx_BD

    def _add_large_classes(self, g_BK: Array) -> None:
        def of_class(first: int, last: int) -> None:
            x_ND = self.x_BD[first:last]
            g_NN = x_ND.new_empty(last - first, last - first)
            _kernels.positive_coefficients(g_BK, first, self.batch.kind, g_NN.numpy())
            self.dx_BD[first:last].addmm_(g_NN, x_ND, alpha=self.scale)

        self.batch.each_class(of_class)


def _by_thresholds(
    batch: SortedBatch,
    problem: Problem,
    end_BK: Array,
    weight_B: Array,
    threads: int,
    work: _Gradient | None,
    anyhow: bool,
) -> tuple[Array, Array] | None:
    """Loss per anchor [B] and negatives below each threshold [B, K], three thresholds at a time."""
    rows, positives = end_BK.shape
    threes = -(-positives // _counting.FEW)
    padded_BK = np.full((rows + 3, threes * _counting.FEW), -np.inf, np.float32)
    padded_BK[:rows, :positives] = end_BK
    count_HBK = [np.zeros_like(padded_BK) for _ in range(threads)]
    table_H = [_counting.empty_table(batch.places, threes) for _ in range(threads)]
    for table in table_H:
        _counting.fill_table(padded_BK[:rows], table)
    spent_B = _by_blocks(
        *(batch, problem, _counting.threshold_block, (padded_BK, weight_B)),
        *(list(zip(table_H, count_HBK, strict=True)), threads, work, anyhow),
    )
    if spent_B is None:
        return None
    for table, count_BK in zip(table_H, count_HBK, strict=True):
        _counting.add_counts(table, count_BK[:rows])
    count_BK = np.ascontiguousarray(sum(count_HBK[1:], count_HBK[0])[:rows, :positives])
    real_BK = np.where(np.isneginf(end_BK), 0, end_BK)
    return np.einsum("bk,bk->b", real_BK, count_BK, dtype=np.float64) - spent_B, count_BK


def _by_buckets(
    batch: SortedBatch,
    problem: Problem,
    end_BK: Array,
    weight_B: Array,
    threads: int,
    work: _Gradient | None,
    anyhow: bool,
) -> tuple[Array, Array] | None:
    """The same by search in sorted thresholds."""
    rows, positives = end_BK.shape
    buckets = positives + 1
    place_BK = np.empty((rows, positives), np.int64)
    end_BL = np.full((rows, buckets), np.inf, np.float32)

    def sort(lo: int, hi: int, _: int) -> None:
        given_BK = np.where(np.isneginf(end_BK[lo:hi]), np.float32(np.inf), end_BK[lo:hi])
        place_BK[lo:hi] = given_BK.argsort(axis=1)
        end_BL[lo:hi, :positives] = np.take_along_axis(given_BK, place_BK[lo:hi], 1)

    share(sort, rows, end_BL.size)
    low_B, scale_B = np.empty((2, rows), np.float32)
    cell_BG = np.empty((rows, 4 * buckets), np.int16)  # so fine that most cells hold one threshold or none
    share(
        lambda lo, hi, _: _counting.fill_cells(end_BL, batch.positive_B, lo, hi, low_B, scale_B, cell_BG),
        rows,
        cell_BG.size,
    )
    count_HBL = [np.zeros((rows, buckets), np.int32) for _ in range(threads)]
    tables = (batch.first_B, end_BL, batch.positive_B, low_B, scale_B, cell_BG, weight_B)
    own_H = [(count_BL,) for count_BL in count_HBL]
    spent_B = _by_blocks(batch, problem, _counting.bucket_block, tables, own_H, threads, work, anyhow)
    if spent_B is None:
        return None
    loss_B, count_BK = np.empty(rows), np.zeros((rows, positives), np.float32)
    count_BL = sum(count_HBL[1:], count_HBL[0])
    share(
        lambda lo, hi, _: _counting.settle_buckets(
            end_BL, batch.positive_B, place_BK, count_BL, spent_B, lo, hi, loss_B, count_BK
        ),
        rows,
        count_BK.size,
    )
    return loss_B, count_BK


def _by_blocks(
    batch: SortedBatch,
    problem: Problem,
    counting: Callable[..., int],
    tables: tuple[Array, ...],
    own_H: Sequence[tuple[Array, ...]],
    threads: int,
    work: _Gradient | None,
    anyhow: bool,
) -> Array | None:
    """Run a counting pass over every block, gradient included; what each anchor has spent [B].

    None where the passes find rows that are better left to the tiles, unless `anyhow`.
    """
    rows_in_all = len(batch.x_BD)
    spent_HB = np.zeros((threads, rows_in_all))
    sum_HB = np.zeros((threads, rows_in_all), np.float32)

    def visit(thread: int, block: Block) -> bool:
        found = batch.look(counting, block, *tables, *own_H[thread], spent_HB[thread], sum_HB[thread])
        if not anyhow and batch.is_lossy(found, problem):
            return False
        if work is not None:
            work.add_block(thread, block)
        return True

    if not batch.sweep(visit, threads):
        return None
    if work is not None:
        work.sum_B = sum_HB.sum(0)
    spent_B: Array = spent_HB.sum(0)
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
    threads = batch.threads(2 * len(floor_FB))
    best_HFB = np.repeat(ceiling_FB[None], threads, 0)
    name_HFB = np.full(best_HFB.shape, -1, np.int32)
    name_B = batch.order_B.astype(np.int32)

    def visit(thread: int, block: Block) -> bool:
        held = (best_HFB[thread], name_HFB[thread])
        found = batch.look(_nearest.nearest_block, block, floor_FB, name_B, *held)
        return anyhow or not batch.is_lossy(found, problem)

    if not batch.sweep(visit, threads):
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
