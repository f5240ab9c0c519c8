from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tercet


@pytest.fixture(scope="module")
def sevens(digits: Path) -> list[Path]:
    return sorted((digits / "7").iterdir())


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run with a threshold of 0.5, whatever its rates."""
    from tercet.evaluate import calibrate

    run = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "calibrated")
    scores = np.concatenate([np.full(400, 0.6), np.full(400, 0.4)])
    tercet.load(run).save_calibration(calibrate(scores, scores > 0.5, target_fmr=0.1))
    return run


def test_embed_of_files(run, trained: Path, sevens: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    ended = run("embed", trained, *sevens[:3], "--out", out, "--json")
    assert ended.code == 0
    model = tercet.load(trained)
    assert ended.json == {"out": str(out), "vectors": 3, "width": 64, "model": model.fingerprint, "skipped": []}
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["vectors"].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(arrays["vectors"], axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(arrays["vectors"], model.embed(sevens[:3]))
        assert arrays["paths"].tolist() == [str(path) for path in sevens[:3]]
        assert arrays["identities"].tolist() == ["", "", ""]
    assert run("embed", trained, sevens[0], "--out", out).out == f"1 vectors of width 64 written to {out}\n"


def test_embed_of_a_folder_and_of_a_manifest(run, trained: Path, digits: Path, tmp_path: Path) -> None:
    spoiled = shutil.copytree(digits, tmp_path / "spoiled")
    (spoiled / "8" / "broken.png").write_bytes(b"broken")
    ended = run("embed", trained, spoiled, "--out", tmp_path / "folder.npz", "--json")
    assert ended.json["vectors"] == 250
    assert [item["path"] for item in ended.json["skipped"]] == ["8/broken.png"]
    assert "8/broken.png" in ended.err
    assert run("embed", trained, digits / "digits.csv", "--out", tmp_path / "csv.npz", "--json").json["vectors"] == 250
    with np.load(tmp_path / "folder.npz") as one, np.load(tmp_path / "csv.npz") as other:
        assert sorted(one["identities"]) == sorted(other["identities"]) == sorted("0123456789" * 25)
        assert all(Path(path).is_file() for path in (*one["paths"], *other["paths"]))
        rows = {Path(path).name: vector for path, vector in zip(one["paths"], one["vectors"], strict=True)}
        for path, vector in zip(other["paths"], other["vectors"], strict=True):
            np.testing.assert_allclose(vector, rows[Path(path).name], atol=1e-6)


def test_embed_refuses_what_it_cannot_read(
    run, trained: Path, digits: Path, sevens: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "v.npz"
    (tmp_path / "a.png").write_text("no picture")
    assert run("embed", trained, sevens[0], tmp_path / "a.png", "--out", out).refused("a.png: ")
    assert run("embed", trained, tmp_path / "none.png", "--out", out).refused("none.png: No such file")
    assert run("embed", trained, digits, digits, "--out", out).refused(str(digits), "not a file")
    assert run("embed", trained, sevens[0], "--out", tmp_path / "no" / "v.npz").refused("v.npz")
    assert not out.exists()


def test_verify_without_a_threshold_is_undecided(run, trained: Path, sevens: list[Path]) -> None:
    ended = run("verify", trained, *sevens[:2], "--json")
    assert ended.code == 3
    assert ended.json["decision"] == "undecided"
    assert ended.json["threshold"] is ended.json["calibration"] is None
    assert -1 <= ended.json["score"] <= 1
    assert "tercet calibrate" in ended.err
    ended = run("verify", trained, *sevens[:2])
    assert (ended.code, ended.out.split(":")[0]) == (3, "undecided")


def test_verify_decides_by_the_threshold(run, calibrated: Path, digits: Path, sevens: list[Path]) -> None:
    ended = run("verify", calibrated, sevens[0], sevens[0], "--json")
    found = ended.json
    assert (ended.code, found["decision"], found["threshold"]) == (0, "match", 0.5)
    assert found["score"] == pytest.approx(1, abs=1e-5)
    assert set(found["calibration"]) == {"id", "target_fmr", "achieved_fmr", "achieved_fnmr", "impostor_pairs"}
    assert found["model"] == tercet.load(calibrated).fingerprint
    assert run("verify", calibrated, sevens[0], sevens[0]).out.startswith("match: ")

    model = tercet.load(calibrated)
    pictures = sorted(digits.glob("*/*.png"))
    x_ND = model.embed(pictures)
    apart = pictures[int(np.argmin(x_ND @ x_ND[0]))]
    ended = run("verify", calibrated, pictures[0], apart, "--json")
    assert (ended.code, ended.json["decision"]) == (1, "no-match")
    assert ended.json["score"] < 0.5
    assert run("verify", calibrated, pictures[0], apart).out.startswith("no match: ")


def test_verify_refuses_what_it_cannot_read(run, trained: Path, sevens: list[Path], digits: Path) -> None:
    assert run("verify", trained, sevens[0], digits / "none.png", "--json").refused("none.png: No such file")
    assert run("verify", trained, digits, sevens[0]).refused(f"{digits}: is not a file")
    assert run("verify", trained, digits / "digits.csv", sevens[0]).refused("digits.csv: ")


def test_search_of_a_folder_and_of_its_vectors_agree(
    run, trained: Path, digits: Path, sevens: list[Path], tmp_path: Path
) -> None:
    ended = run("search", trained, sevens[0], "--gallery", digits, "-k", "5", "--json")
    assert ended.code == 0
    results = ended.json["results"]
    assert [set(result) for result in results] == [{"identity", "path", "score"}] * 5
    assert results[0]["path"] == str(sevens[0])
    assert results[0]["identity"] == "7"
    assert results[0]["score"] == pytest.approx(1, abs=1e-5)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)

    model = tercet.load(trained)
    pictures = sorted(digits.glob("*/*.png"))
    order = np.argsort(-(model.embed(pictures) @ model.embed([sevens[0]])[0]), kind="stable")
    assert {result["path"] for result in results} == {str(pictures[i]) for i in order[:5]}

    vectors = tmp_path / "v.npz"
    run("embed", trained, digits, "--out", vectors)
    assert run("search", trained, sevens[0], "--gallery", vectors, "-k", "5", "--json").json["results"] == results
    # More than there are: all of them.
    assert len(run("search", trained, sevens[0], "--gallery", vectors, "-k", "999", "--json").json["results"]) == 250

    text = run("search", trained, sevens[0], "--gallery", digits, "-k", "2").out
    assert "(the file itself)" in text.splitlines()[-3] + text.splitlines()[-2]


def test_search_refuses_vectors_of_another_model_and_other_files(
    run, trained: Path, sevens: list[Path], tmp_path: Path
) -> None:
    vectors = tmp_path / "v.npz"
    run("embed", trained, *sevens[:2], "--out", vectors)
    with np.load(vectors) as arrays:
        np.savez(vectors, **(dict(arrays) | {"fingerprint": np.array("0123456789abcdef")}))
    assert run("search", trained, sevens[0], "--gallery", vectors).refused(str(vectors), "0123456789abcdef")
    vectors.write_bytes(b"no archive")
    assert run("search", trained, sevens[0], "--gallery", vectors).refused(str(vectors), "damaged")
    np.savez(vectors, x=np.zeros(3))
    assert run("search", trained, sevens[0], "--gallery", vectors).refused(str(vectors), "no array 'vectors'")
    assert run("search", trained, sevens[0], "--gallery", tmp_path / "none").refused("none: no such")
    assert run("search", trained, tmp_path / "none.png", "--gallery", sevens[0].parent.parent).refused("none.png")


def test_names_with_brackets_and_colons_are_shown_as_they_are(run, trained: Path, digits: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd" / "[bold] :smile: é"
    odd.mkdir(parents=True)
    shutil.copy(next((digits / "7").iterdir()), odd / "a.png")
    shutil.copy(next((digits / "8").iterdir()), odd / "b.png")
    ended = run("search", trained, odd / "a.png", "--gallery", odd.parent, "-k", "1")
    assert "[bold] :smile: é" in ended.out
    ended = run("search", trained, odd / "a.png", "--gallery", odd.parent, "-k", "1", "--json")
    assert json.loads(ended.out)["results"][0]["identity"] == "[bold] :smile: é"
