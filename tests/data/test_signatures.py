from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tercet.data import SignatureFrontEnd, read_front_end
from tercet.errors import DataError, InvalidInput, TooLittle
from writers import draw

FRONT_END = SignatureFrontEnd(64, 128)
POINTS = np.array([[0, 0.6], [0.1, 0], [0.25, 1], [0.35, 0.2], [0.5, 0.7], [0.6, 0.3], [0.8, 0.9], [1, 0.1]])


def blob(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scan(**options: object) -> Image.Image:
    return draw(POINTS, size=(400, 200), pen=5, **options)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of two samples."""
    a, b = one.astype(float).ravel(), other.astype(float).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_ink_is_bright_on_black_centred_by_mass_and_inside_the_edge():
    x_HW = FRONT_END.decode(blob(scan()))[0]
    assert x_HW.shape == (64, 128)
    assert x_HW.dtype == np.uint8
    assert x_HW.max() > 200
    assert np.median(x_HW) == 0
    assert np.allclose(ndimage.center_of_mass(x_HW), (31.5, 63.5), atol=1.0)
    edge = x_HW.copy()
    edge[4:-4, 4:-4] = 0
    assert not edge.any()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "RGBA", "LA", "I;16"])
def test_the_kind_of_file_does_not_matter(mode):
    """Black ink on white, as 1 bit, grey, colour, palette, transparent paper and 16 bits."""
    binary = scan(ink=0).point(lambda value: 255 * (value > 127))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(binary).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        clear = Image.new("L", binary.size, 0)
        parts = [clear] * (3 if mode == "RGBA" else 1)
        image = Image.merge(mode, [*parts, binary.point(lambda value: 255 - value)])  # ink opaque, paper transparent
    else:
        image = binary.convert(mode)
    wanted = FRONT_END.decode(blob(binary))
    np.testing.assert_array_equal(FRONT_END.decode(blob(image)), wanted)


@pytest.mark.parametrize("paper", [255, 230, 170, 120])
def test_a_tint_alone_does_not_change_the_sample(paper):
    """As in CEDAR, whose genuine scans have a tinted background that gives every classifier away."""
    white = FRONT_END.decode(blob(scan(ink=20)))
    grey = np.asarray(scan(ink=20)).astype(float) / 255
    tinted = Image.fromarray((grey * paper).round().astype(np.uint8))
    np.testing.assert_array_equal(FRONT_END.decode(blob(tinted)), white)
    colour = np.stack([grey * paper, grey * paper * 0.9, grey * paper * 0.8], axis=-1).round().astype(np.uint8)
    assert alike(FRONT_END.decode(blob(Image.fromarray(colour))), white) > 0.99


@pytest.mark.parametrize("ink", [0, 60, 130])
def test_how_dark_the_pen_is_has_no_part(ink):
    dark = FRONT_END.decode(blob(scan(ink=0)))
    assert alike(FRONT_END.decode(blob(scan(ink=ink))), dark) > 0.99


def test_a_photograph_with_a_shadow_gives_nearly_the_same_sample():
    grey = np.asarray(scan(ink=40)).astype(float)
    y, x = np.mgrid[0:1:200j, 0:1:400j]
    light = 0.35 + 0.6 / (1 + np.exp(-8 * (x + 0.4 * y - 0.6)))  # from 35 % to 95 % of the light, across the picture
    noise = np.random.default_rng(0).normal(size=grey.shape) * 4
    photo = Image.fromarray((grey * light + noise).clip(0, 255).astype(np.uint8))
    assert (np.asarray(photo)[np.asarray(scan()) > 200] < 110).mean() > 0.1, "the shadow is dark"
    found = FRONT_END.decode(blob(photo, "JPEG", quality=85))
    assert alike(found, FRONT_END.decode(blob(scan(ink=40)))) > 0.95


def test_light_ink_on_dark_is_turned_over():
    plain = FRONT_END.decode(blob(scan(ink=0)))
    turned = Image.fromarray(255 - np.asarray(scan(ink=0)))
    np.testing.assert_array_equal(FRONT_END.decode(blob(turned)), plain)


def test_size_and_place_on_the_page_do_not_matter_and_nothing_is_cut_off():
    wanted = FRONT_END.decode(blob(scan()))
    page = Image.new("L", (900, 700), 255)
    page.paste(scan(), (450, 90))
    assert alike(FRONT_END.decode(blob(page)), wanted) > 0.97
    large = scan().resize((3200, 1600), Image.Resampling.BICUBIC)
    assert alike(FRONT_END.decode(blob(large)), wanted) > 0.97
    # A line much longer than the frame is wide: scaled down, both its ends there.
    long = draw(np.array([[0, 0.5], [1, 0.5]]), size=(3000, 60), pen=9)
    x_HW = FRONT_END.decode(blob(long))[0]
    assert np.flatnonzero(x_HW.any(axis=0))[[0, -1]].tolist() == [4, 123]
    tall = draw(np.array([[0.5, 0], [0.5, 1]]), size=(60, 3000), pen=9)
    x_HW = FRONT_END.decode(blob(tall))[0]
    assert np.flatnonzero(x_HW.any(axis=1))[[0, -1]].tolist() == [4, 59]


def test_proportions_are_kept():
    square = draw(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]), size=(220, 220), pen=7)
    x_HW = FRONT_END.decode(blob(square))[0]
    heights, widths = np.flatnonzero(x_HW.any(axis=1)), np.flatnonzero(x_HW.any(axis=0))
    assert abs((heights[-1] - heights[0]) - (widths[-1] - widths[0])) <= 2


def test_a_mirror_image_is_another_sample():
    plain = FRONT_END.decode(blob(scan()))
    mirrored = FRONT_END.decode(blob(scan().transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert alike(plain, mirrored) < 0.7


def test_specks_are_dropped():
    dirty = scan()
    for x, y in ((3, 3), (390, 190), (200, 3)):
        dirty.putpixel((x, y), 0)
    np.testing.assert_array_equal(FRONT_END.decode(blob(dirty)), FRONT_END.decode(blob(scan())))


def blank(kind: str) -> Image.Image:
    random = np.random.default_rng(0)
    match kind:
        case "white" | "black" | "grey":
            return Image.new("L", (300, 200), {"white": 255, "black": 0, "grey": 128}[kind])
        case "grain":
            return Image.fromarray((230 + 6 * random.normal(size=(200, 300))).clip(0, 255).astype(np.uint8))
        case "gradient":
            return Image.fromarray(np.tile(np.linspace(80, 250, 300).astype(np.uint8), (200, 1)))
        case "dot":
            image = Image.new("L", (300, 200), 255)
            image.putpixel((150, 100), 0)
            return image
    return Image.new("1", (1, 1), 1)


@pytest.mark.parametrize("kind", ["white", "black", "grey", "grain", "gradient", "dot", "pixel"])
def test_a_page_without_a_signature_is_too_little(kind, tmp_path):
    file = tmp_path / "page.png"
    blank(kind).save(file)
    with pytest.raises(TooLittle, match=r"page\.png: too little ink"):
        FRONT_END.decode(file)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: is not an image"):
        FRONT_END.decode(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: No such file"):
        FRONT_END.decode(tmp_path / "b.png")
    small = SignatureFrontEnd(64, 128, max_pixels=100)
    with pytest.raises(DataError, match="picture: 400 x 200 pixels are more than the 100 allowed"):
        small.decode(blob(scan()))


def test_it_is_read_back_as_it_was_written():
    assert read_front_end(FRONT_END.to_json()) == FRONT_END
    with pytest.raises(InvalidInput, match="front end: must be an object with kind 'signature'"):
        SignatureFrontEnd.from_json({"kind": "signature", "height": 64})
    for options in (
        {"height": 0, "width": 128},
        {"height": 64, "width": 5000},
        {"height": 64, "width": 128, "edge": -1},
    ):
        with pytest.raises(InvalidInput):
            SignatureFrontEnd(**options)
    with pytest.raises(InvalidInput, match="leave no 8 pixels"):
        SignatureFrontEnd(16, 128, edge=5)


def test_the_baseline_is_unit_vectors_and_the_network_sees_minus_one_to_one():
    x_BCHW = torch.from_numpy(np.stack([FRONT_END.decode(blob(scan(ink=ink))) for ink in (0, 90)]))
    vectors = FRONT_END.baseline(x_BCHW)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.99
    normal = FRONT_END.normalise(x_BCHW)
    assert (float(normal.min()), float(normal.max())) == (-1.0, 1.0)
    assert FRONT_END.golden().shape == (4, *FRONT_END.shape)


@pytest.mark.data
def test_real_signatures_are_all_read(shared_data):
    files = sorted((shared_data / "signatures/sigcomp2011_dutch").glob("*/*/*.png"))
    assert len(files) == 1649
    for file in files[::40]:
        x_HW = FRONT_END.decode(file)[0]
        assert 0.005 < (x_HW > 127).mean() < 0.5
