from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tercet.data import ImageFrontEnd
from tercet.errors import DataError, InvalidInput, InvalidOption

GREY = ImageFrontEnd(30, 40, 1)
COLOUR = ImageFrontEnd(30, 40, 3)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def complaint(front_end: ImageFrontEnd, blob: bytes) -> str:
    with pytest.raises(DataError) as caught:
        front_end.decode_bytes(blob, "x/y.png")
    message = str(caught.value)
    assert message.startswith("x/y.png: ")
    assert "\n" not in message
    return message.removeprefix("x/y.png: ")


# --- what a sound picture becomes


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}),
    ],
)
def test_formats_keep_colours_and_places(picture, tmp_path, form, options):
    x = COLOUR.decode_bytes(saved(picture(), form, **options), "x")
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((3, 30, 40), np.uint8, True)
    assert np.abs(x.astype(int) - rgb(picture())).max() <= (6 if form == "JPEG" else 0)
    grey = GREY.decode_bytes(saved(picture(), form, **options), "x")
    assert grey.shape == (1, 30, 40)
    assert np.abs(grey[0].astype(int) - np.asarray(picture(mode="L"))).max() <= (6 if form == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb_and_grey(picture, mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture(mode="L")).astype(np.uint16) * 257)
        plain = picture(mode="L")
    else:
        image = picture(mode=mode)
        plain = image.convert("RGB")
    blob = saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG") if mode != "HSV" else saved(plain)
    assert np.abs(COLOUR.decode_bytes(blob, "x").astype(int) - rgb(plain)).max() <= 2
    assert np.abs(GREY.decode_bytes(blob, "x")[0].astype(int) - np.asarray(plain.convert("L"))).max() <= 2


def test_a_cmyk_jpeg_is_not_inverted():
    red = Image.new("CMYK", (40, 30), (0, 255, 255, 0))
    assert np.abs(COLOUR.decode_bytes(saved(red, "JPEG"), "x")[:, 15, 20].astype(int) - [255, 0, 0]).max() <= 4
    assert abs(int(GREY.decode_bytes(saved(red, "JPEG"), "x")[0, 15, 20]) - 76) <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_parts_are_white_and_half_transparent_ones_in_between(mode):
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (20, 0, 40, 30))
    if mode == "P":
        blob = saved(image.quantize(4))
    elif mode in ("RGB", "L"):
        opaque = Image.new(mode, (40, 30), 0)
        opaque.paste("#090909", (0, 0, 20, 30))
        blob = saved(opaque, transparency=(9, 9, 9) if mode == "RGB" else 9)
    else:
        blob = saved(image.convert(mode))
    for front_end in (GREY, COLOUR):
        x = front_end.decode_bytes(blob, "x")
        assert (x[:, :, :20] == 255).all()
        assert (x[:, :, 20:] == 0).all()
    half = Image.new("RGBA", (40, 30), (0, 0, 0, 128))
    assert COLOUR.decode_bytes(saved(half), "x")[0, 0, 0] == 127


def test_sixteen_bits_are_scaled_not_cut():
    wide = np.linspace(0, 65535, 40 * 30).round().astype(np.uint16).reshape(30, 40)
    wanted = np.rint(wide / 257).astype(np.uint8)
    pgm = b"P5 40 30 65535\n" + wide.astype(">u2").tobytes()
    big_endian = io.BytesIO()
    Image.frombytes("I;16B", (40, 30), wide.astype(">u2").tobytes()).save(big_endian, "TIFF")
    for blob in (saved(Image.fromarray(wide)), saved(Image.fromarray(wide), "TIFF"), pgm, big_endian.getvalue()):
        assert (GREY.decode_bytes(blob, "x")[0] == wanted).all()
        assert (COLOUR.decode_bytes(blob, "x") == wanted).all()


def test_a_transparent_value_of_a_16_bit_png_is_white():
    wide = np.full((30, 40), 40_000, np.uint16)
    wide[:, 20:] = 300
    blob = saved(Image.fromarray(wide))
    at = blob.index(b"IDAT") - 4
    blob = blob[:at] + chunk(b"tRNS", struct.pack(">H", 300)) + blob[at:]
    x = GREY.decode_bytes(blob, "x")[0]
    assert (x[:, 20:] == 255).all()
    assert (x[:, :20] == round(40_000 / 257)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_camera_s_orientation_is_applied(picture, orientation, form, fit):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blob = saved(picture(80, 60), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(blob)))
    front_end = ImageFrontEnd(30, 40, 3, fit=fit)
    got, wanted = front_end.decode_bytes(blob, "x"), front_end.decode_bytes(saved(upright), "x")
    assert np.abs(got.astype(int) - wanted).max() <= 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the decoder, about what it found
def test_damaged_metadata_do_not_cost_the_picture(picture):
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"Exif\0\0garbage", b"Exif\0\0"):
        assert COLOUR.decode_bytes(saved(picture(), "JPEG", exif=exif), "x").shape == COLOUR.shape
    nonsense = Image.Exif()
    nonsense[0x0112] = 77
    assert COLOUR.decode_bytes(saved(picture(), "JPEG", exif=nonsense), "x").shape == COLOUR.shape


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "lime")]
    blob = saved(
        frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
    )
    assert (COLOUR.decode_bytes(blob, "x") == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


def test_a_phone_s_multi_picture_jpeg(picture):
    blob = saved(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))], quality=95)
    assert np.abs(COLOUR.decode_bytes(blob, "x").astype(int) - rgb(picture())).max() <= 8


# --- how it is brought to size


def test_crop_keeps_the_middle_pad_shows_all_on_white_stretch_fills():
    image = Image.new("L", (80, 20), 100)
    image.paste(0, (0, 0, 30, 20))
    image.paste(200, (50, 0, 80, 20))
    crop, pad, stretch = (
        ImageFrontEnd(20, 20, 1, fit=fit).decode_bytes(saved(image), "x")[0] for fit in ("crop", "pad", "stretch")
    )
    assert (crop == 100).all()
    assert (pad[:7] == 255).all()
    assert (pad[13:] == 255).all()
    assert pad[10, 1] == 0
    assert pad[10, 18] == 200
    assert (stretch[:, 0] == 0).all()
    assert (stretch[:, -1] == 200).all()
    assert abs(int(stretch[10, 10]) - 100) <= 1


def test_resizing_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (200, 100)))
    x = ImageFrontEnd(20, 20, 1).decode_bytes(saved(stripes), "x")
    assert np.abs(x.astype(int) - 127).max() <= 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_the_jpeg_short_cut_changes_next_to_nothing(channels, fit):
    front_end = ImageFrontEnd(60, 80, channels, fit=fit)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8))
    blob = saved(noise.resize((1000, 700), Image.Resampling.NEAREST), "JPEG", quality=95)
    slow = front_end.decode_bytes(saved(Image.open(io.BytesIO(blob))), "x")
    difference = np.abs(front_end.decode_bytes(blob, "x").astype(int) - slow)
    assert difference.mean() < 2
    assert difference.max() <= 12


def test_the_jpeg_short_cut_minds_that_a_picture_lies_on_its_side():
    exif = Image.Exif()
    exif[0x0112] = 6
    # Upright 160 x 640 with stripes of 4 pixels, of which 2 are left in a frame 80 wide; a picture shrunk for the
    # wrong side would have lost them.
    stripes = np.tile(np.repeat(np.array([40, 200], np.uint8), 4), (640, 20))
    blob = saved(Image.fromarray(stripes).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    x = ImageFrontEnd(20, 80, 1).decode_bytes(blob, "x")
    assert x.std() > 60


@settings(max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(["crop", "pad", "stretch"]),
    form=st.sampled_from(["PNG", "JPEG"]),
)
def test_any_size_becomes_the_frame_and_one_grey_stays_that_grey(width, height, to, channels, fit, form):
    front_end = ImageFrontEnd(*to, channels, fit=fit)
    x = front_end.decode_bytes(saved(Image.new("L", (width, height), 90), form), "x")
    assert x.shape == front_end.shape == (channels, *to)
    levels = set(np.unique(x).tolist())
    assert levels <= ({90, 255} if fit == "pad" else {90})
    assert 90 in levels


def test_a_rounded_scale_does_not_put_the_cut_outside_the_picture():
    # 29 / 7 * 7 is a little more than 29 in floating point.
    for fit in ("crop", "pad", "stretch"):
        x = ImageFrontEnd(1, 7, 1, fit=fit).decode_bytes(saved(Image.new("L", (29, 5), 90), "PNG"), "x")
        assert x.shape == (1, 1, 7)


# --- what is refused


def test_every_cut_of_a_file_is_refused_or_gives_a_picture_never_another_error(picture):
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        blob = saved(picture(), form)
        for length in range(0, len(blob), max(1, len(blob) // 40)):
            try:
                assert COLOUR.decode_bytes(blob[:length], "x").shape == COLOUR.shape
            except DataError as error:
                assert str(error).startswith("x: ")
        assert complaint(COLOUR, blob[: len(blob) // 2]).startswith("the image is damaged or cut off (")


@settings(max_examples=150)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the decoder, about what it found
def test_damaged_bytes_never_raise_anything_else(data, form):
    blob = bytearray(saved(Image.linear_gradient("L").resize((40, 30)), form))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert GREY.decode_bytes(bytes(blob), "x").shape == GREY.shape
    except DataError as error:
        assert str(error).startswith("x: ")


@pytest.mark.parametrize(
    "blob",
    [
        b"just a text in a file called .jpg",
        b"\0" * 100,
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"SIMPLE  =                    T",
        b"PK\x03\x04",
    ],
)
def test_a_file_that_is_no_image_of_an_allowed_format(blob):
    assert complaint(GREY, blob) == "is not an image that can be read (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM)"


def test_an_empty_file():
    assert complaint(GREY, b"") == "the file is empty"


def test_a_bomb_is_refused_by_its_header_before_anything_is_decoded(monkeypatch):
    body = zlib.compress(b"\0" * 1_000_000, 9)
    for width, height in ((8001, 8000), (12_000, 12_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)):
        bomb = png_header(width, height) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
        monkeypatch.setattr(Image.core, "new", None)
        assert complaint(GREY, bomb) == f"{width} x {height} pixels are more than the 64000000 allowed"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_the_caps_hold_for_every_format(picture, form):
    blob = saved(picture(), form)
    assert ImageFrontEnd(8, 8, 1, max_pixels=1200, max_bytes=len(blob)).decode_bytes(blob, "x").shape == (1, 8, 8)
    assert complaint(ImageFrontEnd(8, 8, 1, max_pixels=1199), blob) == "40 x 30 pixels are more than the 1199 allowed"
    assert complaint(ImageFrontEnd(8, 8, 1, max_bytes=99), blob) == "is larger than 99 bytes"


def test_the_process_wide_cap_of_the_decoder_has_no_say(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(saved(picture())))
    for front_end in (GREY, ImageFrontEnd(8, 8, 1), ImageFrontEnd(8, 8, 3, fit="pad")):
        assert front_end.decode_bytes(saved(picture()), "x").shape == front_end.shape


def test_pixels_without_a_known_range_are_refused():
    whole = Image.fromarray(np.full((30, 40), 70_000, np.int32))
    assert complaint(GREY, saved(whole, "TIFF")) == "32-bit pixels have no known range"
    real = Image.fromarray(np.full((30, 40), 0.5, np.float32))
    assert complaint(GREY, saved(real, "TIFF")) == "floating-point pixels have no known range"


# --- files


def test_a_file_and_its_bytes_are_the_same_picture(picture, tmp_path):
    picture().save(tmp_path / "a.png")
    from_file = COLOUR.decode(tmp_path / "a.png")
    assert (from_file == COLOUR.decode((tmp_path / "a.png").read_bytes())).all()


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    for path, reason in (
        (tmp_path / "absent.png", "No such file or directory"),
        (tmp_path, "is not a file"),
        (tmp_path / ("a" * 5000), "File name too long"),
        (tmp_path / "nul\0.png", "embedded null byte"),
    ):
        with pytest.raises(DataError) as caught:
            GREY.decode(path)
        assert str(caught.value) == f"{path}: {reason}"
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(2**40)  # a hole of a terabyte, which nobody could read
    with pytest.raises(DataError, match=r"big\.png: is larger than 67108864 bytes"):
        GREY.decode(tmp_path / "big.png")
    with pytest.raises(DataError, match=r"^picture: the file is empty"):
        GREY.decode(b"")


# --- settings and the network's input


def test_normalise_maps_bytes_to_minus_one_to_one():
    x_BCHW = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    y_BCHW = ImageFrontEnd(1, 1, 1).normalise(x_BCHW)
    assert y_BCHW.dtype == torch.float32
    torch.testing.assert_close(y_BCHW.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    assert x_BCHW.flatten().tolist() == [0, 51, 255]


@pytest.mark.parametrize("x", [torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_normalise_refuses_another_shape_or_dtype(x):
    with pytest.raises(InvalidInput, match=r"x_BCHW: must be uint8 \[B, 1, 8, 8\]"):
        ImageFrontEnd(8, 8, 1).normalise(x)


def test_json_and_back():
    front_end = ImageFrontEnd(112, 92, 1, fit="pad", max_bytes=5, max_pixels=6)
    assert ImageFrontEnd.from_json(json.loads(json.dumps(front_end.to_json()))) == front_end


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sound"},
        {"height": "8"},
        {"height": 0},
        {"width": 10**6},
        {"width": 8.0},
        {"channels": 2},
        {"channels": True},
        {"fit": "squeeze"},
        {"fit": []},
        {"max_pixels": -1},
        {"more": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(InvalidInput):
        ImageFrontEnd.from_json(GREY.to_json() | change)
    with pytest.raises(InvalidInput, match="front end: must be an object"):
        ImageFrontEnd.from_json([change])


def test_an_unknown_fit_names_those_there_are():
    with pytest.raises(InvalidOption, match=r"fit='squeeze' is not known; allowed: 'crop', 'pad', 'stretch'"):
        ImageFrontEnd(8, 8, 1, fit="squeeze")
