"""Each kind of bad input: one clear line and code 2, or skipped and counted where going on makes sense."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Path:
    """A folder of digits that a test may spoil."""
    return shutil.copytree(digits, tmp_path / "data")


@pytest.fixture
def train(run, tmp_path: Path):
    """Trains on something, into the run folder tmp_path / "run"."""

    def train_now(data: Path):
        out = tmp_path / "run"
        return run("train", data, "--task", "digits", "--epochs", "0.5", "--out", out, "--json")

    return train_now


def test_bad_pictures_among_good_ones_are_skipped_and_counted(train, data: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (data / "0").iterdir())
    (data / "0" / names[0]).write_bytes((data / "0" / names[0]).read_bytes()[:60])
    (data / "1" / "text.png").write_text("no picture")
    (data / "2" / "empty.png").write_bytes(b"")
    (data / "3" / "notes.txt").write_text("no picture and no sample")
    ended = train(data / "digits.csv")
    assert ended.code == 0
    assert [item["path"] for item in ended.json["skipped"]] == [f"0/{names[0]}"]
    assert "skipped 1 file" in ended.err
    shutil.rmtree(tmp_path / "run")
    ended = train(data)
    assert ended.code == 0
    assert len(ended.json["skipped"]) == 4
    reasons = {item["path"]: item["reason"] for item in ended.json["skipped"]}
    assert set(reasons) == {f"0/{names[0]}", "1/text.png", "2/empty.png", "3/notes.txt"}
    assert all(reasons.values())


def test_folder_of_one_identity(train, data: Path) -> None:
    for digit in range(1, 10):
        shutil.rmtree(data / str(digit))
    assert train(data).refused(str(data), "two identities")


def test_identities_of_one_picture_each(train, data: Path) -> None:
    for digit in range(10):
        for path in sorted((data / str(digit)).iterdir())[1:]:
            path.unlink()
    assert train(data).refused(str(data), "two or more")


def test_one_identity_of_one_picture_among_others_goes_through(train, data: Path) -> None:
    for path in sorted((data / "4").iterdir())[1:]:
        path.unlink()
    assert train(data).code == 0


def test_gaps_between_labels_go_through(train, data: Path) -> None:
    (data / "3").rename(data / "300")
    (data / "5").rename(data / "-5")
    assert train(data).code == 0


def test_empty_and_missing_folders_and_folders_of_loose_pictures(train, data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert train(empty).refused(f"{empty}: the folder is empty")
    assert train(tmp_path / "nowhere").refused("nowhere: no such file or folder")
    assert train(data / "7").refused(f"{data / '7'}: has no folder per identity")
    only_text = tmp_path / "text"
    (only_text / "a").mkdir(parents=True)
    (only_text / "a" / "x.txt").write_text("x")
    assert train(only_text).refused(str(only_text), "no sample")


def test_folder_in_which_no_picture_can_be_read(train, data: Path) -> None:
    for path in data.glob("*/*.png"):
        path.write_bytes(b"no picture")
    assert train(data).refused(str(data), "none of")


def test_manifests_with_something_wrong(train, data: Path) -> None:
    def with_rows(*rows: tuple[str, ...]) -> Path:
        path = data / "wrong.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    good = next((data / "0").iterdir()).relative_to(data).as_posix()
    assert train(with_rows(("file", "identity"), (good, "0"))).refused("wrong.csv", "'path' is missing", "file")
    assert train(with_rows(("path", "identity"), (good, ""))).refused("wrong.csv: line 2", "blank")
    assert train(with_rows(("path", "identity"), ("0/none.png", "0"))).refused("line 2", "no such file")
    assert train(with_rows(("path", "identity"), ("../../x.png", "0"))).refused("line 2", "out of")
    rows = (("path", "identity", "split"), (good, "0", "exam"))
    assert train(with_rows(*rows)).refused("line 2", "'exam' is not known")
    assert train(next((data / "0").iterdir())).refused("is a single sample")


def test_run_folder_in_the_way_stays_as_it_is(train, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert train(data).refused(str(out), "is there already")
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    shutil.rmtree(out)
    out.write_text("a file")
    assert train(data).refused(str(out), "is there already")
    assert out.read_text() == "a file"


@pytest.fixture
def spoiled(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_damaged_foreign_and_newer_runs(run, spoiled: Path, digits: Path) -> None:
    picture = next((digits / "7").iterdir())

    def refused(*said: str) -> bool:
        return run("verify", spoiled, picture, picture).refused(*said)

    weights = (spoiled / "weights.safetensors").read_bytes()
    (spoiled / "weights.safetensors").write_bytes(weights[:-8])
    assert refused("weights.safetensors", "damaged")
    (spoiled / "weights.safetensors").unlink()
    assert refused("weights.safetensors", "No such file")
    (spoiled / "weights.safetensors").write_bytes(weights)
    assert run("verify", spoiled, picture, picture).code == 3

    config = json.loads((spoiled / "run.json").read_text())
    (spoiled / "run.json").write_text(json.dumps(config | {"format_version": 99}))
    assert refused("run.json", "newer version")
    (spoiled / "run.json").write_text('{"format": "cake"}')
    assert refused("run.json", "not a run of tercet")
    (spoiled / "run.json").write_text("{")
    assert refused("run.json", "damaged")
    (spoiled / "run.json").unlink()
    assert refused(str(spoiled), "not finished")
    assert run("evaluate", spoiled.parent / "none", digits).refused("none: no such run folder")
    assert run("report", digits).refused("not a run of tercet")


def test_full_disk_while_vectors_are_written(
    run, trained: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    out = tmp_path / "vectors.npz"
    picture = next((digits / "7").iterdir())
    assert run("embed", trained, picture, "--out", out).code == 0
    before = out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("embed", trained, picture, picture, "--out", out).refused(str(out), "No space left")
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_huge_seed_is_refused_before_anything_is_written(run, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run("train", digits, "--task", "digits", "--out", out, "--epochs", "1", "--seed", "9" * 23)
    assert ended.refused("seed=")
    assert not out.exists()


def test_embed_does_not_overwrite_a_picture(run, trained: Path, digits: Path) -> None:
    picture = next((digits / "1").iterdir())
    before = picture.read_bytes()
    assert run("embed", trained, picture, "--out", picture).refused("--out", "must end in .npz")
    assert picture.read_bytes() == before


def test_a_link_to_somebody_else_gives_nobody_their_pictures(run, trained: Path, digits: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(digits, data, ignore=shutil.ignore_patterns("*.csv"))
    before = sum(1 for _ in data.glob("*/*.png"))
    (data / "0" / "loop").symlink_to("..")
    (data / "0" / "other.png").symlink_to(next((data / "1").iterdir()))
    ended = run("embed", trained, data, "--out", tmp_path / "v.npz", "--json")
    assert ended.code == 0 and ended.json["vectors"] == before
    assert [item["reason"] for item in ended.json["skipped"]] == ["a link to another identity's place"] * 2


def test_damaged_vectors_are_one_line(run, trained: Path, digits: Path, tmp_path: Path) -> None:
    import io
    import zipfile

    import numpy as np

    probe = next((digits / "7").iterdir())
    liar = io.BytesIO()
    np.lib.format.write_array_header_1_0(liar, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
    for name, content in {"no arrays": b"text", "a lying header": liar.getvalue()}.items():
        file = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(file, "w") as archive:
            for key in ("vectors", "paths", "identities", "fingerprint"):
                archive.writestr(f"{key}.npy", content)
        assert run("search", trained, probe, "--gallery", file).refused(file.name)


def test_the_split_of_another_run_is_refused(run, trained: Path, digits: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    split = json.loads((copy / "split.json").read_text())
    split["hashes"]["train"] = []
    (copy / "split.json").write_text(json.dumps(split))
    assert run("evaluate", copy, digits).refused("split.json", "damaged or exchanged")


def test_a_trained_model_that_cannot_be_tested_is_named(run, digits: Path, tmp_path: Path) -> None:
    import csv
    import shutil

    data = tmp_path / "data"
    shutil.copytree(digits, data)
    rows = list(csv.reader((data / "digits.csv").read_text().splitlines()))
    for path, _, part in rows[1:]:
        if part == "test":
            (data / path).write_bytes(b"no picture")
    ended = run("train", data / "digits.csv", "--task", "digits", "--out", tmp_path / "run", "--epochs", "1")
    assert ended.code == 2
    assert f"the model is saved in {tmp_path / 'run'}, but cannot be tested" in ended.err
    assert (tmp_path / "run" / "run.json").is_file()


def test_control_characters_of_a_name_do_not_reach_the_terminal(run) -> None:
    ended = run("verify", "run\x1b[31m", "a", "b")
    assert ended.code == 2 and "\x1b" not in ended.err and r"\x1b[31m" in ended.err


def test_a_header_of_any_length_is_one_line(run, trained: Path, tmp_path: Path) -> None:
    listed = tmp_path / "long.csv"
    listed.write_text("path,identity," + "x" * 200_000 + "\n")
    assert run("embed", trained, listed, "--out", tmp_path / "v.npz").refused("long.csv")
