"""The exact reduction as one compiled pass per panel of distances: CPU, float32, classes by label.

Rows are sorted by class. A panel is a block of rows against itself and all later rows, so each pair of rows is visited
once and serves both as anchor: half a matrix product for the distances. The pass leaves the symmetric coefficients
S = -(G + G^T) in the panel, and the gradient is two products with it, half a full one each:

    dx = 2 (S x - rowsum(S) * x)   (squared, euclidean; cosine: S u),      plus the positive pairs, O(B K D).

So the floor is 1.5 products of B x B x D, against 3 for tiles of rows. Thresholds, counts and what else is kept per
positive is [B, K]; nothing is [B, B].

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a panel, P pairs, H threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tercet.functional import _kernels
from tercet.functional._panels import SortedBatch, share
from tercet.functional._tiles import Problem, Sums, loss_and_slope

__all__ = ["can_reduce", "reduce_triplets"]

_COLUMNS = 1024  # columns of one pass: 4 KB a row
_MANY_POSITIVES = 48  # beyond this a search in sorted thresholds beats a pass per threshold
_KEPT_NUMBERS = 1 << 22  # largest [B, K]: 16 MB each


def can_reduce(x_BD: Tensor, y_MD: Tensor | None, problem: Problem) -> bool:
    """Whether this engine does the call; what it leaves goes to `_tiles`."""
    labels_B = problem.relation.labels_B
    if y_MD is not None or x_BD.device.type != "cpu" or x_BD.dtype != torch.float32 or labels_B is None:
        return False
    if problem.swap or problem.mining in ("random", "distance_weighted"):
        return False
    if problem.mining == "all" and problem.margin is None:
        return False
    return len(labels_B) * _largest_class(labels_B) <= _KEPT_NUMBERS


def _largest_class(labels_B: Tensor) -> int:
    return int(torch.unique(labels_B, return_counts=True)[1].max()) if len(labels_B) else 0


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

    None where the rows are such that float32 thresholds would cost accuracy that the tiles keep, unless `anyhow`.
    """
    with torch.no_grad():
        batch = SortedBatch.of(x_BD, problem)
        if batch.positives == 0:
            kept_B = torch.zeros(len(x_BD), dtype=torch.int64)
            return Sums(x_BD.new_zeros(len(x_BD)), kept_B, kept_B.clone(), torch.zeros_like(x_BD), None)
        if not (anyhow or batch.is_plain(problem)):
            return None
        reduce = _all_triplets if problem.mining == "all" else _chosen_triplets
        return batch.finish(reduce(batch, problem, gradient, weight_B, mean_per_anchor))


def _all_triplets(
    batch: SortedBatch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool
) -> Sums:
    d_BK = batch.positive_distances()
    margin = problem.margin
    assert margin is not None
    end_BK = d_BK + (margin[batch.order_B].unsqueeze(1) if isinstance(margin, Tensor) else margin)
    positive_B = torch.where(batch.anchor_B, batch.last_B - batch.first_B - 1, 0)
    kept_B = positive_B * (len(positive_B) - 1 - positive_B)
    sorted_weight_B = _weights(batch, weight_B, kept_B, mean_per_anchor)
    work = _Gradient(batch) if gradient else None
    passes = _by_thresholds if batch.positives <= _MANY_POSITIVES else _by_buckets
    loss_B, count_BK = passes(batch, end_BK, sorted_weight_B, work)
    sums = Sums(loss_B, kept_B, count_BK.sum(1).to(torch.int64), None, None)
    if work is not None:
        sums.dx_BD = work.finish_negatives()
        arrays = [t.numpy() for t in (batch.x_BD, batch.first_B, batch.last_B)]
        g_BK = (count_BK * sorted_weight_B.unsqueeze(1)).numpy()
        share(
            lambda lo, hi, _: _kernels.add_positive_pairs(
                *arrays, g_BK, d_BK.numpy(), batch.kind, lo, hi, work.dx_BD.numpy()
            ),
            len(batch.x_BD),
            batch.x_BD.numel() * batch.positives,
        )
    return sums


def _weights(batch: SortedBatch, weight_B: Tensor | None, kept_B: Tensor, mean_per_anchor: bool) -> Tensor:
    """What the gradient of each anchor counts, in sorted order."""
    if mean_per_anchor:
        return 1.0 / kept_B.clamp(min=1).to(torch.float32)
    return torch.ones(len(kept_B)) if weight_B is None else weight_B[batch.order_B].contiguous()


class _Gradient:
    """The gradient on prepared, sorted rows, as panels of coefficients come in."""

    def __init__(self, batch: SortedBatch) -> None:
        self.batch = batch
        self.dx_BD = torch.zeros_like(batch.x_BD)
        self.sum_B = torch.zeros(len(batch.x_BD))
        self.scale = 1.0 if batch.kind == _kernels.COSINE else 2.0

    def add_panel(self, rows: slice, columns: slice, s_RC: Tensor) -> None:
        x_BD = self.batch.x_BD
        self.dx_BD[rows].addmm_(s_RC, x_BD[columns], alpha=self.scale)
        self.dx_BD[columns].addmm_(s_RC.T, x_BD[rows], alpha=self.scale)

    def finish_negatives(self) -> Tensor:
        if self.batch.kind != _kernels.COSINE:
            self.dx_BD.addcmul_(self.sum_B.unsqueeze(1), self.batch.x_BD, value=-2.0)
        return self.dx_BD


def _by_thresholds(
    batch: SortedBatch, end_BK: Tensor, weight_B: Tensor, work: _Gradient | None
) -> tuple[Tensor, Tensor]:
    """Loss per anchor [B] and negatives below each threshold [B, K], one short pass per threshold."""
    end_KB = end_BK.T.contiguous()
    count_BK, count_KB = torch.zeros_like(end_BK), torch.zeros_like(end_KB)
    spent_B = _by_panels(
        batch, _kernels.hinge_panel, _COLUMNS, (end_BK, end_KB, weight_B), count_BK, count_KB, work, end_BK.shape[1]
    )
    count_BK += count_KB.T
    real_BK = end_BK.masked_fill(torch.isneginf(end_BK), 0).to(torch.float64)
    return ((real_BK * count_BK).sum(1) - spent_B).clamp_(min=0).to(torch.float32), count_BK


def _by_buckets(batch: SortedBatch, end_BK: Tensor, weight_B: Tensor, work: _Gradient | None) -> tuple[Tensor, Tensor]:
    """The same by search in sorted thresholds."""
    real_B = torch.isfinite(end_BK).sum(1, dtype=torch.int32)
    real_BK = torch.arange(end_BK.shape[1]) < real_B.unsqueeze(1)
    sorted_BK, place_BK = end_BK.masked_fill(torch.isneginf(end_BK), torch.inf).sort(dim=1)
    end_BL = torch.nn.functional.pad(sorted_BK, (0, 1), value=torch.inf)
    low_B = torch.where(real_B > 0, end_BL[:, 0], 0.0)
    last_B1 = (real_B - 1).clamp(min=0).to(torch.int64).unsqueeze(1)
    top_B = torch.where(real_B > 0, end_BL.gather(1, last_B1).squeeze(1), -torch.inf)
    cells = 4 * end_BL.shape[1]  # so fine that most hold one threshold or none
    scale_B = torch.where(top_B > low_B, (cells - 1) / (top_B - low_B).clamp(min=1e-30), 0.0)
    cell_BG = torch.zeros(len(end_BK), cells, dtype=torch.int16)
    arrays = [t.numpy() for t in (end_BL, real_B, low_B, scale_B)]
    share(
        lambda lo, hi, _: _kernels.fill_cells(*arrays, lo, hi, cell_BG.numpy()),
        len(end_BK),
        end_BK.numel() + len(end_BK),
    )
    read = (end_BL, real_B, low_B, top_B, scale_B, cell_BG, weight_B)
    count_BL, count_of_columns_BL = torch.zeros_like(end_BL), torch.zeros_like(end_BL)
    spent_B = _by_panels(
        batch, _kernels.bucket_panel, _COLUMNS // 8, read, count_BL, count_of_columns_BL, work, 2 * end_BL.shape[1]
    )
    below_BK = (count_BL + count_of_columns_BL).cumsum(1)[:, : end_BK.shape[1]].masked_fill(~real_BK, 0)
    loss_B = (sorted_BK.masked_fill(~real_BK, 0).to(torch.float64) * below_BK).sum(1) - spent_B
    return loss_B.clamp_(min=0).to(torch.float32), torch.zeros_like(end_BK).scatter_(1, place_BK, below_BK)


def _by_panels(
    batch: SortedBatch,
    panel: Callable[..., None],
    columns_at_once: int,
    read: Sequence[Tensor],
    count_BK: Tensor,
    count_of_columns: Tensor,
    work: _Gradient | None,
    cost: int,
) -> Tensor:
    """Run a pass over every panel: fills both counts and the gradient, returns what each anchor has spent [B]."""
    total_B = torch.zeros(len(count_BK), dtype=torch.float64)
    spent_B = torch.zeros(len(count_BK))
    sum_B = torch.zeros(len(count_BK)) if work is None else work.sum_B
    threads = torch.get_num_threads()
    for rows, columns, panel_RC in batch.panels():
        count_HRK = torch.zeros(threads, len(panel_RC), count_BK.shape[1])
        spent_HR = torch.zeros(threads, len(panel_RC), dtype=torch.float64)
        sum_HR = torch.zeros(threads, len(panel_RC))
        batch.pass_over(
            panel,
            rows,
            panel_RC,
            columns_at_once,
            read,
            (count_HRK, spent_HR, sum_HR),
            (count_of_columns, spent_B, sum_B),
            cost,
        )
        # Columns are summed in float32 within a panel only.
        total_B[columns] += spent_B[columns]
        spent_B[columns] = 0
        total_B[rows] += spent_HR.sum(0)
        count_BK[rows] += count_HRK.sum(0)
        sum_B[rows] += sum_HR.sum(0)
        if work is not None:
            work.add_panel(rows, columns, panel_RC)
    return total_B


def _chosen_triplets(
    batch: SortedBatch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool
) -> Sums:
    """One negative per anchor or per pair: the nearest above a floor."""
    d_BK, real_BK = batch.positive_distances(), batch.real_positives()
    margin = problem.margin
    margin_B1 = margin[batch.order_B].unsqueeze(1) if isinstance(margin, Tensor) else margin
    if problem.mining == "semihard":
        floor_BF = d_BK.masked_fill(~real_BK, torch.inf)
        ceiling_BF = torch.full_like(d_BK, torch.inf) if margin_B1 is None else d_BK + margin_B1
    else:
        floor_BF = torch.where(batch.anchor_B, -torch.inf, torch.inf).unsqueeze(1)
        ceiling_BF = torch.full_like(floor_BF, torch.inf)
    d_an_BF, name_BF = _nearest_negatives(batch, floor_BF, ceiling_BF)
    place_B = torch.empty_like(batch.order_B)
    place_B[batch.order_B] = torch.arange(len(place_B))
    if problem.mining in ("hard", "easy_positive"):
        # Class members stand in the order given, so the first of equal ones is the lowest row.
        column_B = d_BK.argmax(1) if problem.mining == "hard" else d_BK.masked_fill(~real_BK, torch.inf).argmin(1)
        i_P = torch.nonzero(batch.anchor_B).squeeze(1)
        k_P = column_B[i_P]
    else:
        i_P, k_P = torch.nonzero(real_BK & (name_BF >= 0), as_tuple=True)
    f_P = k_P if problem.mining == "semihard" else torch.zeros_like(k_P)
    d_ap_P, d_an_P, n_P = d_BK[i_P, k_P], d_an_BF[i_P, f_P], place_B[name_BF[i_P, f_P].to(torch.int64)]
    p_P = batch.first_B[i_P] + k_P
    p_P += p_P >= i_P
    gap_P = d_ap_P - d_an_P
    if margin_B1 is not None:
        gap_P += margin_B1[i_P].squeeze(1) if isinstance(margin_B1, Tensor) else margin_B1
    loss_P, slope_P = loss_and_slope(gap_P, margin is None)
    rows = len(d_BK)
    kept_B = torch.bincount(i_P, minlength=rows)
    loss_B = torch.zeros(rows, dtype=torch.float64).index_add_(0, i_P, loss_P.to(torch.float64)).to(torch.float32)
    sums = Sums(loss_B, kept_B, torch.bincount(i_P[loss_P > 0], minlength=rows), None, None)
    if gradient:
        slope_P = slope_P * _weights(batch, weight_B, kept_B, mean_per_anchor)[i_P]
        sums.dx_BD = torch.zeros_like(batch.x_BD)
        for j_P, g_P, d_P in ((p_P, slope_P, d_ap_P), (n_P, -slope_P, d_an_P)):
            arrays = [t.numpy() for t in (batch.x_BD, i_P, j_P, g_P, d_P)]
            _kernels.add_pairs(*arrays, batch.kind, sums.dx_BD.numpy())
    return sums


def _nearest_negatives(batch: SortedBatch, floor_BF: Tensor, ceiling_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and name (place in the order given; -1: none) of the nearest negative between floor and ceiling."""
    floor_FB, best_FB = floor_BF.T.contiguous(), ceiling_BF.T.contiguous()
    name_FB = torch.full(best_FB.shape, -1, dtype=torch.int32)
    own_name_B = batch.order_B.to(torch.int32)
    threads = torch.get_num_threads()
    for rows, _, panel_RC in batch.panels():
        best_HRF = best_FB[:, rows].T.repeat(threads, 1, 1)
        name_HRF = name_FB[:, rows].T.repeat(threads, 1, 1)
        batch.pass_over(
            _kernels.nearest_panel,
            rows,
            panel_RC,
            _COLUMNS,
            (floor_BF.contiguous(), floor_FB, own_name_B),
            (best_HRF, name_HRF),
            (best_FB, name_FB),
            floor_BF.shape[1],
        )
        best_RF, name_RF = best_HRF[0], name_HRF[0]
        for h in range(1, threads):
            better = (best_HRF[h] < best_RF) | (
                (best_HRF[h] == best_RF) & (name_HRF[h] >= 0) & ((name_HRF[h] < name_RF) | (name_RF < 0))
            )
            best_RF, name_RF = torch.where(better, best_HRF[h], best_RF), torch.where(better, name_HRF[h], name_RF)
        best_FB[:, rows], name_FB[:, rows] = best_RF.T, name_RF.T
    return best_FB.T, name_FB.T
