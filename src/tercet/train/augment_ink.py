"""Random changes to a batch of handwriting, each network input bent through one smooth map.

A signature that is bent as a rubber sheet is bent is another signature; so, with all samples of an identity bent alike,
a few dozen writers in training become many, and the network cannot learn those few by heart. On top, each sample is
moved, turned and scaled a little, and trembles, as the same hand does from one time to the next.

Both are one resampling of the picture: a sample's own map leads into its identity's. All numbers are drawn from the
generator that is passed in, on the CPU, so that they are the same on every device.

Legend: B batch, I identities of it, C channels, H height, W width, h and w places down and
across, n places. Pictures are floats in [-1, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

__all__ = ["rewrite"]

_KNOTS = (3, 5)  # down and across: places at which an identity's bend is drawn
_SMOOTH = (12, 24)  # to which it is smoothed before it is read off between them
_TREMBLE = (4, 8)  # places at which a sample's own tremble is drawn


def rewrite(
    x_BCHW: torch.Tensor,
    labels_B: torch.Tensor,
    generator: torch.Generator,
    *,
    share: float,
    skew: float,
    bend: float,
    tremble: float,
    shift: float,
    zoom: float,
    stretch: float,
    degrees: float,
) -> torch.Tensor:
    """Make other writers of a share of the identities, and each sample another attempt of its writer.

    Lengths are in units of half the frame's side. The border is continued outwards.

    Args:
        x_BCHW: Pictures.
        labels_B: Whose they are; a forgery goes with the identity that it pretends to be.
        generator: Source of the draws.
        share: Share of the identities that become others.
        skew: Most that is added to or taken from each of the four numbers of an identity's linear map.
        bend: Standard deviation of an identity's displacement at its knots.
        tremble: Standard deviation of a sample's own displacement.
        shift: Largest shift of a sample to each side.
        zoom: Largest relative change of a sample's size.
        stretch: Largest relative change of a sample's width against its height.
        degrees: Largest turn of a sample to each side.
    """
    batch, _, height, width = x_BCHW.shape
    inverse_B = torch.from_numpy(np.unique(labels_B.cpu().numpy(), return_inverse=True)[1])
    identities = int(inverse_B.max()) + 1

    def between(most: float, count: int) -> torch.Tensor:
        return most * (2 * torch.rand(count, generator=generator) - 1)

    angle_B, aspect_B = between(math.radians(degrees), batch), torch.exp(between(stretch, batch) / 2)
    zoom_B = torch.exp(between(math.log1p(zoom), batch))
    ratio = height / width  # a turn is one of the picture as it lies, whose sides are not equal
    cos_B, sin_B = torch.cos(angle_B) / zoom_B, torch.sin(angle_B) / zoom_B
    own_B22 = torch.stack(
        [
            torch.stack([cos_B * aspect_B, -sin_B * ratio], dim=1),
            torch.stack([sin_B / ratio, cos_B / aspect_B], dim=1),
        ],
        dim=1,
    )
    own_B23 = torch.cat([own_B22, between(shift, 2 * batch).view(batch, 2, 1)], dim=2)
    tremble_B2hw = tremble * torch.randn(batch, 2, *_TREMBLE, generator=generator)
    on_I = (torch.rand(identities, generator=generator) < share).float()
    map_I22 = torch.eye(2) + between(skew, 4 * identities).view(identities, 2, 2) * on_I[:, None, None]
    bend_I2hw = bend * on_I[:, None, None, None] * torch.randn(identities, 2, *_KNOTS, generator=generator)
    bend_I2hw = interpolate(bend_I2hw, size=_SMOOTH, mode="bicubic", align_corners=True)

    # The map is smooth: it is worked out for a quarter of the pixels, from edge to edge, and read off between them.
    places = (height // 2 + 1, width // 2 + 1)
    down_h, across_w = (
        torch.linspace(-1 + 1 / side, 1 - 1 / side, count) for side, count in zip((height, width), places, strict=True)
    )
    plane_hw3 = torch.stack([across_w.expand(places), down_h[:, None].expand(places), torch.ones(places)], dim=2)
    at_Bn2 = plane_hw3.view(1, -1, 3).to(x_BCHW) @ own_B23.to(x_BCHW).transpose(1, 2)
    shaken_B2hw = interpolate(tremble_B2hw.to(x_BCHW), size=places, mode="bilinear", align_corners=True)
    at_Bn2 = at_Bn2 + shaken_B2hw.flatten(2).transpose(1, 2)
    bent_B2hw = grid_sample(
        bend_I2hw[inverse_B].to(x_BCHW), at_Bn2.view(batch, *places, 2), padding_mode="border", align_corners=True
    )
    at_B2n = map_I22[inverse_B].to(x_BCHW) @ at_Bn2.transpose(1, 2) + bent_B2hw.flatten(2)
    at_B2HW = interpolate(at_B2n.view(batch, 2, *places), size=(height, width), mode="bilinear", align_corners=True)
    return grid_sample(x_BCHW, at_B2HW.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
