"""From a scan or photograph of a signature to ink on a frame of one size: the paper, its tint and the pen's colour go.

    read whole, grey            limits, EXIF, transparent onto white: the code for pictures; at most 1024 pixels a side
    light ink on dark turned    where the finer structure is lighter than what surrounds it
    divided by the paper        its brightness estimated block by block: tint, vignette and soft shadows cancel
    Otsu's threshold            ink or paper, nothing between: how dark or what colour the pen is has no part
    specks dropped              pieces of ink far smaller than the rest
    placed and scaled           centre of mass in the middle of the frame, at its own proportions, as large as fits:
                                what is oversized is scaled down, and nothing is ever cut off
    ink bright on black         the grey of a pixel is the share of it that is ink

A sample says nothing of absolute size, of colour and of darkness: in published data these tell the scanner or the pen
of the forger from those of the writer, and a network would learn that instead of the hand.

Legend: B batch, H height, W width, D width of a vector.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from tercet.data.hog import oriented_gradients
from tercet.data.images import ImageFrontEnd
from tercet.errors import InvalidInput, TooLittle

__all__ = ["SignatureFrontEnd"]

_LONGEST = 1024  # pixels of the longer side that are looked at; a stroke has several
_BLOCKS = 24  # blocks along the longer side, over which the brightness of the paper is estimated
_PAPER = 90  # percentile of a block that is paper
_LEAST_CONTRAST = 0.15  # of the paper's brightness, between ink and paper; grain and compression stay below
_LEAST_INK = 40  # pixels of ink, at the size that is looked at
_LARGEST_INK = 0.5  # share of a picture; more is no writing on paper
_SPECK = 0.002  # of all ink: smaller pieces are dirt


@final
@dataclass(frozen=True)
class SignatureFrontEnd:
    """Turns a picture of a signature into uint8 [1, H, W]: ink 255 on 0, centred, scaled to the frame.

    Attributes:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        edge: pixels that stay free on each side.
        max_bytes: a larger file is refused before it is read.
        max_pixels: a picture whose header names more pixels is refused before it is decoded.

    Raises:
        InvalidInput: for a number out of range.
    """

    height: int
    width: int
    edge: int = 4
    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000

    kind: ClassVar[str] = "signature"
    SUFFIXES: ClassVar[frozenset[str]] = ImageFrontEnd.SUFFIXES
    BASELINE: ClassVar[str] = "hog"
    dtype: ClassVar[npt.DTypeLike] = np.uint8

    def __post_init__(self) -> None:
        self._pictures()  # checks the numbers that both have
        if not isinstance(self.edge, int) or isinstance(self.edge, bool) or self.edge < 0:
            raise InvalidInput(f"edge: must be an integer of at least 0, not {self.edge!r}")
        if min(self.height, self.width) < 2 * self.edge + 8:
            raise InvalidInput(
                f"height, width: {self.height} x {self.width} leave no 8 pixels inside an edge of {self.edge}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, H, W)."""
        return 1, self.height, self.width

    def decode(self, source: Path | bytes) -> npt.NDArray[np.uint8]:
        """The signature in a file, or in the bytes of one, as uint8 [1, H, W].

        Raises:
            DataError: where it cannot be read, is too large, or is no picture: "path: reason".
            TooLittle: where there is no ink, or nothing that stands out from its ground as ink does.
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
        """The signature in `blob` as uint8 [1, H, W]; `name` is what an error calls it.

        Raises:
            DataError: where the bytes are too many, or are no picture that can be read: "name: reason".
            TooLittle: where there is no ink, or nothing that stands out from its ground as ink does.
        """
        grey_HW = self._pictures().decode_whole(blob, name, longest=_LONGEST)[0]
        try:
            ink_HW = find_ink(grey_HW)
        except TooLittle as error:
            raise TooLittle(f"{name}: {error}") from None
        return self._framed(ink_HW)[None]

    def normalise(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The network's input: (x / 255 - 0.5) / 0.5, float32 in [-1, 1], on the device of `x_BCHW` (uint8)."""
        return self._pictures().normalise(x_BCHW)

    def baseline(self, x_BCHW: torch.Tensor) -> npt.NDArray[np.float32]:
        """Unit vectors [B, D] without a network: histograms of oriented gradients of the framed signature."""
        return oriented_gradients(x_BCHW[:, 0].float() / 255, cell=max(4, self.height // 6)).numpy()

    def picture(self, sample: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A sample as it was on paper: dark ink on white."""
        return 255 - sample

    def sound(self, sample: npt.NDArray[np.uint8]) -> bytes:
        """A signature makes none."""
        return b""

    def golden(self) -> npt.NDArray[np.uint8]:
        """Four synthetic samples: slanted waves of several lengths."""
        return self._pictures().golden()

    def golden_file(self) -> bytes:
        """A PNG picture of a dark flourish on paper that is lighter on one side, and a small blot."""
        row, column = np.mgrid[:160, :320].astype(np.float64)
        paper = 215 + column / 10
        line = np.abs(row - 80 - 40 * np.sin(column / 23) * np.sin(column / 71)) < 3 + 2 * np.sin(column / 9)
        blot = (row - 30) ** 2 + (column - 250) ** 2 < 30
        paper[line & (column > 40) & (column < 290) | blot] -= 150
        file = io.BytesIO()
        Image.fromarray(paper.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def to_json(self) -> dict[str, object]:
        """The settings as JSON values; `from_json` reads them back."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_json(cls, value: object) -> SignatureFrontEnd:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: where a setting is missing, unknown or out of range, or the kind is another one.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.keys() != {"kind", *names} or value["kind"] != cls.kind:
            raise InvalidInput(f"front end: must be an object with kind {cls.kind!r}, {', '.join(names)}")
        return cls(**{name: value[name] for name in names})

    def _pictures(self) -> ImageFrontEnd:
        return ImageFrontEnd(self.height, self.width, 1, max_bytes=self.max_bytes, max_pixels=self.max_pixels)

    def _framed(self, ink_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """The ink on the frame: its centre of mass in the middle, as large as fits inside the edge."""
        rows, columns = np.flatnonzero(ink_HW.any(axis=1)), np.flatnonzero(ink_HW.any(axis=0))
        cut_hw = ink_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        room = np.array([self.height - 2 * self.edge, self.width - 2 * self.edge])
        centre = np.array([(np.arange(n) + 0.5) @ cut_hw.sum(axis=1 - axis) for axis, n in enumerate(cut_hw.shape)])
        centre = centre / cut_hw.sum()
        # Half the sides of the smallest canvas of the frame's proportions that holds the ink around its centre.
        half = np.maximum(centre, cut_hw.shape - centre)
        half = np.ceil((half / room).max() * room)
        canvas = np.zeros(2 * half.astype(np.int64), np.uint8)
        top, left = np.clip(np.round(half - centre).astype(np.int64), 0, canvas.shape - np.array(cut_hw.shape))
        canvas[top : top + cut_hw.shape[0], left : left + cut_hw.shape[1]] = 255 * cut_hw.astype(np.uint8)
        # Hamming averages over what falls into a pixel on the way down, and interpolates on the way up.
        small = Image.fromarray(canvas).resize((int(room[1]), int(room[0])), Image.Resampling.HAMMING)
        return np.pad(np.asarray(small), self.edge)


def find_ink(grey_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the ink is in a grey picture of writing: bool [H, W].

    Raises:
        TooLittle: where nothing stands out as ink does; the message is the reason alone.
    """
    x_HW = grey_HW.astype(np.float32)
    if _is_light_on_dark(x_HW):
        x_HW = 255 - x_HW
    level_HW = x_HW / _paper(x_HW)
    np.clip(level_HW, 0, 1, out=level_HW)
    threshold = _otsu(level_HW)
    ink_HW = level_HW <= threshold
    count = int(ink_HW.sum())
    if not count or level_HW[~ink_HW].mean() - level_HW[ink_HW].mean() < _LEAST_CONTRAST:
        raise TooLittle("too little ink: nothing stands out from the paper")
    ink_HW = _without_specks(ink_HW)
    count = int(ink_HW.sum())
    if count < _LEAST_INK:
        raise TooLittle(f"too little ink: {count} pixels")
    if count > _LARGEST_INK * ink_HW.size:
        raise TooLittle("no signature: more than half of the picture is dark")
    return ink_HW


def _is_light_on_dark(x_HW: npt.NDArray[np.float32]) -> bool:
    """Whether most of the picture is dark and its fine structure lighter than what surrounds it."""
    if np.median(x_HW) >= 128:
        return False
    fine_HW = x_HW - ndimage.uniform_filter(x_HW, size=max(3, max(x_HW.shape) // 16))
    return bool((fine_HW**3).mean() > 0)


def _paper(x_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The brightness of the paper under each pixel: high percentiles of blocks, widened over inked ones, smoothed."""
    height, width = x_HW.shape
    block = max(4, -(-max(height, width) // _BLOCKS))
    down, across = -(-height // block), -(-width // block)
    whole = np.pad(x_HW, ((0, down * block - height), (0, across * block - width)), mode="edge")
    blocks = whole.reshape(down, block, across, block).transpose(0, 2, 1, 3).reshape(down, across, -1)
    # A block that strokes fill has no paper of its own, and takes that of its neighbours.
    level = ndimage.maximum_filter(np.percentile(blocks, _PAPER, axis=2), size=3, mode="nearest")
    level = ndimage.gaussian_filter(level, 1.0, mode="nearest")
    at = [(np.arange(side) + 0.5) / block - 0.5 for side in (height, width)]
    paper_HW = ndimage.map_coordinates(level, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    at_least_one: npt.NDArray[np.float32] = np.maximum(paper_HW, 1).astype(np.float32)
    return at_least_one


def _otsu(level_HW: npt.NDArray[np.float32]) -> float:
    """The threshold that parts levels from 0 to 1 into two classes of the least variance within (Otsu 1979).

    Raises:
        TooLittle: where all levels are one.
    """
    counts, edges = np.histogram(level_HW, bins=256, range=(0.0, 1.0))
    below = np.cumsum(counts)[:-1]
    above = level_HW.size - below
    centre = (edges[:-1] + edges[1:]) / 2
    sums = np.cumsum(counts * centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.where((below > 0) & (above > 0), between, -1.0)
    if between.max() <= 0:
        raise TooLittle("too little ink: the picture is blank")
    # Between two far peaks every threshold is as good: the middle of the best ones.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1 + best[0]] + edges[1 + best[-1]]) / 2


def _without_specks(ink_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pieces_HW, _ = ndimage.label(ink_HW, structure=np.ones((3, 3)))
    area = np.bincount(pieces_HW.ravel())
    area[0] = 0
    kept: npt.NDArray[np.bool_] = (area > _SPECK * area.sum())[pieces_HW]
    return kept
