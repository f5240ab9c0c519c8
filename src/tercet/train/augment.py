"""Random changes to a batch of training pictures.

Small ones, each picture in its own way, leave it the identity it is: `affine`, `light`, `erase`, `stroke`.
Large ones, all pictures of an identity in the same way, make another identity of it: `identity_skews`. A face of other
proportions is another face; so a few identities in training become many, and the network cannot learn those few by
heart (after Liu et al., Task Augmentation by Rotating for Meta-Learning, arXiv 2003.00804).

They work on whole batches in torch, at a small share of the cost of a training step. All numbers are drawn from the
generator that is passed in, on the CPU, so that they are the same on every device.

Legend: B batch, C channels, H height, W width. Pictures are floats in [-1, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch

from tercet.errors import InvalidInput

__all__ = ["affine", "erase", "identity_skews", "light", "stroke"]


def affine(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    *,
    shift: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    stretch: float = 0.0,
    degrees: float = 0.0,
    skew: float = 0.0,
    flip: bool = False,
    skews_B22: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shift, zoom, stretch, turn, skew and mirror, in one resampling; the border is continued outwards.

    Args:
        x_BCHW: Pictures.
        generator: Source of the draws.
        shift: Largest shift to each side, as a share of the picture's side.
        zoom: Range of the enlargement; above 1 shows a part of the picture.
        stretch: Largest relative change of width against height.
        degrees: Largest turn to each side.
        skew: Most that is added to or taken from each of the four numbers of the linear map: stretch, shear and turn.
        flip: Whether left and right change places in half of the pictures.
        skews_B22: Linear maps that come before all this, such as those of `identity_skews`; in the same resampling.
    """
    batch = len(x_BCHW)
    angle_B = _between(-degrees, degrees, batch, generator) * (math.pi / 180)
    zoom_B = torch.exp(_between(math.log(zoom[0]), math.log(zoom[1]), batch, generator))
    aspect_B = torch.exp(_between(-stretch, stretch, batch, generator) / 2)
    mirror_B = torch.ones(batch)
    if flip:
        mirror_B = mirror_B - 2.0 * (torch.rand(batch, generator=generator) < 0.5)
    # A turn is one of the picture as it lies, so coordinates, which run from -1 to 1 on both sides, are made square.
    ratio = x_BCHW.shape[2] / x_BCHW.shape[3]
    cos_B, sin_B = torch.cos(angle_B) / zoom_B, torch.sin(angle_B) / zoom_B
    map_B22 = torch.stack(
        [
            torch.stack([mirror_B * cos_B * aspect_B, -sin_B * ratio], dim=1),
            torch.stack([mirror_B * sin_B / ratio, cos_B / aspect_B], dim=1),
        ],
        dim=1,
    )
    map_B22 = map_B22 + _between(-skew, skew, 4 * batch, generator).view(batch, 2, 2)
    shift_B21 = _between(-2 * shift, 2 * shift, 2 * batch, generator).view(batch, 2, 1)
    theta_B23 = torch.cat([map_B22, shift_B21], dim=2)
    return _resample(x_BCHW, theta_B23 if skews_B22 is None else skews_B22 @ theta_B23)


def light(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    *,
    contrast: float = 0.0,
    brightness: float = 0.0,
    tint: float = 0.0,
    slope: float = 0.0,
) -> torch.Tensor:
    """Change contrast (a factor), brightness (an offset), white balance and the fall of light across the picture.

    Args:
        x_BCHW: Pictures.
        generator: Source of the draws.
        contrast: Largest relative change.
        brightness: Largest offset to each side; the whole range of grey is 2.
        tint: The channels are scaled apart, each by exp(+-tint) at most; black stays black.
        slope: Largest difference between the centre and an edge, of a plane.
    """
    batch, channels, height, width = x_BCHW.shape
    gain_B1 = torch.exp(_between(-contrast, contrast, batch, generator)).view(-1, 1).to(x_BCHW)
    offset_B1 = _between(-brightness, brightness, batch, generator).view(-1, 1).to(x_BCHW)
    tint_BC = torch.ones(batch, channels)
    if tint:
        tint_BC = torch.exp(_between(-tint, tint, batch * channels, generator)).view(batch, channels)
    tint_BC = tint_BC.to(x_BCHW)
    # All of it is one factor and one offset for each channel: a pass over the pixels for their mean, and one to change.
    tinted_mean_B1 = (x_BCHW.mean(dim=(2, 3)) * tint_BC + (tint_BC - 1)).mean(dim=1, keepdim=True)
    offset_BC = (tint_BC - 1) * gain_B1 + tinted_mean_B1 * (1 - gain_B1) + offset_B1
    changed = torch.addcmul(offset_BC[..., None, None], x_BCHW, (tint_BC * gain_B1)[..., None, None])
    if slope:
        down_B, across_B = (_between(-slope, slope, batch, generator).to(x_BCHW) for _ in range(2))
        down_BH = down_B[:, None] * torch.linspace(-1, 1, height).to(x_BCHW)
        across_BW = across_B[:, None] * torch.linspace(-1, 1, width).to(x_BCHW)
        changed += down_BH[:, None, :, None] + across_BW[:, None, None, :]
    return changed.clamp_(-1, 1)


def erase(x_BCHW: torch.Tensor, generator: torch.Generator, *, side: float, share: float = 0.5) -> torch.Tensor:
    """Cover a rectangle in a share of the pictures with their mean: no single part may carry the identity.

    Args:
        x_BCHW: Pictures.
        generator: Source of the draws.
        side: Largest height and width of the rectangle, as a share of the picture's; 0 to 1.
        share: Share of the pictures that get one.

    Raises:
        InvalidInput: `side` is not a share.
    """
    if not 0 <= side <= 1:
        raise InvalidInput(f"side must be from 0 to 1, got {side:g}")
    batch, _, height, width = x_BCHW.shape
    on_B = torch.rand(batch, generator=generator) < share

    def inside(length: int) -> list[slice]:
        size_B = _between(0.0, side, batch, generator)
        start_B = torch.rand(batch, generator=generator) * (1 - size_B)
        first_B, end_B = (torch.ceil(at_B * length - 0.5).long().tolist() for at_B in (start_B, start_B + size_B))
        return [slice(first, end) for first, end in zip(first_B, end_B, strict=True)]  # pixels by their middles

    rows_B, columns_B = inside(height), inside(width)
    mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
    erased_BCHW = x_BCHW.clone()
    for n in on_B.nonzero()[:, 0].tolist():
        erased_BCHW[n, :, rows_B[n], columns_B[n]] = mean_BC11[n]
    return erased_BCHW


def stroke(x_BCHW: torch.Tensor, generator: torch.Generator, *, thinner: float, thicker: float) -> torch.Tensor:
    """Draw bright strokes on black with a finer or a broader pen.

    Each picture goes a share of the way to its erosion or its dilation by 3 x 3 pixels (the least and the greatest of a
    pixel and those around it), drawn evenly from `thinner` towards the one to `thicker` towards the other.

    Args:
        x_BCHW: Pictures.
        generator: Source of the draws.
        thinner: Largest share of the way to the erosion, 0 to 1; a line of one pixel is gone at 1.
        thicker: Largest share of the way to the dilation, 0 to 1.
    """
    share_B111 = _between(-thinner, thicker, len(x_BCHW), generator).view(-1, 1, 1, 1).to(x_BCHW)
    # The least of some numbers is the greatest of their negatives, negated: so one pass serves both pens.
    sign_B111 = torch.where(share_B111 < 0, -1.0, 1.0)
    drawn_BCHW = sign_B111 * x_BCHW
    for axis in (2, 3):  # three pixels across and then down: a tenth of the time of `max_pool2d`
        drawn_BCHW = _greatest_of_three(drawn_BCHW, axis)
    return torch.lerp(x_BCHW, sign_B111 * drawn_BCHW, share_B111.abs())


def _greatest_of_three(x_BCHW: torch.Tensor, axis: int) -> torch.Tensor:
    """Along an axis, the greatest of each pixel and the two beside it."""
    length = x_BCHW.shape[axis]
    of_two = torch.maximum(x_BCHW.narrow(axis, 0, length - 1), x_BCHW.narrow(axis, 1, length - 1))
    greatest_BCHW = x_BCHW.clone()
    greatest_BCHW.narrow(axis, 0, length - 1).copy_(of_two)
    inner = greatest_BCHW.narrow(axis, 1, length - 1)
    torch.maximum(inner, of_two, out=inner)
    return greatest_BCHW


def identity_skews(
    labels_B: torch.Tensor, generator: torch.Generator, *, share: float, strength: float
) -> torch.Tensor:
    """Linear maps of the plane that stretch, shear and turn a share of the identities, one for each: `affine` has them.

    The map is the unit matrix with up to `strength` added to or taken from each of its four numbers.

    Args:
        labels_B: Whose the pictures are.
        generator: Source of the draws.
        share: Share of the identities.
        strength: Below 1.
    """
    inverse_B, count = _identities(labels_B)
    on_I = torch.rand(count, generator=generator) < share
    change_I22 = _between(-strength, strength, 4 * count, generator).view(count, 2, 2) * on_I[:, None, None]
    return (torch.eye(2) + change_I22)[inverse_B]


def _resample(x_BCHW: torch.Tensor, theta_B23: torch.Tensor) -> torch.Tensor:
    """Each picture seen through its affine map, in coordinates from -1 to 1; the border is continued outwards."""
    height, width = x_BCHW.shape[2:]
    theta_B123 = theta_B23.to(x_BCHW.device, torch.promote_types(x_BCHW.dtype, torch.float32))[:, None]
    down_H, across_W = (
        torch.linspace(-1 + 1 / side, 1 - 1 / side, side, dtype=theta_B123.dtype, device=x_BCHW.device)
        for side in (height, width)
    )
    across_BW2 = theta_B123[..., 0] * across_W[:, None]
    down_BH2 = theta_B123[..., 1] * down_H[:, None] + theta_B123[..., 2]
    # A sum of a row and a column of points. As complex numbers, one to a point, it takes a third of the time that it
    # does by coordinates, and a sixth of that of `affine_grid`, which multiplies matrices for it.
    across_BW, down_BH = (torch.view_as_complex(points.contiguous()) for points in (across_BW2, down_BH2))
    grid_BHW2 = torch.view_as_real(down_BH[:, :, None] + across_BW[:, None]).to(x_BCHW.dtype)
    return torch.nn.functional.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def _identities(labels_B: torch.Tensor) -> tuple[torch.Tensor, int]:
    """For each row the number of its identity, from 0; and how many there are."""
    inverse_B = torch.from_numpy(np.unique(labels_B.cpu().numpy(), return_inverse=True)[1])
    return inverse_B, int(inverse_B.max()) + 1


def _between(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
