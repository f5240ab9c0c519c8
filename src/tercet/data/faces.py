"""From a photograph to one upright face on a square frame: found, turned and scaled by dlib (the extra `faces`).

    read whole, RGB             limits, EXIF, transparent onto white: the code for pictures; at most 800 pixels a side
    every face found            histograms of oriented gradients (dlib's frontal detector), from 80 pixels on, and from
                                40 where there is no larger one
    the one in question         the largest, less the square of its distance from the middle: not a passer-by
    five points                 corners of both eyes and the base of the nose, by regression trees
    turned, scaled and cut      so that the points come to lie where dlib's network expects them

Where no face is found there is nothing to decide: TooLittle, which verification answers with "undecided" and every
evaluation counts as a failure to acquire.

Models by Davis King, CC0, from the package face-recognition-models; its 68-point model, which has other terms, is not
used.

Legend: B batch, C channels, H height, W width, D width of a vector.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tercet.data.images import ImageFrontEnd
from tercet.errors import InvalidInput, MissingExtra, TooLittle

__all__ = ["FaceFrontEnd", "face_model"]

_LONGEST = 800  # pixels of the longer side that are looked at
_PADDING = 0.25  # around the face, as a share of its width: what dlib's network was trained with
_POINTS = "shape_predictor_5_face_landmarks.dat"


@final
@dataclass(frozen=True)
class FaceFrontEnd:
    """Turns a photograph into the face on it, uint8 [C, side, side], eyes level and of one size.

    Attributes:
        side: of the square frame, in pixels.
        channels: 1 (grey) or 3 (RGB).
        max_bytes: a larger file is refused before it is read.
        max_pixels: a picture whose header names more pixels is refused before it is decoded.

    Raises:
        InvalidInput: for a number out of range.
    """

    side: int
    channels: int
    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000

    kind: ClassVar[str] = "face"
    SUFFIXES: ClassVar[frozenset[str]] = ImageFrontEnd.SUFFIXES
    BASELINE: ClassVar[str] = ImageFrontEnd.BASELINE
    dtype: ClassVar[npt.DTypeLike] = np.uint8

    def __post_init__(self) -> None:
        self._pictures()  # checks the numbers that both have
        if self.side < 16:
            raise InvalidInput(f"side: must be an integer of at least 16, not {self.side}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, side, side)."""
        return self.channels, self.side, self.side

    def decode(self, source: Path | bytes) -> npt.NDArray[np.uint8]:
        """The face in a file, or in the bytes of one, as uint8 [C, side, side].

        Raises:
            DataError: where it cannot be read, is too large, or is no picture: "path: reason".
            TooLittle: where no face is found.
            MissingExtra: where dlib or its models are not installed.
        """
        if isinstance(source, bytes):
            return self.decode_bytes(source, "picture")
        return self.decode_bytes(self.read_bytes(source), str(source))

    def read_bytes(self, path: Path) -> bytes:
        """The bytes of a regular file of at most `max_bytes`.

        Raises:
            DataError: where there is no such file, it cannot be read, or it is too large.
        """
        return self._pictures().read_bytes(path)

    def decode_bytes(self, blob: bytes, name: str) -> npt.NDArray[np.uint8]:
        """The face in `blob` as uint8 [C, side, side]; `name` is what an error calls it.

        Raises:
            DataError: where the bytes are too many, or are no picture that can be read: "name: reason".
            TooLittle: where no face is found.
            MissingExtra: where dlib or its models are not installed.
        """
        rgb_3HW = self._pictures(channels=3).decode_whole(blob, name, longest=_LONGEST)
        face_HW3 = _face(np.ascontiguousarray(rgb_3HW.transpose(1, 2, 0)), self.side)
        if face_HW3 is None:
            raise TooLittle(f"{name}: no face found")
        if self.channels == 1:
            return np.asarray(Image.fromarray(face_HW3).convert("L"))[None]
        return np.ascontiguousarray(face_HW3.transpose(2, 0, 1))

    def normalise(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The network's input: (x / 255 - 0.5) / 0.5, float32 in [-1, 1], on the device of `x_BCHW` (uint8)."""
        return self._pictures().normalise(x_BCHW)

    def baseline(self, x_BCHW: torch.Tensor) -> npt.NDArray[np.float32]:
        """Unit vectors [B, D] without a network: the pixels of each face, their mean taken off."""
        return self._pictures().baseline(x_BCHW)

    def picture(self, sample: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A sample is a picture as it stands."""
        return sample

    def sound(self, sample: npt.NDArray[np.uint8]) -> bytes:
        """A face makes none."""
        return b""

    def golden(self) -> npt.NDArray[np.uint8]:
        """Four synthetic samples: slanted waves of several lengths."""
        return self._pictures().golden()

    def golden_file(self) -> bytes:
        """None: there is no face on what can be drawn in a few lines."""
        return b""

    def to_json(self) -> dict[str, object]:
        """The settings as JSON values; `from_json` reads them back."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_json(cls, value: object) -> FaceFrontEnd:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: where a setting is missing, unknown or out of range, or the kind is another one.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.keys() != {"kind", *names} or value["kind"] != cls.kind:
            raise InvalidInput(f"front end: must be an object with kind {cls.kind!r}, {', '.join(names)}")
        return cls(**{name: value[name] for name in names})

    def _pictures(self, channels: int | None = None) -> ImageFrontEnd:
        channels = self.channels if channels is None else channels
        return ImageFrontEnd(self.side, self.side, channels, max_bytes=self.max_bytes, max_pixels=self.max_pixels)


def face_model(file: str) -> Path:
    """A file of the package face-recognition-models; the package itself is not imported, which fails.

    Raises:
        MissingExtra: It is not installed.
    """
    found = importlib.util.find_spec("face_recognition_models")
    for place in () if found is None else found.submodule_search_locations or ():
        if (path := Path(place) / "models" / file).is_file():
            return path
    raise MissingExtra.of("dlib's models for faces:", "faces")


def _face(rgb_HW3: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8] | None:
    """The face in question, aligned, uint8 [side, side, 3]; None where there is none."""
    dlib, points = _dlib()
    if not hasattr(_own, "detector"):
        _own.detector = dlib.get_frontal_face_detector()
    found = next((boxes for upsampled in (0, 1) if (boxes := _own.detector(rgb_HW3, upsampled))), None)
    if found is None:
        return None
    middle_y, middle_x = (length / 2 for length in rgb_HW3.shape[:2])

    def weight(box: Any) -> float:
        centre = box.center()
        return float(box.area() - (centre.x - middle_x) ** 2 - (centre.y - middle_y) ** 2)

    face: npt.NDArray[np.uint8] = dlib.get_face_chip(
        rgb_HW3, points(rgb_HW3, max(found, key=weight)), size=side, padding=_PADDING
    )
    return face


_own = threading.local()  # a detector works on a picture at a time: each thread has its own


@functools.cache
def _dlib() -> tuple[Any, Any]:
    """dlib, and its model of five points."""
    try:
        dlib = importlib.import_module("dlib")
    except ImportError as error:
        raise MissingExtra.of("finding faces", "faces") from error
    return dlib, dlib.shape_predictor(str(face_model(_POINTS)))
