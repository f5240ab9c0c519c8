"""Files made to break a service: each is refused with a reason, none ends it, none takes much memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tercet
from tercet.data import AudioFrontEnd, FaceFrontEnd, FrontEnd, ImageFrontEnd, SignatureFrontEnd
from tercet.errors import DataError, InvalidInput, TooLittle
from tercet.service.samples import Reader
from tercet.service.settings import Settings
from voices import voice


def random_picture(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


SMALL = Settings(max_file_bytes=2**20, max_pixels=2_000_000, max_seconds=100.0)


def png_bytes(width: int, height: int, *, data: bytes = b"", kind: int = 0) -> bytes:
    """A PNG of what the header says, with these bytes as its compressed pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join([*(packer.compress(block) for _ in range(count >> 20)), packer.flush()])


def saved(form: str, image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def sound(
    form: str = "WAV", seconds: float = 1.0, *, subtype: str | None = None, wave: np.ndarray | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, voice(1, 1, seconds=seconds) if wave is None else wave, 16_000, format=form, subtype=subtype)
    return file.getvalue()


def with_size(data: bytes, size: int) -> bytes:
    """A WAV whose header claims so many bytes of sound."""
    at = data.index(b"data") + 4
    return (
        data[:4] + struct.pack("<I", min(size + 36, 2**32 - 2)) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]
    )


def flac_of_hours() -> bytes:
    """A FLAC whose header claims eight hours."""
    data = bytearray(sound("FLAC"))
    total = 8 * 3600 * 16_000  # 36 bits from byte 21 on, after "fLaC", a block header and 13.5 bytes
    data[21] = data[21] & 0xF0 | total >> 32
    data[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(data)


PICTURE = saved("PNG", Image.fromarray(random_picture(0, 64)))
BAD_PICTURES = {
    "nothing": b"",
    "one byte": b"\x89",
    "text": b"hello " * 100,
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "zip": b"PK\x03\x04" + bytes(100),
    "pdf": b"%PDF-1.7\n" + bytes(100),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "sound": sound(),
    "header of 50,000 x 50,000": png_bytes(50_000, 50_000, data=zlib.compress(bytes(1000))),
    "header of 2^31": png_bytes(2**31 - 1, 2**31 - 1),
    "header of 0": png_bytes(0, 0),
    "bomb": png_bytes(20_000, 20_000, data=zeros(2**28)),
    "bomb within the limit, but no end": png_bytes(1400, 1400, data=zeros(2**21)[:-200]),
    "bmp of 2^31": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif of 65535": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "tiff with a loop": b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIII", 1, 256, 3, 1, 5, 8),
    "pgm that lies": b"P5 30000 30000 255\n" + bytes(100),
    "truncated png": PICTURE[: len(PICTURE) // 2],
    "truncated jpeg": saved("JPEG", Image.fromarray(random_picture(0, 64)))[:300],
    "truncated webp": saved("WEBP", Image.fromarray(random_picture(0, 64)))[:100],
    "too large": PICTURE + bytes(2**20),
}
POLYGLOTS = {
    "png and html": PICTURE + b"<script>alert(1)</script>",
    "png and zip": PICTURE + b"PK\x03\x04" + bytes(100),
}

NOT_NUMBERS = voice(1, 1)
NOT_NUMBERS[100:200] = np.nan
BAD_SOUNDS = {
    "nothing": b"",
    "one byte": b"R",
    "text": b"hello " * 100,
    "picture": PICTURE,
    "header alone": sound()[:44],
    "no samples": sound(wave=np.zeros(0)),
    "not numbers": sound(subtype="FLOAT", wave=NOT_NUMBERS),
    "infinity": sound(subtype="DOUBLE", wave=np.full(16_000, np.inf)),
    "eight hours in a header": with_size(sound(), 8 * 3600 * 16_000 * 2),
    "eight hours in a flac header": flac_of_hours(),
    "four gigabytes in a header": with_size(sound(), 2**32 - 2),
    "longer than allowed": sound("FLAC", wave=np.zeros(101 * 16_000)),
    "truncated wav": sound()[:5000],
    "truncated flac": sound("FLAC")[:2000],
    "truncated ogg": sound("OGG")[:2000],
    "too large": sound() + bytes(2**20),
    "no rate": sound()[:24] + bytes(4) + sound()[28:],
    "no channels": sound()[:22] + bytes(2) + sound()[24:],
}


def memory_kib() -> int:
    """The most memory that this process has had since `clear_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise AssertionError


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """The test may take 300 MB more than there were before it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield
        return
    before = memory_kib()
    yield
    assert memory_kib() - before < 300_000


def test_bad_pictures(start, bounded_memory: None) -> None:
    service = start(max_file_bytes=SMALL.max_file_bytes, max_pixels=SMALL.max_pixels)
    for name, data in BAD_PICTURES.items():
        for answer in (
            service.post("identify", ("file", data)),
            service.post("verify", ("a", PICTURE), ("b", data)),
            service.post("enroll", ("file", data), identity="x"),
        ):
            assert answer.status_code == (413 if name == "too large" else 422), (name, answer.text)
            assert 5 < len(answer.json()["error"]) < 200
    for data in POLYGLOTS.values():
        assert service.post("verify", ("a", PICTURE), ("b", data)).json()["score"] == pytest.approx(1, abs=1e-5)
    assert service.gallery.count() == 0
    assert not [line for line in service.log() if line["event"] == "defect"]


def test_bad_sounds(start, sound_run: Path, bounded_memory: None) -> None:
    service = start(sound_run, max_file_bytes=SMALL.max_file_bytes, max_seconds=SMALL.max_seconds)
    for name, data in BAD_SOUNDS.items():
        answer = service.post("identify", ("file", data))
        assert answer.status_code == (413 if name == "too large" else 422), (name, answer.text)
        assert 5 < len(answer.json()["error"]) < 200
    assert "not numbers" in service.post("identify", ("file", BAD_SOUNDS["not numbers"])).json()["error"]
    assert service.post("identify", ("file", sound() + b"<script>")).status_code == 200
    assert not [line for line in service.log() if line["event"] == "defect"]


@pytest.mark.parametrize(
    "front_end", [ImageFrontEnd(16, 16, 1), SignatureFrontEnd(32, 64), FaceFrontEnd(64, 3), AudioFrontEnd()]
)
def test_the_services_limits_hold_for_every_kind_of_file(front_end: FrontEnd) -> None:
    """They are tighter than those of the front ends, which would let these pass to their decoders."""
    reader = Reader(front_end, SMALL)
    over, large = saved("PNG", Image.new("L", (1500, 1400))), PICTURE + bytes(2**20)
    if reader.kind == "sound":
        over, large = BAD_SOUNDS["longer than allowed"], BAD_SOUNDS["too large"]
    for data, said in ((over, "are more than the (2000000|100) allowed"), (large, "larger than 1048576 bytes")):
        with pytest.raises(DataError, match=said) as refused:
            reader.decode(data, "file")
        assert not isinstance(refused.value, TooLittle)


def test_what_has_no_limits_is_not_served() -> None:
    class Unknown:
        kind = "smell"

    with pytest.raises(InvalidInput, match="'smell': the service has no limits for it"):
        Reader(Unknown(), SMALL)  # type: ignore[arg-type]


SEEDS = [
    PICTURE,
    *(saved(form, Image.fromarray(random_picture(1, 48))) for form in ("JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")),
]
SOUND_SEEDS = [
    sound(seconds=0.5),
    sound("FLAC", 0.5),
    sound("OGG", 0.5),
    sound("MP3", 0.5),
    sound(subtype="FLOAT", seconds=0.5),
]


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file cut off, with bytes changed, or with a piece of another one in it."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([64, 10**6])))))
        data[at] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        other, at = draw(st.sampled_from(seeds)), draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 64))] = other[: draw(st.integers(0, 200))]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def check(reader: Reader, data: bytes) -> None:
    """Either a sample or one clear line."""
    try:
        reader.decode(data, "file")
    except DataError as error:
        assert str(error).startswith("file: ")
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def picture_reader(run: Path) -> Reader:
    return Reader(tercet.load(run).front_end, SMALL)


@pytest.fixture(scope="module")
def sound_reader(sound_run: Path) -> Reader:
    return Reader(tercet.load(sound_run).front_end, SMALL)


@given(data=damaged(SEEDS) | st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_as_a_picture(picture_reader: Reader, data: bytes) -> None:
    check(picture_reader, data)


@given(data=damaged(SOUND_SEEDS) | st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes_as_a_sound(sound_reader: Reader, data: bytes) -> None:
    check(sound_reader, data)
