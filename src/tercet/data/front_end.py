"""What a front end is: the fixed way from the bytes of a file to the network's input, for one kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tercet.data.audio import AudioFrontEnd
from tercet.data.faces import FaceFrontEnd
from tercet.data.images import ImageFrontEnd
from tercet.data.signatures import SignatureFrontEnd
from tercet.errors import InvalidInput

__all__ = ["FrontEnd", "read_front_end"]


class FrontEnd(Protocol):
    """Turns a file into a sample, an array of one fixed shape, and a batch of samples into the network's input.

    It is saved with the run and identical in training, evaluation and use. Frozen: two of equal settings are equal.

    Attributes:
        kind: its name in run.json.
        SUFFIXES: endings of the files that it reads, in lower case and with the dot.
        BASELINE: what its `baseline` is called in figures, as a JSON key.
        dtype: of a sample.
    """

    kind: ClassVar[str]
    SUFFIXES: ClassVar[frozenset[str]]
    BASELINE: ClassVar[str]
    dtype: ClassVar[npt.DTypeLike]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        ...

    def decode(self, source: Path | bytes) -> npt.NDArray[Any]:
        """The sample in a file, or in the bytes of one.

        Raises:
            DataError: where it cannot be read, is too large, or holds nothing of this kind: "path: reason".
        """
        ...

    def read_bytes(self, path: Path) -> bytes:
        """The bytes of a regular file that is not too large.

        Raises:
            DataError: where there is no such file, it cannot be read, or it is too large.
        """
        ...

    def decode_bytes(self, blob: bytes, name: str) -> npt.NDArray[Any]:
        """The sample in `blob`; `name` is what an error calls it.

        Raises:
            DataError: where the bytes are no such sample: "name: reason".
        """
        ...

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """The network's input for a batch of samples [B, *shape]: float32, on the device of `x`."""
        ...

    def baseline(self, x: torch.Tensor) -> npt.NDArray[np.float32]:
        """A batch of samples [B, *shape] as unit vectors [B, D] without any network: what a model has to beat."""
        ...

    def picture(self, sample: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """A sample as people look at it: uint8 [C, H, W], one channel or three."""
        ...

    def sound(self, sample: npt.NDArray[Any]) -> bytes:
        """A sample as people hear it, an MP3 file; empty for what makes no sound."""
        ...

    def golden(self) -> npt.NDArray[Any]:
        """Synthetic samples [4, *shape], alike on every machine: a loaded model must give their vectors again."""
        ...

    def golden_file(self) -> bytes:
        """A synthetic file with what decoding has to deal with, of which a loaded model must make the same sample.

        Empty where there can be none.
        """
        ...

    def to_json(self) -> dict[str, object]:
        """The settings as JSON values, with `kind`; `read_front_end` reads them back."""
        ...


def read_front_end(value: object) -> FrontEnd:
    """Read what a front end's `to_json` wrote.

    Raises:
        InvalidInput: where the kind is unknown, a setting is missing, unknown or out of range.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    match kind:
        case ImageFrontEnd.kind:
            return ImageFrontEnd.from_json(value)
        case AudioFrontEnd.kind:
            return AudioFrontEnd.from_json(value)
        case SignatureFrontEnd.kind:
            return SignatureFrontEnd.from_json(value)
        case FaceFrontEnd.kind:
            return FaceFrontEnd.from_json(value)
        case _:
            known = (ImageFrontEnd.kind, AudioFrontEnd.kind, SignatureFrontEnd.kind, FaceFrontEnd.kind)
            raise InvalidInput(f"front end: kind {kind!r} is not known; known: {', '.join(map(repr, known))}")
