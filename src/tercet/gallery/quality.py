"""Whether a picture shows enough to be enrolled: what can be told from its own pixels, as the model gets to see them.

Limits are where nothing can be recognised any more, not where recognition gets worse: no face, sign or thing is looked
for. Measured on sharp faces, groceries and signatures none of the three says anything; see docs/gallery.md.

    C channels, H, W height and width
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tercet.gallery.templates import MAX_PICTURE_BYTES

if TYPE_CHECKING:
    from tercet.data import FrontEnd

__all__ = ["Quality", "are_pictures", "picture_bytes", "quality_of"]

_BLANK_LEVELS: Final = 16.0  # of 255 between the darkest and the lightest
_DARK_LEVEL: Final = 40.0
_BRIGHT_LEVEL: Final = 215.0
_LEAST_SIDE: Final = 32  # a smaller picture has no fine detail to lose
_DETAIL: Final = 0.25  # sharp pictures have 0.8 and more, blurred by a twelfth of their side 0.2 (times 1 / side)


@final
@dataclass(frozen=True)
class Quality:
    """`refuse`: why a picture must not be enrolled; `warn`: what may be wrong with it; "": nothing."""

    refuse: str = ""
    warn: str = ""


def are_pictures(front_end: FrontEnd) -> bool:
    """Whether a front end's samples are pictures: uint8 [C, H, W] of one channel or three."""
    return np.dtype(front_end.dtype) == np.uint8 and len(front_end.shape) == 3 and front_end.shape[0] in (1, 3)


def quality_of(picture_CHW: npt.NDArray[np.uint8]) -> Quality:
    """Judge a decoded picture, uint8 [C, H, W].

    Refused: hardly any difference in lightness, or nothing but very dark or very light. Warned of: hardly any variance
    between neighbouring pixels (2 x 2 blocks) in the variance of the whole, as a strong blur leaves it.
    """
    grey_HW = picture_CHW.mean(axis=0)
    low, high = np.percentile(grey_HW, [0.2, 99.8])
    if high < _DARK_LEVEL:
        return Quality(refuse=f"too dark: its lightest parts have {high:.0f} of 255")
    if low > _BRIGHT_LEVEL:
        return Quality(refuse=f"too bright: its darkest parts have {low:.0f} of 255")
    if high - low < _BLANK_LEVELS:
        return Quality(refuse=f"blank: lightest and darkest parts differ by {high - low:.0f} of 255")
    height, width = (side // 2 * 2 for side in grey_HW.shape)
    if min(height, width) >= _LEAST_SIDE:
        blocks = grey_HW[:height, :width].reshape(height // 2, 2, width // 2, 2)
        detail = ((blocks - blocks.mean(axis=(1, 3), keepdims=True)) ** 2).mean() / grey_HW.var()
        if detail * min(height, width) < _DETAIL:
            return Quality(warn="blurred: hardly any fine detail")
    return Quality()


def picture_bytes(picture_CHW: npt.NDArray[np.uint8]) -> bytes:
    """A decoded picture as a small JPEG, at most 256 pixels wide and high: pixels only, no EXIF, no place, no name."""
    pixels = picture_CHW[0] if len(picture_CHW) == 1 else np.moveaxis(picture_CHW, 0, 2)
    image = Image.fromarray(pixels)
    image.thumbnail((256, 256))
    for quality in (85, 60, 30):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_PICTURE_BYTES:
            break
    return buffer.getvalue()
