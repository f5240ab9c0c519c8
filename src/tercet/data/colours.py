"""The colours of a picture, wherever in it they are: what can be said of a photograph without a network.

Legend: B batch, H height, W width, P pixels, F colours.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import torch

__all__ = ["COLOURS", "colour_histogram"]

_LEVELS: Final = 6
_SIDE: Final = 64  # pictures of four times 64 x 64 pixels and more are averaged down to about as many

COLOURS: Final = _LEVELS**3
"""How many numbers describe a picture."""


def colour_histogram(x_B3HW: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, 216] of colour pictures [B, 3, H, W], float from -1 to 1.

    Each pixel votes for six levels of each channel, with a share for the two nearest, and so for the 216 colours that
    these make together. The square root of a colour's share of the picture is its number: the product of two vectors is
    then the Bhattacharyya coefficient of the two distributions.

    Cost: O(P) a picture. Source: Swain and Ballard, Color indexing, IJCV 1991; the root after Arandjelovic and
    Zisserman, Three things everyone should know to improve object retrieval, CVPR 2012.
    """
    height, width = x_B3HW.shape[2:]
    smaller = min(math.isqrt(height * width) // _SIDE, height, width)
    if smaller > 1:
        x_B3HW = torch.nn.functional.avg_pool2d(x_B3HW, smaller)
    place_B3P = (x_B3HW.flatten(2).clamp(-1, 1) + 1) * ((_LEVELS - 1) / 2)
    lower_B3P = place_B3P.floor().clamp(max=_LEVELS - 2)
    upper_share_B3P = place_B3P - lower_B3P
    lower_B3P = lower_B3P.long()
    shares_BF = x_B3HW.new_zeros(x_B3HW.shape[0], COLOURS)
    for steps in itertools.product((0, 1), repeat=3):
        level_BP = torch.zeros_like(lower_B3P[:, 0])
        vote_BP = torch.full_like(place_B3P[:, 0], 1.0 / max(1, place_B3P.shape[2]))
        for channel, step in enumerate(steps):
            level_BP = level_BP * _LEVELS + lower_B3P[:, channel] + step
            share_BP = upper_share_B3P[:, channel]
            vote_BP = vote_BP * (share_BP if step else 1 - share_BP)
        shares_BF.scatter_add_(1, level_BP, vote_BP)
    return torch.nn.functional.normalize(shares_BF.sqrt(), dim=1)
