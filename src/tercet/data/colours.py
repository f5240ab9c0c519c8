"""The colours of a picture, wherever in it they are: what can be said of a photograph without a network.

Legend: B batch, H height, W width, P pixels, L levels of a channel, M = L^2, F = L^3.
"""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["COLOURS", "colour_histogram"]

_LEVELS: Final = 6
_SIDE: Final = 64  # larger pictures are averaged down to about as many pixels along the shorter side

COLOURS: Final = _LEVELS**3
"""How many numbers describe a picture."""


def colour_histogram(x_B3HW: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, 216] of colour pictures [B, 3, H, W], float from -1 to 1.

    Each pixel votes for six levels of each channel, with a share for the two nearest, and so for the 216 colours that
    these make together. The square root of a colour's share of the picture is its number: the product of two vectors is
    then the Bhattacharyya coefficient of the two distributions.

    Cost: O(P L^2) a picture. Source: Swain and Ballard, Color indexing, IJCV 1991; the root after Arandjelovic and
    Zisserman, Three things everyone should know to improve object retrieval, CVPR 2012.
    """
    smaller = max(1, min(x_B3HW.shape[2:]) // _SIDE)
    if smaller > 1:
        x_B3HW = torch.nn.functional.avg_pool2d(x_B3HW, smaller)
    place_B3P = (x_B3HW.flatten(2).clamp(-1, 1) + 1) * ((_LEVELS - 1) / 2)
    level_L1 = torch.arange(_LEVELS, dtype=place_B3P.dtype, device=place_B3P.device)[:, None]
    votes_B3LP = (1 - (place_B3P[:, :, None] - level_L1).abs()).clamp_min(0)
    pairs_BMP = (votes_B3LP[:, 0, :, None] * votes_B3LP[:, 1, None]).flatten(1, 2)
    shares_BF = (pairs_BMP @ votes_B3LP[:, 2].transpose(1, 2)).flatten(1) / place_B3P.shape[2]
    return torch.nn.functional.normalize(shares_BF.sqrt(), dim=1)
