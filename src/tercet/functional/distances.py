"""Distances, a tile or a list of pairs at a time, and what they pass back to the embeddings.

The three distances share one geometry each: squared and euclidean work on the rows as they are, cosine on unit rows.
A gradient with respect to the distances, G, becomes a gradient with respect to the rows in two steps: `slope` turns it
into a coefficient C on the squared distance (or on -u.v for cosine), and then

    squared, euclidean:  dx = 2 (rowsum(C) * x - C y),   dy = 2 (colsum(C) * y - C^T x)
    cosine:              du = -C v,                      dv = -C^T u,     then back through u = x / |x|.

Precision. |a|^2 + |b|^2 - 2 a.b is one matrix product, but loses digits where a and b nearly coincide, and a square
root makes that visible. float64 therefore sums (a - b)^2 directly (equal rows get equal distances, coincident rows
exactly 0); float32 uses the product and repeats the close pairs directly.

Legend: T rows of a tile, M other rows, D embedding width, P pairs.
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

__all__ = ["Geometry", "compiled_lines", "unit_rows"]

# Direct sums hold [rows, columns, D] at a time: this many numbers at most.
_DIRECT_NUMBERS = 1 << 20
# Below this share of |a|^2 + |b|^2 the product form has lost about two digits of float32: such pairs go directly.
_CLOSE = 0.01


@functools.cache
def _lines() -> ModuleType | None:
    try:
        from tercet.functional import _lines as passes
    except (ImportError, RuntimeError):  # not installed; or nowhere to keep its compiled code
        return None
    return passes


def compiled_lines(like: Tensor) -> ModuleType | None:
    """The compiled passes over tiles on the device of `like`, or None where torch operations have to do."""
    return _lines() if like.device.type == "cpu" else None


class Geometry:
    """Rows x and others y prepared for one distance; `y is x` is kept where there is no reference."""

    def __init__(self, x_BD: Tensor, y_MD: Tensor | None, distance: str) -> None:
        self.distance = distance
        if distance == "cosine":
            self.x_BD, self._x_norm_B1 = unit_rows(x_BD)
            self.y_MD, self._y_norm_M1 = (self.x_BD, self._x_norm_B1) if y_MD is None else unit_rows(y_MD)
        else:
            self.x_BD, self.y_MD = x_BD, x_BD if y_MD is None else y_MD
        self.same = y_MD is None
        self.y_square_M = self.y_MD.square().sum(1)

    @functools.cached_property
    def centre_D(self) -> Tensor | None:
        """What the rows are shifted by before a product; None where nothing is gained."""
        return None if self.distance == "cosine" else _coarse_mean(self.y_MD)

    @functools.cached_property
    def _shifted_MD(self) -> Tensor:
        return self._shifted(self.y_MD)

    @functools.cached_property
    def _shifted_square_M(self) -> Tensor:
        return self.y_square_M if self.centre_D is None else self._shifted_MD.square().sum(1)

    def _shifted(self, rows_TD: Tensor) -> Tensor:
        """The rows as they enter a product: seen from the centre where there is one."""
        return rows_TD if self.centre_D is None else rows_TD - self.centre_D

    def tile(self, rows: slice) -> Tensor:
        """Distances [T, M] of the rows to all others."""
        return self.cross(self.x_BD[rows])

    def cross(self, x_TD: Tensor) -> Tensor:
        """Distances [T, M] of prepared rows to all others."""
        passes = compiled_lines(x_TD)
        if passes is not None and len(x_TD) and len(self.y_MD):
            return self._compiled_cross(x_TD, passes)
        if x_TD.dtype == torch.float64:
            d_TM = self._direct(x_TD)
        elif self.distance == "cosine":
            d_TM = torch.mm(x_TD, self.y_MD.T).neg_().add_(1.0)
        else:
            d_TM = self._product(x_TD)
        return d_TM.sqrt_() if self.distance == "euclidean" else d_TM

    def _compiled_cross(self, x_TD: Tensor, passes: ModuleType) -> Tensor:
        d_TM = x_TD.new_empty(len(x_TD), len(self.y_MD))
        if x_TD.dtype == torch.float64:
            rows, cost = (x_TD.contiguous(), self.y_MD.contiguous()), d_TM.numel() * x_TD.shape[1]
            passes.run(passes.direct_distances, len(x_TD), cost, *rows, passes.KINDS[self.distance], d_TM)
            return d_TM
        if self.distance == "cosine":
            return torch.mm(x_TD, self.y_MD.T, out=d_TM).neg_().add_(1.0)
        shifted_TD = self._shifted(x_TD)
        torch.mm(shifted_TD, self._shifted_MD.T, out=d_TM)
        rows = (x_TD.contiguous(), self.y_MD.contiguous())
        sizes = shifted_TD.square().sum(1), self._shifted_square_M
        close, root = np.float32(_CLOSE), self.distance == "euclidean"
        passes.run(passes.product_distances, len(x_TD), d_TM.numel(), d_TM, *sizes, *rows, close, root)
        return d_TM

    def pairs(self, x_PD: Tensor, y_PD: Tensor) -> Tensor:
        """Distances [P] of prepared rows, pair by pair."""
        if self.distance == "cosine":
            return 1.0 - (x_PD * y_PD).sum(1)
        squared_P = (x_PD - y_PD).square().sum(1)
        return squared_P.sqrt() if self.distance == "euclidean" else squared_P

    def slope(self, g: Tensor, d: Tensor) -> Tensor:
        """The coefficient on the squared distance (cosine: on -u.v) that stands for the gradient `g` on `d`."""
        if self.distance != "euclidean":
            return g
        return torch.where(d > 0, g / (2 * d), torch.zeros((), dtype=g.dtype, device=g.device))

    def back_tile(self, c_TM: Tensor, x_TD: Tensor, dy_MD: Tensor, column_M: Tensor) -> Tensor:
        """Gradient [T, D] on the prepared rows of a tile of coefficients; that on the others is added in place.

        What belongs to each of the others itself waits in `column_M` for `finish_others`.
        """
        if self.distance == "cosine":
            dy_MD.addmm_(c_TM.T, x_TD, alpha=-1)
            return -(c_TM @ self.y_MD)
        x_TD, y_MD = self._shifted(x_TD), self._shifted_MD
        dy_MD.addmm_(c_TM.T, x_TD, alpha=-2)
        column_M += c_TM.sum(0)
        return 2 * (c_TM.sum(1, keepdim=True) * x_TD - c_TM @ y_MD)

    def finish_others(self, dy_MD: Tensor, column_M: Tensor) -> None:
        """The last part of the gradient on the others, once for all tiles."""
        if self.distance != "cosine":
            dy_MD.addcmul_(column_M.unsqueeze(1), self._shifted_MD, value=2)

    def close(self, d_TM: Tensor, x_TD: Tensor) -> Tensor:
        """Which pairs of a tile lie so close that 1 / d makes the products of `back_tile` lose digits [T, M]."""
        size_TM = x_TD.square().sum(1, keepdim=True) + self.y_square_M
        return d_TM.square() < _CLOSE * _CLOSE * size_TM

    def back_pairs(self, c_P: Tensor, x_PD: Tensor, y_PD: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients ([P, D], [P, D]) on the prepared rows of a list of pairs."""
        if self.distance == "cosine":
            return -c_P.unsqueeze(1) * y_PD, -c_P.unsqueeze(1) * x_PD
        dx_PD = 2 * c_P.unsqueeze(1) * (x_PD - y_PD)
        return dx_PD, -dx_PD

    def back_rows(self, dx_BD: Tensor, *, of_others: bool = False) -> Tensor:
        """From gradients on prepared rows to gradients on the rows as they were given."""
        if self.distance != "cosine":
            return dx_BD
        u_BD, norm_B1 = (self.y_MD, self._y_norm_M1) if of_others else (self.x_BD, self._x_norm_B1)
        along_B1 = (dx_BD * u_BD).sum(1, keepdim=True)
        return torch.where(norm_B1 > 0, (dx_BD - along_B1 * u_BD) / norm_B1, torch.zeros_like(dx_BD))

    def _direct(self, x_TD: Tensor) -> Tensor:
        rows, width = x_TD.shape
        others = self.y_MD.shape[0]
        d_TM = x_TD.new_empty(rows, others)
        step = max(1, _DIRECT_NUMBERS // max(1, rows * width))
        for start in range(0, others, step):
            y_SD = self.y_MD[start : start + step]
            # One row of pairs after another, [T * S, D]: the sum over D is the same operation for every pair, so equal
            # rows get equal distances.
            if self.distance == "cosine":
                piece = 1.0 - (x_TD.unsqueeze(1) * y_SD).sum(2)
            else:
                piece = (x_TD.unsqueeze(1) - y_SD).square_().sum(2)
            d_TM[:, start : start + step] = piece
        return d_TM

    def _product(self, x_TD: Tensor) -> Tensor:
        shifted_TD = self._shifted(x_TD)
        size_TM = shifted_TD.square().sum(1, keepdim=True) + self._shifted_square_M
        d_TM = torch.addmm(size_TM, shifted_TD, self._shifted_MD.T, alpha=-2.0).clamp_(min=0)
        close_P2 = torch.nonzero(d_TM < _CLOSE * size_TM)
        step = max(1, _DIRECT_NUMBERS // max(1, x_TD.shape[1]))
        for start in range(0, len(close_P2), step):
            i_P, j_P = close_P2[start : start + step].unbind(1)
            d_TM[i_P, j_P] = (x_TD[i_P] - self.y_MD[j_P]).square_().sum(1)
        return d_TM


def unit_rows(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] over their norm, and the norm [B, 1]; a zero row stays zero. Scaled first: no square overflows."""
    scale_B1 = x_BD.abs().amax(1, keepdim=True) if x_BD.numel() else x_BD.new_zeros(len(x_BD), 1)
    scaled_BD = x_BD / torch.where(scale_B1 > 0, scale_B1, torch.ones_like(scale_B1))
    norm_B1 = scaled_BD.square().sum(1, keepdim=True).sqrt()
    unit_BD = scaled_BD / torch.where(norm_B1 > 0, norm_B1, torch.ones_like(norm_B1))
    return unit_BD, norm_B1 * scale_B1


def _coarse_mean(y_MD: Tensor) -> Tensor | None:
    """A centre of few bits: subtracting it leaves differences, and whole numbers, exact.

    Distances do not change under a shift, but the products are smaller and lose fewer digits when the rows lie far from
    the origin. Where the mean is small beside the rows nothing is gained, and there is no centre.
    """
    if y_MD.shape[0] == 0:
        return None
    mean_D = y_MD.mean(0)
    grid = torch.exp2(torch.floor(torch.log2(y_MD.abs().amax().clamp(min=1e-30))) - 6)
    if not bool(mean_D.square().sum() > 4 * (y_MD - mean_D).square().sum(1).mean()):
        return None
    return torch.round(mean_D / grid) * grid
