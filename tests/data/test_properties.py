from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from tercet.data import AudioFrontEnd, ImageFrontEnd, SignatureFrontEnd
from tercet.data.properties import FILE_TYPE, file_properties
from tercet.errors import DataError
from voices import voice


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_tinted_page_is_told_though_the_front_end_takes_the_tint_away():
    page = np.full((60, 120, 3), (240, 230, 200), np.uint8)
    page[25:35, 20:90] = (40, 40, 60)
    blob = saved(Image.fromarray(page))
    found = file_properties(SignatureFrontEnd(64, 128), blob, "page")
    assert found[FILE_TYPE] == "PNG"
    assert np.exp(found["picture width"]) == pytest.approx(120) and np.exp(found["picture height"]) == pytest.approx(60)
    assert np.exp(found["file size"]) == pytest.approx(len(blob))
    share = 700 / 7200
    assert found["mean grey"] == pytest.approx(670 / 3 * (1 - share) + 140 / 3 * share, abs=2)
    assert found["paper grey"] == pytest.approx(670 / 3, abs=1)
    assert found["colour"] == pytest.approx(40 * (1 - share) + 20 * share, abs=1)
    assert found["ink share"] == pytest.approx(share, abs=0.02)
    assert file_properties(ImageFrontEnd(8, 8, 1), saved(Image.fromarray(page), "JPEG"), "page")[FILE_TYPE] == "JPEG"


def test_a_recording_is_told_by_duration_loudness_and_rate():
    wave = voice(1, 1, seconds=1.5)
    loud, quiet = io.BytesIO(), io.BytesIO()
    soundfile.write(loud, wave, 16_000, format="WAV")
    soundfile.write(quiet, wave / 10, 16_000, format="FLAC")
    one, other = (file_properties(AudioFrontEnd(), file.getvalue(), "wave") for file in (loud, quiet))
    assert one["loudness"] - other["loudness"] == pytest.approx(20, abs=0.1)
    assert np.exp(one["duration"]) == pytest.approx(1.5)
    assert np.exp(one["sampling rate"]) == pytest.approx(16_000)
    assert one[FILE_TYPE] != other[FILE_TYPE]


def test_the_limits_of_the_front_end_hold():
    blob = saved(Image.new("L", (300, 300)))
    with pytest.raises(DataError, match="more than the 10000 allowed"):
        file_properties(ImageFrontEnd(8, 8, 1, max_pixels=10_000), blob, "large")
    with pytest.raises(DataError, match="is larger than 20 bytes"):
        file_properties(ImageFrontEnd(8, 8, 1, max_bytes=20), blob, "large")
    for damaged in (b"", b"nothing of the kind", blob[:60]):
        with pytest.raises(DataError, match="name: "):
            file_properties(ImageFrontEnd(8, 8, 1), damaged, "name")
    with pytest.raises(DataError, match="name: "):
        file_properties(AudioFrontEnd(), b"RIFF1234WAVE", "name")
