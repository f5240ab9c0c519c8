"""The exact reduction over triplets, tile by tile, in torch operations: any device, any option.

For an anchor a with thresholds t_p = d_ap + margin, sum_p sum_n max(0, t_p - d_an) needs the row of distances and the
thresholds only. With G the gradient of that sum with respect to the distances,

    G[a, p] = #{n : d_an < t_p},        G[a, n] = -#{p : d_an < t_p},

whole numbers, and both come from the same pass. So a tile of rows is enough: no list of triplets, no [B, B], and the
gradient on the embeddings is added up while the tile is at hand (see `distances`). Cost O(B M (D + min(K, log M))),
memory O((B + M) D + tile).

Sources: Rust and Hocking, arXiv 2302.11062 (all-pairs hinge by sorting); Inf-CL, arXiv 2410.17243 (tiles).

Legend: B anchors, M other rows, D embedding width, T rows of a tile, K positives of the anchor that has the most,
P pairs, Q pairs at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.functional.distances import Geometry, compiled_lines
from tercet.functional.options import RelationTable
from tercet.functional.selection import MANY_POSITIVES, Chosen, Tile, choose

__all__ = ["Backward", "Problem", "Sums", "loss_and_slope", "reduce_triplets", "softplus", "tiles"]

# Numbers in one tile of distances. A handful of tensors of this size live at once: 8 MB each in float32.
TILE_NUMBERS = 1 << 21
TILE_ROWS = 4096
_SOFT_NUMBERS = 1 << 16  # numbers of a soft pass: its temporaries stay in the second cache


@dataclass(frozen=True)
class Problem:
    """One call of `batch_triplet_loss`, checked: what to sum over, and how each triplet counts."""

    relation: RelationTable
    distance: str
    mining: str
    margin: Tensor | float | None  # None: the soft margin
    swap: bool
    seed: int

    def margin_rows(self, rows: slice, like: Tensor) -> Tensor | None:
        """The margins of a block of anchors [T, 1], or None for the soft margin."""
        if self.margin is None:
            return None
        if isinstance(self.margin, Tensor):
            return self.margin[rows].unsqueeze(1)
        return like.new_full((rows.stop - rows.start, 1), self.margin)


@dataclass
class Sums:
    """Per anchor: sum of losses, kept triplets, triplets with loss > 0; and the gradients of the weighted sum.

    With the soft margin every kept triplet has a loss > 0, and `active_B` is not filled.
    """

    loss_B: Tensor
    kept_B: Tensor
    active_B: Tensor
    dx_BD: Tensor | None
    dy_MD: Tensor | None


def tiles(geometry: Geometry, problem: Problem, tile_numbers: int = TILE_NUMBERS) -> Iterator[Tile]:
    """Blocks of anchors that have a positive and a negative, with their distances."""
    others = geometry.y_MD.shape[0]
    anchors = geometry.x_BD.shape[0]
    step = min(max(1, tile_numbers // max(1, others)), TILE_ROWS)
    for start in range(0, anchors, step):
        rows = slice(start, min(start + step, anchors))
        positive_TM, negative_TM = problem.relation.tile(rows)
        if not positive_TM.any(1).any():  # in two steps: torch walks a whole matrix number by number
            continue
        margin_T1 = problem.margin_rows(rows, geometry.x_BD)
        yield Tile(start, geometry.tile(rows), positive_TM, negative_TM, margin_T1)


def reduce_triplets(
    x_BD: Tensor,
    y_MD: Tensor | None,
    problem: Problem,
    *,
    gradient: bool,
    weight_B: Tensor | None = None,
    mean_per_anchor: bool = False,
    tile_numbers: int = TILE_NUMBERS,
) -> Sums:
    """Sum the losses of all kept triplets per anchor and, if asked, the gradient of sum_a w_a loss_a.

    w_a is `weight_B[a]`, or 1 / kept_a with `mean_per_anchor`, or 1.
    """
    geometry = Geometry(x_BD, y_MD, problem.distance)
    sums = Sums(
        loss_B=x_BD.new_zeros(len(x_BD)),
        kept_B=torch.zeros(len(x_BD), dtype=torch.int64, device=x_BD.device),
        active_B=torch.zeros(len(x_BD), dtype=torch.int64, device=x_BD.device),
        dx_BD=None,
        dy_MD=None,
    )
    back = Backward(geometry) if gradient else None
    for tile in tiles(geometry, problem, tile_numbers):
        rows = slice(tile.start, tile.start + len(tile.d_TM))
        weight_T = None if weight_B is None else weight_B[rows]
        if problem.mining != "all":
            chosen = choose(tile, problem.mining, problem.seed, x_BD.shape[1], problem.distance)
            _chosen_triplets(tile, chosen, geometry, problem, sums, back, weight_T, mean_per_anchor)
        elif problem.swap:
            _all_triplets_swapped(tile, geometry, sums, back, weight_T, mean_per_anchor, tile_numbers)
        else:
            g_TM = _all_triplets(tile, sums, gradient)
            if back is not None and g_TM is not None:
                weight_T = _weights(weight_T, sums.kept_B[rows], mean_per_anchor, tile.d_TM)
                if weight_T is not None:
                    g_TM *= weight_T.unsqueeze(1)
                back.add_tile(tile, g_TM)
    if back is not None:
        sums.dx_BD, sums.dy_MD = back.finish()
    return sums


class Backward:
    """Gradients on the rows, added up tile by tile; where y is x, both sides go to the same sum."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.dx_BD = torch.zeros_like(geometry.x_BD)
        self.dy_MD = self.dx_BD if geometry.same else torch.zeros_like(geometry.y_MD)
        self.column_M = torch.zeros_like(geometry.y_square_M)

    def add_tile(self, tile: Tile, g_TM: Tensor) -> None:
        """Gradients on the distances of a tile."""
        rows = slice(tile.start, tile.start + len(g_TM))
        x_TD = self.geometry.x_BD[rows]
        c_TM = self.geometry.slope(g_TM, tile.d_TM)
        if self.geometry.distance == "euclidean":
            self._take_close_pairs(c_TM, tile.d_TM, x_TD, rows.start)
        self.dx_BD[rows] += self.geometry.back_tile(c_TM, x_TD, self.dy_MD, self.column_M)

    def _take_close_pairs(self, c_TM: Tensor, d_TM: Tensor, x_TD: Tensor, start: int) -> None:
        """Add the pairs that nearly coincide one by one, and take them out of the tile of coefficients."""
        i_P, j_P = torch.nonzero(self.geometry.close(d_TM, x_TD) & (c_TM != 0), as_tuple=True)
        for piece in _pieces(len(i_P), x_TD.shape[1]):
            i, j = i_P[piece], j_P[piece]
            di_PD, dj_PD = self.geometry.back_pairs(c_TM[i, j], x_TD[i], self.geometry.y_MD[j])
            self.dx_BD.index_add_(0, i + start, di_PD)
            self.dy_MD.index_add_(0, j, dj_PD)
        c_TM[i_P, j_P] = 0

    def add_pairs(self, i_P: Tensor, j_P: Tensor, g_P: Tensor, d_P: Tensor) -> None:
        """Gradients on distances of pairs of a row and another."""
        x_BD, y_MD = self.geometry.x_BD, self.geometry.y_MD
        for piece in _pieces(len(i_P), x_BD.shape[1]):
            i, j = i_P[piece], j_P[piece]
            c = self.geometry.slope(g_P[piece], d_P[piece])
            di_PD, dj_PD = self.geometry.back_pairs(c, x_BD[i], y_MD[j])
            self.dx_BD.index_add_(0, i, di_PD)
            self.dy_MD.index_add_(0, j, dj_PD)

    def add_others(self, from_Q: Tensor, g_QM: Tensor, d_QM: Tensor) -> None:
        """A tile of gradients on distances among the others themselves: rows `from_Q` of y to all of y."""
        c_QM = self.geometry.slope(g_QM, d_QM)
        dx_QD = self.geometry.back_tile(c_QM, self.geometry.y_MD[from_Q], self.dy_MD, self.column_M)
        self.dy_MD.index_add_(0, from_Q, dx_QD)

    def add_other_pairs(self, i_P: Tensor, j_P: Tensor, g_P: Tensor, d_P: Tensor) -> None:
        """Gradients on distances of pairs among the others."""
        y_MD = self.geometry.y_MD
        di_PD, dj_PD = self.geometry.back_pairs(self.geometry.slope(g_P, d_P), y_MD[i_P], y_MD[j_P])
        self.dy_MD.index_add_(0, i_P, di_PD)
        self.dy_MD.index_add_(0, j_P, dj_PD)

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """Gradients on the rows as they were given; None for the others where there are none apart."""
        self.geometry.finish_others(self.dy_MD, self.column_M)
        dx_BD = self.geometry.back_rows(self.dx_BD)
        return dx_BD, None if self.geometry.same else self.geometry.back_rows(self.dy_MD, of_others=True)


def softplus(gap: Tensor) -> Tensor:
    """log(1 + exp(gap)) without overflow, and without torch's switch to the identity above 20."""
    return gap.clamp(min=0) + torch.log1p(torch.exp(-gap.abs()))


def _weights(weight_T: Tensor | None, kept_T: Tensor, mean_per_anchor: bool, like: Tensor) -> Tensor | None:
    """What each anchor's gradient is multiplied with; None for 1."""
    if mean_per_anchor:
        return 1.0 / kept_T.clamp(min=1).to(like.dtype)
    return weight_T


def loss_and_slope(gap: Tensor, soft: bool) -> tuple[Tensor, Tensor]:
    """The loss of d_ap - d_an + margin (soft: of d_ap - d_an), and its derivative: 0 at the hinge point."""
    if soft:
        return softplus(gap), torch.sigmoid(gap)
    return gap.clamp(min=0), (gap > 0).to(gap.dtype)


def _all_triplets(tile: Tile, sums: Sums, gradient: bool) -> Tensor | None:
    """Every triplet of the tile; the gradient on its distances [T, M], each anchor with weight 1."""
    rows = slice(tile.start, tile.start + len(tile.d_TM))
    passes = compiled_lines(tile.d_TM)
    if passes is not None:
        out_TM = torch.empty_like(tile.d_TM) if gradient else tile.d_TM.new_empty(len(tile.d_TM), 0)
        loss_T, kept_T = sums.loss_B[rows], sums.kept_B[rows]
        given = tile.d_TM, tile.positive_TM, tile.negative_TM
        if tile.margin_T1 is None:
            passes.run(passes.soft_tile, len(tile.d_TM), 64 * tile.d_TM.numel(), *given, loss_T, kept_T, out_TM)
        else:
            found = tile.margin_T1.squeeze(1), loss_T, kept_T, sums.active_B[rows], out_TM
            passes.run(passes.count_tile, len(tile.d_TM), 8 * tile.d_TM.numel(), *given, *found)
        return out_TM if gradient else None
    column_TK, real_TK = tile.positive_columns()
    d_ap_TK = tile.d_TM.gather(1, column_TK)
    d_an_TM = tile.negative_distances()
    sums.kept_B[rows] = real_TK.sum(1) * tile.negative_TM.sum(1)
    g_TM = torch.zeros_like(tile.d_TM) if gradient else None
    if tile.margin_T1 is None:
        for few in _pieces(len(d_an_TM), d_an_TM.shape[1], _SOFT_NUMBERS):
            own = slice(rows.start + few.start, rows.start + min(few.stop, len(d_an_TM)))
            part = None if g_TM is None else g_TM[few]
            sums.loss_B[own] = _soft(d_ap_TK[few], d_an_TM[few], column_TK[few], real_TK[few], part)
        return g_TM
    if column_TK.shape[1] > MANY_POSITIVES:
        # In float64 a threshold d_ap + margin loses nothing of a margin that is small beside the distance.
        end_TK = torch.where(real_TK, d_ap_TK.to(torch.float64) + tile.margin_T1, float("-inf"))
        sorted_TM = d_an_TM.sort(dim=1).values.to(torch.float64)
        below_TM = sorted_TM.masked_fill(torch.isinf(sorted_TM), 0).cumsum(1)
        below_TM = torch.nn.functional.pad(below_TM, (1, 0))
        count_TK = torch.searchsorted(sorted_TM, end_TK)
        loss_TK = count_TK * end_TK.masked_fill(~real_TK, 0) - below_TM.gather(1, count_TK)
        sums.loss_B[rows] = loss_TK.clamp_(min=0).sum(1).to(sums.loss_B.dtype)
        sums.active_B[rows] = count_TK.sum(1)
        if g_TM is not None:
            sorted_end_TK = end_TK.sort(dim=1).values
            g_TM += torch.searchsorted(sorted_end_TK, d_an_TM.to(torch.float64), right=True)
            g_TM -= end_TK.shape[1]
            g_TM.scatter_add_(1, column_TK, count_TK.to(g_TM.dtype))
        return g_TM
    d_ap_TK = d_ap_TK.masked_fill(~real_TK, float("-inf"))
    for k in range(column_TK.shape[1]):
        gap_TM = d_ap_TK[:, k : k + 1] - d_an_TM
        gap_TM += tile.margin_T1
        active_TM = gap_TM > 0
        count_T = active_TM.sum(1)
        sums.loss_B[rows] += gap_TM.clamp_(min=0).sum(1)
        sums.active_B[rows] += count_T
        if g_TM is not None:
            g_TM -= active_TM.to(g_TM.dtype)
            g_TM.scatter_add_(1, column_TK[:, k : k + 1], count_T.unsqueeze(1).to(g_TM.dtype))
    return g_TM


def _soft(d_ap_TK: Tensor, d_an_TM: Tensor, column_TK: Tensor, real_TK: Tensor, g_TM: Tensor | None) -> Tensor:
    """Losses of some rows with the soft margin; their gradient is added to `g_TM`.

    With z = d_ap - d_an and e = exp(-|z|): the loss is max(z, 0) + log1p(e), its slope 1 / (1 + e) for z >= 0 and
    e / (1 + e) below, that is exp(z - loss). Few temporaries, each used again for every positive.
    """
    loss_T = d_ap_TK.new_zeros(len(d_ap_TK))
    gap_TM, loss_TM = torch.empty_like(d_an_TM), torch.empty_like(d_an_TM)
    for k in range(column_TK.shape[1]):
        # Where there is no k-th positive: a distance of -infinity, whose loss and slope are 0.
        d_ap_T1 = d_ap_TK[:, k : k + 1].masked_fill(~real_TK[:, k : k + 1], -float("inf"))
        torch.sub(d_ap_T1, d_an_TM, out=gap_TM)
        torch.abs(gap_TM, out=loss_TM).neg_().exp_().log1p_()
        loss_TM += gap_TM.clamp(min=0)
        loss_T += loss_TM.sum(1)
        if g_TM is not None:
            gap_TM.sub_(loss_TM).exp_()
            g_TM -= gap_TM
            g_TM.scatter_add_(1, column_TK[:, k : k + 1], gap_TM.sum(1, keepdim=True))
    return loss_T


def _chosen_triplets(
    tile: Tile,
    chosen: Chosen,
    geometry: Geometry,
    problem: Problem,
    sums: Sums,
    back: Backward | None,
    weight_T: Tensor | None,
    mean_per_anchor: bool,
) -> None:
    """One negative per pair."""
    rows = slice(tile.start, tile.start + len(tile.d_TM))
    row_P, positive_P, negative_P = chosen.row_P, chosen.positive_P, chosen.negative_P
    d_ap_P, d_an_P = tile.d_TM[row_P, positive_P], tile.d_TM[row_P, negative_P]
    swapped_P = torch.zeros_like(row_P, dtype=torch.bool)
    if problem.swap:
        d_pn_P = _other_pairs(geometry, positive_P, negative_P)
        swapped_P = d_pn_P < d_an_P
        d_an_P = torch.where(swapped_P, d_pn_P, d_an_P)
    gap_P = d_ap_P - d_an_P
    if tile.margin_T1 is not None:
        gap_P += tile.margin_T1.squeeze(1)[row_P]
    loss_P, slope_P = loss_and_slope(gap_P, tile.margin_T1 is None)
    sums.loss_B[rows] = sums.loss_B[rows].index_add_(0, row_P, loss_P)
    sums.kept_B[rows] = torch.bincount(row_P, minlength=len(tile.d_TM))
    sums.active_B[rows] = torch.bincount(row_P[loss_P > 0], minlength=len(tile.d_TM))
    if back is None:
        return
    weight_T = _weights(weight_T, sums.kept_B[rows], mean_per_anchor, tile.d_TM)
    if weight_T is not None:
        slope_P = slope_P * weight_T[row_P]
    back.add_pairs(row_P + tile.start, positive_P, slope_P, d_ap_P)
    back.add_pairs(row_P + tile.start, negative_P, -slope_P.masked_fill(swapped_P, 0), d_an_P)
    if problem.swap:
        i_P, j_P = positive_P[swapped_P], negative_P[swapped_P]
        for piece in _pieces(len(i_P), geometry.y_MD.shape[1]):
            back.add_other_pairs(i_P[piece], j_P[piece], -slope_P[swapped_P][piece], d_an_P[swapped_P][piece])


def _all_triplets_swapped(
    tile: Tile,
    geometry: Geometry,
    sums: Sums,
    back: Backward | None,
    weight_T: Tensor | None,
    mean_per_anchor: bool,
    tile_numbers: int,
) -> None:
    """Every triplet with d_an replaced by min(d_an, d_pn): a row of distances from each positive, K times the work."""
    rows = slice(tile.start, tile.start + len(tile.d_TM))
    kept_T = tile.positive_TM.sum(1) * tile.negative_TM.sum(1)
    sums.kept_B[rows] = kept_T
    weight_T = _weights(weight_T, kept_T, mean_per_anchor, tile.d_TM)
    row_P, positive_P = torch.nonzero(tile.positive_TM, as_tuple=True)
    g_TM = torch.zeros_like(tile.d_TM)
    for piece in _pieces(len(row_P), tile.d_TM.shape[1], tile_numbers):
        row_Q, positive_Q = row_P[piece], positive_P[piece]
        negative_QM = tile.negative_TM[row_Q]
        d_an_QM, d_pn_QM = tile.d_TM[row_Q], geometry.cross(geometry.y_MD[positive_Q])
        swapped_QM = d_pn_QM < d_an_QM
        gap_QM = tile.d_TM[row_Q, positive_Q].unsqueeze(1) - torch.where(swapped_QM, d_pn_QM, d_an_QM)
        if tile.margin_T1 is not None:
            gap_QM += tile.margin_T1[row_Q]
        loss_QM, slope_QM = loss_and_slope(gap_QM, tile.margin_T1 is None)
        loss_QM *= negative_QM
        sums.loss_B[rows] = sums.loss_B[rows].index_add_(0, row_Q, loss_QM.sum(1))
        sums.active_B[rows] = sums.active_B[rows].index_add_(0, row_Q, (loss_QM > 0).sum(1))
        if back is None:
            continue
        slope_QM *= negative_QM
        if weight_T is not None:
            slope_QM *= weight_T[row_Q].unsqueeze(1)
        g_TM.index_put_((row_Q, positive_Q), slope_QM.sum(1), accumulate=True)
        g_TM.index_add_(0, row_Q, -slope_QM.masked_fill(swapped_QM, 0))
        back.add_others(positive_Q, -slope_QM.masked_fill(~swapped_QM, 0), d_pn_QM)
    if back is not None:
        back.add_tile(tile, g_TM)


def _other_pairs(geometry: Geometry, i_P: Tensor, j_P: Tensor) -> Tensor:
    """Distances among the others, pair by pair, some at a time."""
    d_P = geometry.y_MD.new_empty(len(i_P))
    for piece in _pieces(len(i_P), geometry.y_MD.shape[1]):
        d_P[piece] = geometry.pairs(geometry.y_MD[i_P[piece]], geometry.y_MD[j_P[piece]])
    return d_P


def _pieces(count: int, width: int, numbers: int = TILE_NUMBERS) -> Iterator[slice]:
    """Slices of 0..count, each of at most `numbers` // `width` items."""
    step = max(1, numbers // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
