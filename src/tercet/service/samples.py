"""From the bytes of an upload to a sample: the model's own front end, with the service's limits on top of its own."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, Final, Literal, final

import numpy.typing as npt

from tercet.data import AudioFrontEnd, FaceFrontEnd, FrontEnd, ImageFrontEnd, SignatureFrontEnd
from tercet.errors import DataError, InvalidInput
from tercet.service.settings import Settings

__all__ = ["Reader"]

_Pictures = ImageFrontEnd | SignatureFrontEnd | FaceFrontEnd

# What is larger is decoded one at a time, for its memory's sake.
_LARGE_PIXELS: Final = 4_000_000
_LARGE_RATE: Final = 48_000


@final
class Reader:
    """Decodes uploads; safe to use from several threads.

    Attributes:
        kind: "picture" or "sound".

    Raises:
        InvalidInput: A front end whose uploads cannot be bounded.
    """

    def __init__(self, front_end: FrontEnd, settings: Settings) -> None:
        self._front_end = _bounded(front_end, settings)
        self._max_seconds = settings.max_seconds
        self._one_large = threading.Lock()
        self.kind: Literal["picture", "sound"] = "sound" if isinstance(front_end, AudioFrontEnd) else "picture"

    def decode(self, blob: bytes, name: str) -> npt.NDArray[Any]:
        """The sample in an upload; nothing is decoded before its header has been found within the limits.

        Raises:
            TooLittle: It holds too little to decide by.
            DataError: It is no such file, damaged, or too large in any way: "name: reason".
        """
        front_end = self._front_end
        if isinstance(front_end, AudioFrontEnd):
            _, rate, frames, _ = front_end.header(blob, name, listened=0.0)
            if frames > self._max_seconds * rate:
                raise DataError(f"{name}: {frames / rate:.0f} seconds are more than the {self._max_seconds:g} allowed")
            large = rate > _LARGE_RATE
        else:
            limits = ImageFrontEnd(1, 1, 1, max_bytes=front_end.max_bytes, max_pixels=front_end.max_pixels)
            _, width, height = limits.header(blob, name)
            large = width * height > _LARGE_PIXELS
        if not large:
            return front_end.decode_bytes(blob, name)
        with self._one_large:
            return front_end.decode_bytes(blob, name)


def _bounded(front_end: FrontEnd, settings: Settings) -> AudioFrontEnd | _Pictures:
    """The front end with the tighter of its own and the service's limits; it decodes alike."""
    if isinstance(front_end, AudioFrontEnd):
        return dataclasses.replace(front_end, max_bytes=min(front_end.max_bytes, settings.max_file_bytes))
    if isinstance(front_end, ImageFrontEnd | SignatureFrontEnd | FaceFrontEnd):
        return dataclasses.replace(
            front_end,
            max_bytes=min(front_end.max_bytes, settings.max_file_bytes),
            max_pixels=min(front_end.max_pixels, settings.max_pixels),
        )
    raise InvalidInput(f"front end {front_end.kind!r}: the service has no limits for it")
