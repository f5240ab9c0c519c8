"""The exact reduction as Triton kernels: CUDA and other devices that Triton serves; classes by label.

Rows of both sides are sorted by class, so that the positives of a row are a run. Then, for all triplets:

1. positive distances [B, K], by tiles of each block of rows with the run of its classes;
2. one pass over all tiles: each anchor's positives against its negatives gives losses, counts and the coefficient of
   each negative; what the columns say of the row as their negative is compared in the same tile, so that one product
   of the tile's coefficients with the rows completes the gradient by negatives;
3. the gradient by positives, pair by pair.

The selections take 1, then the nearest negative (beyond each positive, for semihard), then gradients pair by pair.
Nothing here adds with atomics: the same call gives the same bits. Memory O(B (D + K)); a tile lives in registers.

Half-precision rows stay half in the products, which accumulate in float32: a product of two such numbers is exact
there. Rows that lie far from the origin are shifted first, in float32, as in `distances`.

Legend: B anchors, M others, D width, K positives of the anchor that has the most, F floors, L listed pairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from tercet.functional import _triton_kernels as kernels
from tercet.functional import _triton_pairs as pairs
from tercet.functional._tiles import Problem, Sums, loss_and_slope
from tercet.functional.distances import Geometry

__all__ = ["Blocks", "cannot_reduce", "reduce_triplets"]

_KINDS = {"squared": kernels.SQUARED.value, "euclidean": kernels.EUCLIDEAN.value, "cosine": kernels.COSINE.value}
_HALF = (torch.float16, torch.bfloat16)
_DEVICES = ("cuda", "xpu")
_TABLE_NUMBERS = 1 << 28  # largest [B, K]: 1 GB each
_NAMES = 1 << 31  # rows are named in int32


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks of work: powers of 2, at least 16 (`positives`: at least 1).

    Those of `of` were chosen by compiling for compute capability 9.0: outside registers a thread keeps 40 bytes beside
    bfloat16 rows, 680 beside float32 ones. They have not been timed.
    """

    rows: int
    columns: int
    width: int  # at a time, in the distances
    part: int  # of the width, in the gradient: with several, each goes over the distances again
    warps: int
    positives: int = 32
    pairs: int = 16
    stages: int = 2

    @classmethod
    def of(cls, dtype: torch.dtype) -> Blocks:
        """The sizes for rows of one dtype."""
        if dtype in _HALF:
            return cls(rows=64, columns=32, width=128, part=128, warps=8)
        return cls(rows=32, columns=32, width=32, part=128, warps=4)


def cannot_reduce(x_BD: Tensor, y_MD: Tensor | None, problem: Problem) -> str | None:
    """Why these kernels do not do the call; None where they do."""
    if x_BD.dtype == torch.float64:
        return "it computes in float32, not in float64"
    if problem.relation.labels_B is None:
        return "it needs labels, not a relation"
    if problem.swap:
        return "it has no swap"
    if problem.mining in ("random", "distance_weighted"):
        return f"it does not draw triplets (mining={problem.mining!r})"
    if max(len(x_BD), 0 if y_MD is None else len(y_MD)) >= _NAMES:
        return "it numbers rows up to 2^31"
    if kernels.INTERPRETED:
        return None
    if x_BD.device.type not in _DEVICES:
        return f"it needs a GPU, the embeddings are on {x_BD.device} (TRITON_INTERPRET=1 runs it there, slowly)"
    if (
        x_BD.device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(x_BD.device) < (8,)
    ):
        return "it needs compute capability 8.0 or later"
    return None


def reduce_triplets(
    x_BD: Tensor,
    y_MD: Tensor | None,
    problem: Problem,
    *,
    gradient: bool,
    weight_B: Tensor | None = None,
    mean_per_anchor: bool = False,
    blocks: Blocks | None = None,
) -> Sums | None:
    """As `_tiles.reduce_triplets`, for calls that `cannot_reduce` has nothing against; half-precision rows as they are.

    None where a class is so large that the table of positive distances would not stay small beside the rows.
    """
    with torch.no_grad(), _on_device(x_BD.device):
        batch = _Batch(x_BD.detach(), None if y_MD is None else y_MD.detach(), problem, blocks or Blocks.of(x_BD.dtype))
        if batch.positives * len(x_BD) > _TABLE_NUMBERS:
            return None
        if batch.positives == 0:
            nothing_B = torch.zeros_like(batch.anchors.order)
            sums = Sums(nothing_B.to(torch.float64), nothing_B, nothing_B, None, None)
        else:
            reduce = _all_triplets if problem.mining == "all" else _chosen_triplets
            sums = reduce(batch, problem, gradient, weight_B, mean_per_anchor)
        return batch.finish(sums, gradient)


@contextlib.contextmanager
def _on_device(device: torch.device) -> Iterator[None]:
    """Kernels start on the current device: make it that of the rows."""
    if device.type == "cpu":
        yield
        return
    with torch.get_device_module(device).device(device):
        yield


@dataclass(frozen=True)
class _Side:
    """Rows of one side sorted by class, as the kernels take them."""

    order: Tensor  # int64: places in the order given
    x: Tensor  # rows that are subtracted; unit rows for cosine
    z: Tensor  # rows that enter products
    size: Tensor  # |z|^2; 1 / |z| for cosine
    name: Tensor  # int32: class; never equal to the other side's where the row has no class
    self_place: Tensor  # int64: where the row itself stands on the other side, -1 nowhere
    first: Tensor  # int64: the run of the row's class on the other side; empty where there is nothing to sum
    last: Tensor
    dz: Tensor  # gradient on the prepared rows, float32


class _Batch:
    """The two sides of a call, and the launches that all modes share. `others is anchors` where there is no reference.

    Everything is in sorted order until `finish`.
    """

    def __init__(self, x_BD: Tensor, y_MD: Tensor | None, problem: Problem, blocks: Blocks) -> None:
        labels_B, labels_M = problem.relation.labels_B, problem.relation.other_labels_M
        assert labels_B is not None and labels_M is not None
        self.same, self.kind, self.blocks = y_MD is None, _KINDS[problem.distance], blocks
        self.geometry = Geometry(x_BD.float(), None if y_MD is None else y_MD.float(), problem.distance)
        order_B = labels_B.argsort(stable=True)
        order_M = order_B if self.same else labels_M.argsort(stable=True)
        mine_B, theirs_M = labels_B[order_B], labels_M[order_M]
        first_B, last_B = (torch.searchsorted(theirs_M, mine_B, right=right) for right in (False, True))
        first_M, last_M = (torch.searchsorted(mine_B, theirs_M, right=right) for right in (False, True))
        self.place_M = torch.empty_like(order_M)
        self.place_M[order_M] = torch.arange(len(order_M), device=order_M.device)
        self_B = problem.relation.self_rows_B[order_B]
        if len(order_M):
            self_B = torch.where(self_B >= 0, self.place_M[self_B.clamp(min=0)], -1)
        own_B = (self_B >= first_B) & (self_B < last_B)
        self.positives_B = last_B - first_B - own_B.to(torch.int64)
        self.negatives_B = len(theirs_M) - (last_B - first_B) - ((self_B >= 0) & ~own_B).to(torch.int64)
        anchor_B = (mine_B >= 0) & (self.positives_B > 0) & (self.negatives_B > 0)
        self.positives_B = torch.where(anchor_B, self.positives_B, 0)
        self.positives = int(self.positives_B.max()) if len(mine_B) else 0
        name_M = torch.where(theirs_M >= 0, torch.searchsorted(theirs_M, theirs_M), -1)
        name_B = name_M if self.same else torch.where(anchor_B, first_B, -2)
        end_B = torch.full_like(first_B, len(theirs_M))
        first_B, last_B = torch.where(anchor_B, first_B, end_B), torch.where(anchor_B, last_B, end_B)
        self.anchors = self._side(x_BD, order_B, name_B, self_B, first_B, last_B)
        self.others = self.anchors
        if y_MD is not None:
            last_M = torch.where(theirs_M >= 0, last_M, first_M)
            nowhere_M = torch.full_like(order_M, -1)
            self.others = self._side(y_MD, order_M, name_M, nowhere_M, first_M, last_M, of_others=True)
        width = x_BD.shape[1]
        whole = max(16, triton.next_power_of_2(width))
        self.part = min(blocks.part, whole)
        self.parts = triton.cdiv(width, self.part)
        self.launch = {"num_warps": blocks.warps, "num_stages": blocks.stages}
        self.tile = {
            "KIND": self.kind,
            "WIDTH": width,
            "R": blocks.rows,
            "N": blocks.columns,
            "W": min(blocks.width, whole),
            "PRECISION": "ieee",
            "UPCAST": kernels.INTERPRETED,
        }

    def _side(
        self,
        rows: Tensor,
        order: Tensor,
        name: Tensor,
        self_place: Tensor,
        first: Tensor,
        last: Tensor,
        *,
        of_others: bool = False,
    ) -> _Side:
        sorted_rows = rows[order]
        if self.kind == kernels.COSINE.value:
            x = (self.geometry.y_MD if of_others else self.geometry.x_BD)[order]
            z, size = x, torch.ones_like(x[:, 0])
            if rows.dtype in _HALF:
                # A power of 2 per row keeps every digit and keeps squares in range; the norm goes into the distance.
                top = torch.frexp(sorted_rows.float().abs().amax(1, keepdim=True)).exponent.clamp(-100, 100)
                z = torch.ldexp(sorted_rows.float(), -top).to(rows.dtype)
                norm = z.float().square().sum(1).sqrt()
                size = torch.where(norm > 0, 1 / norm, 0)
        else:
            centre_D = self.geometry.centre_D
            x = sorted_rows.contiguous()
            z = x if centre_D is None else x.float() - centre_D
            size = z.float().square().sum(1)
        return _Side(
            order, x, z, size, name.to(torch.int32), self_place, first, last, torch.zeros_like(x, dtype=torch.float32)
        )

    def real_positives(self) -> Tensor:
        """Which entries of [B, K] stand for a positive of an anchor."""
        return torch.arange(self.positives, device=self.positives_B.device) < self.positives_B.unsqueeze(1)

    def positive_distances(self) -> Tensor:
        """Distances of each anchor to its positives in order [B, K]; -infinity where there is none."""
        a, o = self.anchors, self.others
        d_BK = a.size.new_full((len(a.x), self.positives), -torch.inf)
        kernels.positive_distances[self._grid(len(a.x))](
            a.x, a.z, a.size, a.self_place, a.first, a.last, o.x, o.z, o.size,
            d_BK, len(a.x), len(o.x), self.positives, **self.tile, **self.launch,
        )  # fmt: skip
        return d_BK

    def nearest_negatives(self, floor_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Distance, and place in the order given, of each anchor's nearest negative beyond its floors [B, F]."""
        a, o, floors = self.anchors, self.others, floor_BF.shape[1]
        d_BF, given_BF = torch.empty_like(floor_BF), torch.empty_like(floor_BF, dtype=torch.int32)
        at_once = min(self.blocks.positives, triton.next_power_of_2(floors))
        for first in range(0, floors, at_once):
            kernels.nearest_negatives[self._grid(len(a.x))](
                a.x, a.z, a.size, a.name, a.self_place, o.x, o.z, o.size, o.name, o.order.to(torch.int32),
                floor_BF, d_BF, given_BF, len(a.x), len(o.x), floors, first,
                P=at_once, **self.tile, **self.launch,
            )  # fmt: skip
        return d_BF, given_BF

    def weights(self, weight_B: Tensor | None, kept_B: Tensor, mean_per_anchor: bool) -> Tensor:
        """What the gradient of each anchor counts."""
        if mean_per_anchor:
            return 1.0 / kept_B.clamp(min=1).to(torch.float32)
        return self.anchors.size.new_ones(len(kept_B)) if weight_B is None else weight_B.float()[self.anchors.order]

    def margins(self, problem: Problem) -> Tensor:
        """The margin of each anchor, 0 for the soft one."""
        if isinstance(problem.margin, Tensor):
            return problem.margin.float()[self.anchors.order]
        return torch.full_like(self.anchors.size, problem.margin or 0.0)

    def slope(self, g: Tensor, d: Tensor) -> Tensor:
        """As `Geometry.slope`, into `g` itself."""
        if self.kind == kernels.EUCLIDEAN.value:
            g /= 2 * d
            g.masked_fill_(~(d > 0), 0)
        return g

    def add_positive_pairs(self, c_BK: Tensor) -> None:
        """The gradient by positives; `c_BK` is the coefficient of each pair, 0 where there is none."""
        for rows, columns, own, other in self._directions():
            pairs.positive_pairs[(len(rows.x), self.parts)](
                rows.x, rows.first, rows.last, rows.self_place, columns.x, columns.first, columns.self_place,
                c_BK, c_BK, rows.dz, self.positives, KIND=self.kind, OWN=own, OTHER=other, **self._pair_sizes(),
            )  # fmt: skip

    def add_listed_pairs(self, i_L: Tensor, j_L: Tensor, c_L: Tensor) -> None:
        """The gradient of listed pairs (anchor, other, coefficient) on both of their rows; anchors in rising order."""
        a, o = self.anchors, self.others
        order_L = j_L.argsort(stable=True)
        for rows, columns, here_L, there_L, list_L in (
            (a, o, i_L, j_L, c_L),
            (o, a, j_L[order_L], i_L[order_L], c_L[order_L]),
        ):
            begins = torch.searchsorted(here_L, torch.arange(len(rows.x) + 1, device=here_L.device))
            if len(rows.x):
                pairs.listed_pairs[(len(rows.x), self.parts)](
                    rows.x, columns.x, begins, there_L, list_L, rows.dz, KIND=self.kind, **self._pair_sizes()
                )

    def _directions(self) -> tuple[tuple[_Side, _Side, bool, bool], ...]:
        """(rows, columns, rows are anchors, columns are anchors) of the launches that make the whole gradient."""
        if self.same:
            return ((self.anchors, self.anchors, True, True),)
        return ((self.anchors, self.others, True, False), (self.others, self.anchors, False, True))

    def _grid(self, rows: int) -> tuple[int]:
        return (triton.cdiv(rows, self.blocks.rows),)

    def _pair_sizes(self) -> dict[str, int]:
        return {"WIDTH": self.tile["WIDTH"], "S": self.blocks.pairs, "W": self.part}

    def all_triplets(
        self, problem: Problem, d_BK: Tensor, weight_B: Tensor, whole: bool, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (float64) and active triplets of each anchor, slopes by positive [B, K]; the gradient by negatives."""
        margin_B = self.margins(problem)
        loss_B, active_B = torch.zeros_like(margin_B, dtype=torch.float64), torch.zeros_like(self.positives_B)
        slope_BK = torch.empty_like(d_BK)
        times = self._times(whole and problem.margin is not None)
        precise = self.tile | (
            {"PRECISION": "tf32x3"} if times == kernels.WIDEN.value and torch.version.hip is None else {}
        )
        at_once = min(self.blocks.positives, triton.next_power_of_2(self.positives))
        for rows, columns, own, other in self._directions():
            if not (own or gradient):
                continue
            grid = (triton.cdiv(len(rows.x), self.blocks.rows), self.parts if gradient else 1)
            for first in range(0, self.positives, at_once):
                kernels.all_triplets[grid](
                    rows.x, rows.z, rows.size, rows.name, rows.self_place, d_BK, margin_B, weight_B,
                    columns.x, columns.z, columns.size, columns.name, columns.self_place, d_BK, margin_B, weight_B,
                    loss_B, active_B, slope_BK, rows.dz, len(rows.x), len(columns.x), self.positives, first,
                    SOFT=problem.margin is None, OWN=own, OTHER=other, GRADIENT=gradient, TIMES=times, P=at_once,
                    V=self.part, **precise, **self.launch,
                )  # fmt: skip
        return loss_B, active_B, slope_BK

    def _times(self, whole: bool) -> int:
        """How coefficients enter their product with the rows, see `_triton_kernels`."""
        dtype = self.others.z.dtype
        if dtype not in _HALF:
            return int(kernels.PLAIN.value)
        # Whole numbers up to 256 are bfloat16 numbers; a coefficient counts at most P positives of each side.
        if whole and self.kind == kernels.SQUARED.value and self.blocks.positives <= 128:
            return int(kernels.WHOLE.value)
        return int(kernels.SPLIT.value if dtype == torch.bfloat16 else kernels.WIDEN.value)

    def finish(self, sums: Sums, gradient: bool) -> Sums:
        """From sorted order to the order given, and from prepared rows to the rows as they were given."""
        back_B = torch.empty_like(self.anchors.order)
        back_B[self.anchors.order] = torch.arange(len(back_B), device=back_B.device)
        dx_BD = self.geometry.back_rows(self.anchors.dz[back_B]) if gradient else None
        dy_MD = None
        if gradient and not self.same:
            dy_MD = self.geometry.back_rows(self.others.dz[self.place_M], of_others=True)
        return Sums(sums.loss_B.float()[back_B], sums.kept_B[back_B], sums.active_B[back_B], dx_BD, dy_MD)


def _all_triplets(
    batch: _Batch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool
) -> Sums:
    d_BK = batch.positive_distances()
    kept_B = batch.positives_B * batch.negatives_B
    w_B = batch.weights(weight_B, kept_B, mean_per_anchor)
    whole = weight_B is None and not mean_per_anchor
    loss_B, active_B, slope_BK = batch.all_triplets(problem, d_BK, w_B, whole, gradient)
    if gradient:
        batch.add_positive_pairs(batch.slope(slope_BK.mul_(w_B.unsqueeze(1)), d_BK))
    return Sums(loss_B, kept_B, active_B, None, None)


def _chosen_triplets(
    batch: _Batch, problem: Problem, gradient: bool, weight_B: Tensor | None, mean_per_anchor: bool
) -> Sums:
    """One negative per anchor or per pair: the nearest, for semihard the nearest beyond the positive."""
    d_BK, chosen_BK = batch.positive_distances(), batch.real_positives()
    margin_B1 = batch.margins(problem).unsqueeze(1)
    anchor_B1 = batch.positives_B.unsqueeze(1) > 0
    if problem.mining == "semihard":
        d_an_BF, given_BF = batch.nearest_negatives(d_BK.masked_fill(~chosen_BK, torch.inf))
        if problem.margin is not None:  # the width of the window, not its end, which would lose a small margin
            chosen_BK &= d_an_BF - d_BK < margin_B1
    else:
        d_an_BF, given_BF = batch.nearest_negatives(torch.where(anchor_B1, -torch.inf, torch.inf))
    if problem.mining in ("hard", "easy_positive"):
        # Members of a class stand in the order given, so the first of equal ones is the lowest row.
        far = problem.mining == "hard"
        k_B = d_BK.argmax(1) if far else d_BK.masked_fill(~chosen_BK, torch.inf).argmin(1)
        chosen_BK &= torch.arange(batch.positives, device=k_B.device) == k_B.unsqueeze(1)
    chosen_BK &= given_BF != kernels.NO_NAME.value
    gap_BK = d_BK - d_an_BF if problem.margin is None else (d_BK - d_an_BF) + margin_B1
    loss_BK, slope_BK = loss_and_slope(gap_BK, problem.margin is None)
    loss_BK.masked_fill_(~chosen_BK, 0)
    kept_B, active_B = chosen_BK.sum(1), (loss_BK > 0).sum(1)
    if gradient:
        w_B1 = batch.weights(weight_B, kept_B, mean_per_anchor).unsqueeze(1)
        slope_BK = (slope_BK * w_B1).masked_fill_(~chosen_BK, 0)
        i_L, k_L = torch.nonzero(slope_BK, as_tuple=True)
        f_L = k_L if d_an_BF.shape[1] == batch.positives else torch.zeros_like(k_L)
        n_L = batch.place_M[given_BF[i_L, f_L].to(torch.int64)]
        batch.add_listed_pairs(i_L, n_L, batch.slope(-slope_BK[i_L, k_L], d_an_BF[i_L, f_L]))
        batch.add_positive_pairs(batch.slope(slope_BK, d_BK))
    return Sums(loss_BK.sum(1, dtype=torch.float64), kept_B, active_B, None, None)
