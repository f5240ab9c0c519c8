"""Which triplets of a tile count: selection by distance, and the census.

A tile is a block of anchor rows with their distances to every other row. Everything here works on one tile, so that no
mode ever holds [B, B]. Where an anchor has few positives, a short pass over the tile is made per positive; where it has
many, the row is sorted once and each positive becomes a binary search: O(M (D + min(K, log M))) per anchor.

Legend: T anchor rows of the tile, M other rows, K positives of the anchor that has the most, P chosen pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.functional.distances import compiled_lines

__all__ = ["Chosen", "Tile", "choose", "draws"]

# With more positives than this, sorting a row once is cheaper than one pass over it for each of them.
MANY_POSITIVES = 24


@dataclass(frozen=True)
class Tile:
    """Distances of a block of anchors, and who is what to them. Rows that are no anchors have empty masks."""

    start: int
    d_TM: Tensor
    positive_TM: Tensor
    negative_TM: Tensor
    margin_T1: Tensor | None  # None: the soft margin

    def positive_columns(self) -> tuple[Tensor, Tensor]:
        """Each anchor's positives in order of column: (columns [T, K], padded with 0; which are real [T, K])."""
        count_T = self.positive_TM.sum(1)
        row_P, column_P = torch.nonzero(self.positive_TM, as_tuple=True)
        place_P = torch.arange(len(row_P), device=row_P.device) - (count_T.cumsum(0) - count_T)[row_P]
        width = int(count_T.max()) if len(count_T) else 0
        column_TK = torch.zeros(len(count_T), width, dtype=torch.int64, device=row_P.device)
        column_TK[row_P, place_P] = column_P
        return column_TK, torch.arange(width, device=row_P.device) < count_T.unsqueeze(1)

    def negative_distances(self) -> Tensor:
        """Distances to negatives, infinity elsewhere [T, M]."""
        return self.d_TM.masked_fill(~self.negative_TM, math.inf)


@dataclass(frozen=True)
class Chosen:
    """One negative for each of P pairs: row in the tile, column of the positive, column of the negative (int64 [P])."""

    row_P: Tensor
    positive_P: Tensor
    negative_P: Tensor


def draws(seed: int, anchor_P: Tensor, other_P: Tensor) -> Tensor:
    """Numbers in [0, 1) (float64 [P]) that depend on (seed, anchor, other) alone: splitmix64 of a counter.

    The same as `reference.draw`; int64 arithmetic wraps as the unsigned one does, shifts need their sign bits cleared.
    """

    def wrapped(value: int) -> int:
        value &= (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value

    def shifted(z: Tensor, by: int) -> Tensor:
        return (z >> by) & ((1 << (64 - by)) - 1)

    z = (anchor_P + 1) * wrapped(0x9E3779B97F4A7C15) + (other_P + 1) * wrapped(0xD1B54A32D192ED03) + wrapped(seed)
    for _ in range(2):
        z = (z ^ shifted(z, 30)) * wrapped(0xBF58476D1CE4E5B9)
        z = (z ^ shifted(z, 27)) * wrapped(0x94D049BB133111EB)
        z = z ^ shifted(z, 31)
    return shifted(z, 11).to(torch.float64) / (1 << 53)


def choose(tile: Tile, mining: str, seed: int, width: int, distance: str) -> Chosen:
    """The pairs that `mining` keeps in this tile, each with its one negative; any mining but `"all"`.

    At ties the lowest column wins. `seed` is that of the draws; `width` (D) and `distance` serve the weights of
    `"distance_weighted"`.
    """
    if mining == "hard":
        far_TM = tile.d_TM.masked_fill(~tile.positive_TM, -math.inf)
        return _one_per_anchor(tile, far_TM.argmax(1))
    if mining == "easy_positive":
        near_TM = tile.d_TM.masked_fill(~tile.positive_TM, math.inf)
        return _one_per_anchor(tile, near_TM.argmin(1))
    if mining == "semihard":
        return _semihard(tile)
    row_P, positive_P = torch.nonzero(tile.positive_TM, as_tuple=True)
    if mining == "hard_negative":
        return Chosen(row_P, positive_P, tile.negative_distances().argmin(1)[row_P])
    mark_P = draws(seed, row_P + tile.start, positive_P)
    if mining == "random":
        rank_TM = tile.negative_TM.cumsum(1)
        wanted_P = (mark_P * rank_TM[row_P, -1]).to(torch.int64) + 1
        return Chosen(row_P, positive_P, _search(rank_TM, row_P, wanted_P, right=False))
    weight_TM = _distance_weights(tile, width, distance).cumsum(1)
    found_P = _search(weight_TM, row_P, mark_P * weight_TM[row_P, -1], right=True)
    return Chosen(row_P, positive_P, found_P)


def _one_per_anchor(tile: Tile, positive_T: Tensor) -> Chosen:
    row_P = torch.nonzero(tile.negative_TM.any(1)).squeeze(1)
    return Chosen(row_P, positive_T[row_P], tile.negative_distances().argmin(1)[row_P])


def _semihard(tile: Tile) -> Chosen:
    """Per pair, the nearest negative farther than the positive and inside the margin; without one: left out."""
    column_TK, real_TK = tile.positive_columns()
    d_ap_TK = tile.d_TM.gather(1, column_TK)
    # The width of the window, not its end: d_ap + margin would lose a margin that is small beside the distance.
    width_T1 = torch.full_like(d_ap_TK[:, :1], math.inf) if tile.margin_T1 is None else tile.margin_T1
    passes = compiled_lines(tile.d_TM)
    if passes is not None and column_TK.shape[1]:
        negative_TK, found_TK = torch.empty_like(column_TK), torch.empty_like(real_TK)
        given = tile.d_TM, tile.negative_TM, column_TK, real_TK, width_T1.squeeze(1)
        cost = column_TK.shape[1] * tile.d_TM.numel()
        passes.run(passes.nearest_beyond, len(column_TK), cost, *given, negative_TK, found_TK)
        row_P, place_P = torch.nonzero(found_TK, as_tuple=True)
        return Chosen(row_P, column_TK[row_P, place_P], negative_TK[row_P, place_P])
    d_an_TM = tile.negative_distances()
    if column_TK.shape[1] > MANY_POSITIVES:
        sorted_TM, order_TM = d_an_TM.sort(dim=1, stable=True)
        place_TK = torch.searchsorted(sorted_TM, d_ap_TK, right=True).clamp_(max=tile.d_TM.shape[1] - 1)
        negative_TK, d_TK = order_TM.gather(1, place_TK), sorted_TM.gather(1, place_TK)
        found_TK = real_TK & (d_TK > d_ap_TK) & (d_TK - d_ap_TK < width_T1) & torch.isfinite(d_TK)
    else:
        negative_TK = torch.empty_like(column_TK)
        found_TK = torch.empty_like(real_TK)
        for k in range(column_TK.shape[1]):
            beyond_TM = d_an_TM - d_ap_TK[:, k : k + 1]
            window_TM = (beyond_TM > 0) & (beyond_TM < width_T1)
            negative_TK[:, k] = d_an_TM.masked_fill(~window_TM, math.inf).argmin(1)
            found_TK[:, k] = window_TM.any(1) & real_TK[:, k]
    row_P, place_P = torch.nonzero(found_TK, as_tuple=True)
    return Chosen(row_P, column_TK[row_P, place_P], negative_TK[row_P, place_P])


def _search(rising_TM: Tensor, row_P: Tensor, value_P: Tensor, *, right: bool) -> Tensor:
    """The first column of row `row_P[i]` that reaches `value_P[i]` (`right`: that exceeds it)."""
    count_T = torch.bincount(row_P, minlength=rising_TM.shape[0])
    place_P = torch.arange(len(row_P), device=row_P.device) - (count_T.cumsum(0) - count_T)[row_P]
    value_TK = rising_TM.new_zeros(rising_TM.shape[0], int(count_T.max()) if len(count_T) else 0)
    value_TK[row_P, place_P] = value_P.to(rising_TM.dtype)
    found_TK = torch.searchsorted(rising_TM, value_TK, right=right)
    # Rounding may put a mark on the total itself; the last column that weighs anything is then the answer.
    last_T1 = torch.searchsorted(rising_TM, rising_TM[:, -1:].contiguous(), right=False)
    return torch.minimum(found_TK, last_T1)[row_P, place_P]


def _distance_weights(tile: Tile, width: int, distance: str) -> Tensor:
    """min(lambda, 1 / q(d)) of each negative, 0 elsewhere (float64 [T, M]); see `reference._distance_weights`."""
    d_TM = tile.d_TM.to(torch.float64)
    chord_TM = {
        "squared": lambda: d_TM.sqrt(),
        "euclidean": lambda: d_TM,
        "cosine": lambda: (2 * d_TM).clamp(min=0).sqrt(),
    }[distance]()
    near_TM = tile.negative_TM & (chord_TM < 1.4)
    held_TM = chord_TM.clamp(0.5, 1.4)
    log_TM = (2 - width) * held_TM.log() - (width - 3) / 2 * (1 - held_TM.square() / 4).log()
    log_TM = log_TM.masked_fill(~near_TM, -math.inf)
    top_T1 = log_TM.amax(1, keepdim=True)
    weight_TM = (log_TM - top_T1.clamp(min=-1e300)).exp_()
    return torch.where(near_TM.any(1, keepdim=True), weight_TM, tile.negative_TM.to(torch.float64))
