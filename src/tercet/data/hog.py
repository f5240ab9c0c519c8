"""Histograms of oriented gradients: what can be said of a picture without a network.

Legend: B batch, H height, W width, O orientations, h and w cells down and across, D width of a vector.
"""

from __future__ import annotations

import math

import torch

__all__ = ["oriented_gradients"]

_CLIP = 0.2


def oriented_gradients(x_BHW: torch.Tensor, *, cell: int = 8, orientations: int = 9) -> torch.Tensor:
    """Unit vectors [B, D] of grey pictures [B, H, W], float; H and W are cut to whole cells of `cell` pixels.

    Central differences; each pixel votes with the length of its gradient for the two nearest of `orientations`
    directions in half a turn; votes are added up over cells; each block of 2 x 2 cells is scaled to unit length,
    clipped at 0.2 and scaled again; the blocks, which overlap, one after the other. Blocks without a gradient are zero.

    Cost: O(H W) a picture. Source: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005,
    without the Gaussian window and the interpolation between cells.
    """
    down, across = x_BHW.shape[1] // cell, x_BHW.shape[2] // cell
    x_BHW = x_BHW[:, : down * cell, : across * cell]
    dy_BHW = torch.nn.functional.pad((x_BHW[:, 2:] - x_BHW[:, :-2]) / 2, (0, 0, 1, 1))
    dx_BHW = torch.nn.functional.pad((x_BHW[:, :, 2:] - x_BHW[:, :, :-2]) / 2, (1, 1))
    length_BHW = (dx_BHW.square() + dy_BHW.square()).sqrt()  # not hypot, which ONNX does not have
    # From 0 to `orientations`, a direction and its opposite alike.
    place_BHW = torch.remainder(torch.atan2(dy_BHW, dx_BHW) / math.pi, 1) * orientations
    lower_BHW = place_BHW.floor()
    upper_share_BHW = place_BHW - lower_BHW
    votes_BOHW = x_BHW.new_zeros(x_BHW.shape[0], orientations, *x_BHW.shape[1:])
    for step, share_BHW in ((0, 1 - upper_share_BHW), (1, upper_share_BHW)):
        index_BHW = (lower_BHW.long() + step) % orientations
        votes_BOHW.scatter_add_(1, index_BHW[:, None], (share_BHW * length_BHW)[:, None])
    cells_BOhw = torch.nn.functional.avg_pool2d(votes_BOHW, cell)
    blocks_BDn = torch.nn.functional.unfold(cells_BOhw, 2)
    blocks_BDn = torch.nn.functional.normalize(blocks_BDn, dim=1, eps=1e-6).clamp(max=_CLIP)
    blocks_BDn = torch.nn.functional.normalize(blocks_BDn, dim=1, eps=1e-6)
    return torch.nn.functional.normalize(blocks_BDn.flatten(1), dim=1)
