"""From the bytes of a picture to a uint8 array of one fixed shape: the same code in training, evaluation and use."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tercet.data.reading import read_file
from tercet.errors import DataError, InvalidInput, InvalidOption

__all__ = ["ImageFrontEnd"]

# The only decoders that see a file, in the order in which they are asked.
_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
_FITS = ("crop", "pad", "stretch")
_ORIENTATION = 0x0112
# What turns a picture upright, by its EXIF orientation.
_TRANSPOSES = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGEST_SIDE = 4096
_Read = TypeVar("_Read")


class _Unsupported(Exception):
    """A sound picture of a kind that has no fixed meaning in 8 bits."""


@dataclass(frozen=True)
class ImageFrontEnd:
    """Turns a picture into uint8 [C, H, W], and a batch of those into the network's float32 input.

    A picture is turned upright (EXIF), laid on white where it is transparent, brought to 8 bits per channel and to grey
    or RGB, and resized with antialiasing; of an animation or a multi-page file the first frame is taken.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        fit: "crop" (fill the frame, cut what stands out on two sides), "pad" (show all, white beside it), "stretch".
        max_bytes: a larger file is refused before it is read.
        max_pixels: a picture whose header names more pixels is refused before it is decoded.

    Raises:
        InvalidInput: for a number out of range.
        InvalidOption: for an unknown `fit`.
    """

    height: int
    width: int
    channels: int
    fit: str = "crop"
    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000

    kind: ClassVar[str] = "image"
    BASELINE: ClassVar[str] = "raw_pixels"
    dtype: ClassVar[npt.DTypeLike] = np.uint8
    SUFFIXES: ClassVar[frozenset[str]] = frozenset(
        {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".gif"}
    )

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels", "max_bytes", "max_pixels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name}: must be an integer of at least 1, not {value!r}")
        if self.channels not in (1, 3):
            raise InvalidInput(f"channels: must be 1 or 3, not {self.channels}")
        if max(self.height, self.width) > _LARGEST_SIDE:
            raise InvalidInput(f"height, width: must be at most {_LARGEST_SIDE}, not {self.height} x {self.width}")
        if self.fit not in _FITS:
            raise InvalidOption.unknown("fit", self.fit, _FITS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a decoded picture."""
        return self.channels, self.height, self.width

    def decode(self, source: Path | bytes) -> npt.NDArray[np.uint8]:
        """The picture in a file, or in the bytes of one, as uint8 [C, H, W].

        Raises:
            DataError: where it cannot be read, is too large, or is no picture: "path: reason".
        """
        if isinstance(source, bytes):
            return self.decode_bytes(source, "picture")
        return self.decode_bytes(self.read_bytes(source), str(source))

    def read_bytes(self, path: Path) -> bytes:
        """The bytes of a regular file of at most `max_bytes`.

        Raises:
            DataError: where there is no such file, it cannot be read, or it is too large.
        """
        return read_file(path, max_bytes=self.max_bytes)

    def decode_bytes(self, blob: bytes, name: str) -> npt.NDArray[np.uint8]:
        """The picture in `blob` as uint8 [C, H, W]; `name` is what an error calls it.

        Raises:
            DataError: where the bytes are too many, or are no picture that can be read: "name: reason".
        """
        return self._opened(blob, name, self._to_array)

    def decode_whole(self, blob: bytes, name: str, *, longest: int) -> npt.NDArray[np.uint8]:
        """The whole picture in `blob`, uint8 [channels, H, W] at its own proportions, as `decode_bytes` reads it.

        `height`, `width` and `fit` have no part in it: the longer side is brought down to `longest` pixels where it
        has more, by area, and left alone where it has fewer.

        Raises:
            DataError: where the bytes are too many, or are no picture that can be read: "name: reason".
        """

        def shrunk(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
            image.draft("L" if self.channels == 1 else None, (2 * longest, 2 * longest))
            image.load()
            plain = _upright(_opaque_8_bit(image), _orientation(image))
            mode = "L" if self.channels == 1 else "RGB"
            plain = plain if plain.mode == mode else plain.convert(mode)
            scale = longest / max(plain.size)
            if scale < 1:
                size = max(1, round(plain.width * scale)), max(1, round(plain.height * scale))
                plain = plain.resize(size, Image.Resampling.BOX)
            array = np.asarray(plain)
            return array[None] if mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))

        return self._opened(blob, name, shrunk)

    def header(self, blob: bytes, name: str) -> tuple[str, int, int]:
        """What the header of a picture says, nothing decoded: its format ("PNG"), width and height in pixels.

        Raises:
            DataError: as `decode_bytes`.
        """
        return self._opened(blob, name, lambda image: (str(image.format), image.width, image.height))

    def _opened(self, blob: bytes, name: str, read: Callable[[ImageFile.ImageFile], _Read]) -> _Read:
        """What `read` makes of the picture in `blob`, within the limits and with one kind of error."""
        if not blob:
            raise DataError(f"{name}: the file is empty")
        if len(blob) > self.max_bytes:
            raise DataError(f"{name}: is larger than {self.max_bytes} bytes")
        try:
            image = _open(blob)
            if image is None:
                raise DataError(f"{name}: is not an image that can be read ({', '.join(_FORMATS)})")
            if image.width * image.height > self.max_pixels:
                raise DataError(
                    f"{name}: {image.width} x {image.height} pixels are more than the {self.max_pixels} allowed"
                )
            return read(image)
        except _Unsupported as error:
            raise DataError(f"{name}: {error}") from error
        except (DataError, MemoryError):
            raise
        except Exception as error:
            # Decoders raise all sorts on damaged bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error ...
            raise DataError(
                f"{name}: the image is damaged or cut off ({str(error) or type(error).__name__})"
            ) from error

    def normalise(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The network's input: (x / 255 - 0.5) / 0.5, float32 in [-1, 1], on the device of `x_BCHW` (uint8)."""
        if x_BCHW.dtype != torch.uint8 or x_BCHW.shape[1:] != self.shape:
            raise InvalidInput(
                f"x_BCHW: must be uint8 [B, {', '.join(map(str, self.shape))}], not {x_BCHW.dtype} {list(x_BCHW.shape)}"
            )
        return x_BCHW.to(torch.float32).div_(255).sub_(0.5).div_(0.5)

    def baseline(self, x_BCHW: torch.Tensor) -> npt.NDArray[np.float32]:
        """Unit vectors [B, D] without a network: each picture's values, their mean taken off."""
        pixels_BD = x_BCHW.flatten(1).float()
        pixels_BD -= pixels_BD.mean(dim=1, keepdim=True)
        vectors_BD: npt.NDArray[np.float32] = torch.nn.functional.normalize(pixels_BD, dim=1).numpy()
        return vectors_BD

    def picture(self, sample: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A sample is a picture as it stands."""
        return sample

    def sound(self, sample: npt.NDArray[np.uint8]) -> bytes:
        """A picture makes none."""
        return b""

    def golden(self) -> npt.NDArray[np.uint8]:
        """Four synthetic pictures: slanted waves of several lengths."""
        channel, row, column = np.meshgrid(*(np.arange(size) for size in self.shape), indexing="ij")
        waves = [((row * (3 + wave) + column * (7 - wave) + 40 * channel * wave) % 256) for wave in range(4)]
        return np.stack(waves).astype(np.uint8)

    def golden_file(self) -> bytes:
        """A PNG picture of slanted waves with a transparent corner, to be turned upright by its EXIF note."""
        row, column = np.mgrid[:90, :120]
        waves = [(row * (2 + wave) + column * (5 - wave)) % 256 for wave in range(3)]
        rgba = np.stack([*waves, 255 * (row + column > 60)], axis=2).astype(np.uint8)
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        file = io.BytesIO()
        Image.fromarray(rgba).save(file, "PNG", exif=exif)
        return file.getvalue()

    def to_json(self) -> dict[str, object]:
        """The settings as JSON values; `from_json` reads them back."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_json(cls, value: object) -> ImageFrontEnd:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: where a setting is missing, unknown or out of range, or the kind is another one.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.keys() != {"kind", *names}:
            raise InvalidInput(f"front end: must be an object with kind, {', '.join(names)}")
        if value["kind"] != cls.kind:
            raise InvalidInput(f"front end: kind must be {cls.kind!r}, not {value['kind']!r}")
        try:
            return cls(**{name: value[name] for name in names})
        except InvalidOption as error:
            raise InvalidInput(f"front end: {error}") from error

    def _to_array(self, image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
        sideways = _orientation(image) >= 5
        size = (self.height, self.width) if sideways else (self.width, self.height)
        # The JPEG decoder can shrink by 2, 4 or 8 and drop colour on the way, which is most of the time saved with
        # camera pictures; twice the size is asked for, so that the antialiasing stays ours.
        image.draft("L" if self.channels == 1 else None, (2 * size[0], 2 * size[1]))
        image.load()
        # Asked again, because some decoders turn the picture while they load it.
        orientation = _orientation(image)
        size = (self.height, self.width) if orientation >= 5 else (self.width, self.height)
        mode = "L" if self.channels == 1 else "RGB"
        plain = _opaque_8_bit(image)
        if mode == "L" and plain.mode != mode:
            plain = plain.convert(mode)
        upright = _upright(self._resized(plain, size), orientation)
        array = np.asarray(upright if upright.mode == mode else upright.convert(mode))
        return array[None] if mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        if image.size == size:
            return image
        width, height = size
        bicubic = Image.Resampling.BICUBIC
        if self.fit == "stretch":
            return image.resize(size, bicubic, reducing_gap=3.0)
        if self.fit == "crop":
            scale = min(image.width / width, image.height / height)
            # The rounding of the scale must not put an edge of the box outside the picture.
            left, top = max(0.0, (image.width - width * scale) / 2), max(0.0, (image.height - height * scale) / 2)
            right, bottom = min(left + width * scale, image.width), min(top + height * scale, image.height)
            return image.resize(size, bicubic, (left, top, right, bottom), reducing_gap=3.0)
        scale = max(image.width / width, image.height / height)
        inner = max(1, round(image.width / scale)), max(1, round(image.height / scale))
        framed = Image.new(image.mode, size, "white")
        framed.paste(
            image.resize(inner, bicubic, reducing_gap=3.0), ((width - inner[0]) // 2, (height - inner[1]) // 2)
        )
        return framed


def _open(blob: bytes) -> ImageFile.ImageFile | None:
    """Read the header; None where no allowed format claims the bytes.

    Not `Image.open`: its cap on pixels, with a warning below it, belongs to the process and not to a front end.
    """
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(blob[:16]) is True:
            return factory(io.BytesIO(blob), "")
    return None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata must not cost a good picture, and their parsers raise all sorts
        return 1
    return value if value in _TRANSPOSES else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _TRANSPOSES[orientation]
    return image if transpose is None else image.transpose(transpose)


def _opaque_8_bit(image: Image.Image) -> Image.Image:
    """The same picture as "L" or "RGB", transparent parts on white, 16 bits scaled to 8."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image), image.info.get("transparency"))
    if image.mode == "F":
        raise _Unsupported("floating-point pixels have no known range")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _from_16_bit(wide: npt.NDArray[np.integer], transparent: object) -> Image.Image:
    if wide.min() < 0 or wide.max() > 65535:
        raise _Unsupported("32-bit pixels have no known range")
    grey = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey)
