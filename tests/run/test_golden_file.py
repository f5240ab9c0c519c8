"""A run knows how files were read when it was saved, and is refused by code that reads them in another way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tercet
from synthetic import read_people
from tercet.data import AudioFrontEnd, FaceFrontEnd, ImageFrontEnd, SignatureFrontEnd, split_identities
from tercet.encoders import ConvEncoderConfig, SpeechEncoderConfig, build_encoder
from tercet.errors import RunError
from tercet.run import RunSplit, save_model
from tercet.run.files import read_tensors, write_tensors

PICTURES = ConvEncoderConfig(3, 32, 32, 8, 8)
KINDS = {
    "pictures": (ImageFrontEnd(32, 32, 3), PICTURES),
    "padded": (ImageFrontEnd(32, 32, 3, fit="pad"), PICTURES),
    "signatures": (SignatureFrontEnd(24, 48), ConvEncoderConfig(1, 24, 48, 8, 8)),
    "speech": (AudioFrontEnd(seconds=1.0), SpeechEncoderConfig(width=64, blocks=1, embedding_dim=8)),
}
STEPS = {
    "pictures: turned upright": ("pictures", "tercet.data.images._upright", lambda image, orientation: image),
    "pictures: transparent onto white": (
        "pictures",
        "tercet.data.images._opaque_8_bit",
        lambda image: image.convert("RGB"),
    ),
    "padded: the fit": (
        "padded",
        "tercet.data.images.ImageFrontEnd._resized",
        lambda front_end, image, size: image.resize(size),
    ),
    "signatures: ink found": ("signatures", "tercet.data.signatures.find_ink", lambda grey_HW: 255 - grey_HW),
    "speech: resampled": ("speech", "tercet.data.audio._resampled", lambda wave_N, rate: wave_N[::3]),
    "speech: pauses cut out": ("speech", "tercet.data.audio.speech_of", None),
}


@pytest.fixture
def saved(people, tmp_path):
    def save(kind: str):
        front_end, encoder = KINDS[kind]
        save_model(
            tmp_path / kind,
            task="digits",
            seed=0,
            front_end=front_end,
            encoder=encoder.to_json(),
            weights=build_encoder(encoder.to_json()).state_dict(),
            split=RunSplit(split_identities(read_people(people), seed=0), {"train": (), "validation": ()}),
            training={},
            data={},
            metrics={},
        )
        return tmp_path / kind

    return save


@pytest.mark.parametrize("step", STEPS)
def test_a_run_is_refused_where_a_step_of_reading_has_changed(saved, monkeypatch, step):
    kind, place, other = STEPS[step]
    run = saved(kind)
    tercet.load(run)
    if other is None:
        found = type("Found", (), {"seconds": 9.0, "steady": False})

        def other(wave_N):
            found.wave_N = wave_N.copy()
            return found

    monkeypatch.setattr(place, other)
    with pytest.raises(RunError, match="files are not read as they were") as caught:
        tercet.load(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_golden_file_is_a_sample_like_others(kind):
    front_end = KINDS[kind][0]
    sample = front_end.decode(front_end.golden_file())
    assert sample.shape == front_end.shape and sample.dtype == front_end.dtype
    assert len(np.unique(sample)) > 10, "there is something to see or hear"
    assert front_end.golden_file() == front_end.golden_file()


def test_how_a_library_rounds_is_no_change(saved):
    run = saved("pictures")
    kept = read_tensors(run / "golden.safetensors")
    kept["decoded"] = kept["decoded"] ^ 1
    write_tensors(run / "golden.safetensors", kept)
    tercet.load(run)
    kept["decoded"] = kept["decoded"][:, :16]
    write_tensors(run / "golden.safetensors", kept)
    with pytest.raises(RunError, match="files are not read"):
        tercet.load(run)


def test_runs_from_before_and_front_ends_without_such_a_file_load(saved, run):
    old = saved("pictures")
    write_tensors(old / "golden.safetensors", {"vectors": read_tensors(old / "golden.safetensors")["vectors"]})
    assert tercet.load(old).fingerprint
    assert FaceFrontEnd(64, 1).golden_file() == b""
    small = ImageFrontEnd(8, 8, 1, max_bytes=100)  # no golden file passes its limits
    config = json.loads((run / "run.json").read_text())["encoder"]
    save_model(
        run.parent / "small",
        task="digits",
        seed=0,
        front_end=small,
        encoder=config,
        weights=build_encoder(config).state_dict(),
        split=tercet.load(run).split,
        training={},
        data={},
        metrics={},
    )
    assert tercet.load(run.parent / "small").front_end == small
    assert not torch.equal(
        *(read_tensors(each / "golden.safetensors")["vectors"] for each in (run, run.parent / "small"))
    )
