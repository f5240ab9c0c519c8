"""What a file says of itself without anybody looking at what it shows: size, kind, brightness; duration, loudness.

These tell one scanner, camera or session from another. Where they tell identities or forgeries apart, figures may
measure the taking of the data and not the model.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tercet.data.audio import AudioFrontEnd
from tercet.data.front_end import FrontEnd
from tercet.data.images import ImageFrontEnd

__all__ = ["FILE_TYPE", "file_properties"]

FILE_TYPE: Final = "file type"
"""The property that is a name and not a number."""

_LONGEST = 96  # pixels of the longer side at which brightness is measured
_INK = 0.75  # of the paper's brightness; darker is ink
_LISTENED = 10.0  # seconds whose loudness is measured
_QUIETEST = 1e-6


def file_properties(front_end: FrontEnd, blob: bytes, name: str) -> dict[str, float | str]:
    """The trivial properties of a file: numbers by name, and its "file type".

    Of every file: "file size" (logarithm of bytes). Of a picture: "picture width", "picture height" (logarithms of
    pixels), "mean grey", "paper grey" (what nine tenths of its pixels do not exceed), "colour" (mean distance of the
    channels, 0 to 255) and "ink share" (pixels below three quarters of the paper). Of a recording: "duration"
    (logarithm of seconds), "loudness" (dB of the first ten seconds) and "sampling rate" (logarithm). Sizes come as
    logarithms so that their differences are ratios.

    The limits are those of the front end. Header alone for all but brightness and loudness, which take a small version
    and ten seconds.

    Raises:
        DataError: where it cannot be read: "name: reason".
    """
    size = float(np.log(max(1, len(blob))))
    if isinstance(front_end, AudioFrontEnd):
        return {"file size": size, **_of_sound(front_end, blob, name)}
    pictures = ImageFrontEnd(
        8,
        8,
        3,
        max_bytes=getattr(front_end, "max_bytes", 64 * 2**20),
        max_pixels=getattr(front_end, "max_pixels", 2**26),
    )
    kind, width, height = pictures.header(blob, name)
    small_3HW = pictures.decode_whole(blob, name, longest=_LONGEST).astype(np.float32)
    grey_HW = small_3HW.mean(axis=0)
    paper = float(np.quantile(grey_HW, 0.9))
    return {
        "file size": size,
        "picture width": float(np.log(width)),
        "picture height": float(np.log(height)),
        "mean grey": float(grey_HW.mean()),
        "paper grey": paper,
        "colour": float((small_3HW.max(axis=0) - small_3HW.min(axis=0)).mean()),
        "ink share": float((grey_HW < _INK * paper).mean()),
        FILE_TYPE: kind,
    }


def _of_sound(front_end: AudioFrontEnd, blob: bytes, name: str) -> dict[str, float | str]:
    form, rate, frames, power = front_end.header(blob, name, listened=_LISTENED)
    return {
        "duration": float(np.log(max(1, frames) / rate)),
        "loudness": 10 * float(np.log10(max(power, _QUIETEST**2))),
        "sampling rate": float(np.log(rate)),
        FILE_TYPE: form,
    }
