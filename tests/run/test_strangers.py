"""A run from a stranger: nothing in it is carried out, and nothing is written but where it was told to."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from tercet.errors import DataError, RunError
from tercet.evaluate import AsNorm, calibrate
from tercet.run import Vectors
from tercet.run.files import read_json, write_bytes


class Planted:
    """What a pickle does to whoever opens it."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return Path.touch, (self.sign,)


def calibration(norm: str = "none"):
    scores = np.concatenate([np.full(400, 0.7), np.full(400, 0.5)])
    return calibrate(scores, scores > 0.6, target_fmr=0.1, norm=norm)


@pytest.fixture
def full(run: Path) -> Path:
    """A run with every kind of file that one may hold."""
    x_ND = np.random.default_rng(0).standard_normal((12, tercet.load(run).config["encoder"]["embedding_dim"]))
    norm = AsNorm.of(x_ND.astype(np.float32), np.arange(12) // 2, top=4)
    tercet.load(run).save_calibration(calibration("as-norm"), norm=norm)
    return run


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_planted_pickle_is_not_opened_whatever_file_it_is(full: Path, tmp_path: Path, form: str) -> None:
    sign = tmp_path / "it ran"
    names = sorted(file.name for file in full.iterdir() if file.is_file())
    assert {"run.json", "weights.safetensors", "split.json", "calibration.json"} <= set(names)
    assert any(name.startswith("cohort-") for name in names)
    for name in names:
        before = (full / name).read_bytes()
        if form == "pickle":
            (full / name).write_bytes(pickle.dumps(Planted(sign)))
        else:
            torch.save({"state": Planted(sign)}, full / name)
        with pytest.raises(RunError) as told:
            tercet.load(full)
            read_json(full / name)  # of what a model in use does not ask for
        assert name in str(told.value) and "\n" not in str(told.value)
        (full / name).write_bytes(before)
    assert not sign.exists()
    pickle.loads(pickle.dumps(Planted(sign)))
    assert sign.exists(), "this test cannot see what it looks for"


@pytest.mark.skipif(os.name != "posix", reason="links and their dangers are POSIX'")
def test_links_in_a_run_lead_no_write_out_of_it(full: Path, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.write_text("mine")
    model = tercet.load(full)
    for name in ("calibration.json", f".calibration.json.{os.getpid()}.part", "cohort-0123456789ab.safetensors"):
        (full / name).unlink(missing_ok=True)
        (full / name).symlink_to(outside)
    model.save_calibration(calibration())
    assert outside.read_text() == "mine"
    assert not (full / "calibration.json").is_symlink()
    assert tercet.load(full).calibration is not None
    assert not list(full.glob("cohort-*")) and not list(full.glob(".*"))


def test_what_a_killed_write_has_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}.part").write_bytes(b"half")
    write_bytes(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_names_in_an_archive_are_no_places_and_what_swells_is_not_unpacked(tmp_path: Path) -> None:
    vectors = Vectors(np.eye(3, dtype=np.float32), ("a", "b", "c"), ("a", "b", "c"), "f")
    (tmp_path / "in").mkdir()
    vectors.write(tmp_path / "in" / "v.npz")
    with zipfile.ZipFile(tmp_path / "in" / "v.npz", "a") as archive:
        archive.writestr("../escaped.npy", b"x")
        archive.writestr("/escaped.npy", b"x")
    assert Vectors.read(tmp_path / "in" / "v.npz").paths == ("a", "b", "c")
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and not Path("/escaped.npy").exists()
    with zipfile.ZipFile(tmp_path / "in" / "v.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.npy", bytes(2**27))
    with pytest.raises(DataError, match=r"v\.npz: unpacks to \d+ times its size, 100 are allowed"):
        Vectors.read(tmp_path / "in" / "v.npz")
