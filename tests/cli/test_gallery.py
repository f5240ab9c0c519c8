from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tercet

pytest.importorskip("pymilvus", reason="the extra gallery is not installed")


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run with a threshold of 0.99, which only the same picture reaches."""
    from tercet.evaluate import calibrate

    run = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "calibrated")
    scores = np.concatenate([np.full(4000, 0.995), np.full(4000, 0.985)])
    tercet.load(run).save_calibration(calibrate(scores, scores > 0.99, target_fmr=0.01))
    return run


@pytest.fixture(scope="module")
def some(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of each digit."""
    folder = tmp_path_factory.mktemp("some") / "data"
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True)
        for file in sorted((digits / digit).iterdir())[:12]:
            shutil.copy(file, folder / digit)
    return folder


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("TERCET_GALLERY_KEY", raising=False)
    return str(tmp_path / "gallery.db")


def first(folder: Path, digit: str, number: int = 0) -> Path:
    return sorted((folder / digit).iterdir())[number]


def test_the_whole_way(run, calibrated: Path, some: Path, digits: Path, gallery: str, tmp_path: Path) -> None:
    (some.parent / "broken.png").write_bytes(b"broken")
    ended = run("enroll", calibrated, some, "--gallery", gallery, "--json")
    assert ended.code == 0
    found = ended.json
    model = tercet.load(calibrated)
    assert (found["enrolled"], found["identities"], found["replaced"]) == (120, 10, 0)
    assert (found["model"], found["calibration"]) == (model.fingerprint, model.calibration.id)
    assert found["runner_up"]["probes"] == 120
    assert "identify asks for a lead of" in ended.err
    again = run("enroll", calibrated, some, "--gallery", gallery)
    assert "120 replaced" in again.out

    probe = first(some, "7")
    ended = run("identify", calibrated, probe, "--gallery", gallery, "--json")
    found = ended.json
    assert set(found) >= {"decision", "identity", "score", "margin_to_runner_up", "candidates"}
    assert found["score"] == pytest.approx(1, abs=1e-5)
    assert found["candidates"][0]["identity"] == "7"
    assert found["comparisons"] == 120
    assert 0 <= found["expected_fpir_ci95"][0] <= found["expected_fpir_ci95"][1] <= 1
    lead = found["runner_up"]["margin"]
    expected = ("identified", "7", 0) if found["margin_to_runner_up"] >= lead else ("unknown", None, 1)
    assert (found["decision"], found["identity"], ended.code) == expected

    x_ND = model.embed(sorted(some.glob("*/*.png")))
    strangers = [p for p in sorted((digits / "3").iterdir())[12:] if (x_ND @ model.embed([p])[0]).max() < 0.98]
    ended = run("identify", calibrated, strangers[0], "--gallery", gallery)
    assert (ended.code, ended.out.split(":")[0]) == (1, "unknown")

    ended = run("verify", calibrated, probe, "--claim", "7", "--gallery", gallery, "--json")
    assert (ended.code, ended.json["decision"], ended.json["references"]) == (0, "match", 12)
    ended = run("verify", calibrated, strangers[0], "--claim", "7", "--gallery", gallery, "--json")
    assert (ended.code, ended.json["decision"], ended.json["claim"]) == (1, "no-match", "7")

    ended = run("search", calibrated, probe, "--gallery", gallery, "-k", "5", "--json")
    folder = run("search", calibrated, probe, "--gallery", some, "-k", "5", "--json")
    assert [set(result) for result in ended.json["results"]] == [{"identity", "path", "score"}] * 5
    assert [(r["identity"], r["score"]) for r in ended.json["results"]] == [
        (r["identity"], r["score"]) for r in folder.json["results"]
    ]
    assert Path(ended.json["results"][0]["path"]).samefile(probe)
    assert ended.json["gallery"] == 120

    ended = run("gallery", "list", "--gallery", gallery, "--json")
    assert [(p["identity"], p["templates"]) for p in ended.json["identities"]] == [(str(d), 12) for d in range(10)]
    assert run("gallery", "stats", "--gallery", gallery, "--json").json["templates"] == 120
    out = tmp_path / "all.npz"
    assert run("gallery", "export", "--out", out, "--gallery", gallery, "--json").json["templates"] == 120
    assert run("search", calibrated, probe, "--gallery", out, "-k", "1", "--json").json["results"][0]["identity"] == "7"
    ended = run("gallery", "import", out, "--gallery", tmp_path / "b.db", "--index", "HNSW", "--json")
    assert ended.json["templates"] == 120
    ended = run("gallery", "duplicates", "--threshold", "0.9999", "--gallery", gallery, "--json")
    assert ended.json["across_identities"] <= len(ended.json["groups"])
    ended = run("gallery", "calibrate", calibrated, "--gallery", gallery, "--fpir", "0.3", "--json")
    assert ended.json["target_fpir"] == 0.3

    ended = run("forget", "7", "--gallery", gallery, "--json")
    assert (ended.code, ended.json["removed"]["templates"], ended.json["erased"]) == (0, 12, True)
    assert str(probe) in ended.err
    results = run("search", calibrated, probe, "--gallery", gallery, "-k", "120", "--json").json["results"]
    assert len(results) == 108
    assert "7" not in {result["identity"] for result in results}
    assert run("forget", "7", "--gallery", gallery).refused("'7' is not enrolled")
    assert run("verify", calibrated, probe, "--claim", "7", "--gallery", gallery).refused("'7' is not enrolled")


def test_one_person_and_its_options(run, trained: Path, some: Path, gallery: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    Image.new("L", (8, 8), 128).save(tmp_path / "blank.png")
    files = [first(some, "7"), first(some, "7", 1)]
    ended = run(
        "enroll", trained, "Zoë", *files, tmp_path / "broken.png", tmp_path / "blank.png", "--gallery", gallery,
        "--tag", "staff", "--retain", "2d", "--store-pictures", "--json",
    )  # fmt: skip
    assert (ended.code, ended.json["enrolled"]) == (0, 2)
    assert [item["path"] for item in ended.json["skipped"]] == [str(tmp_path / "broken.png")]
    assert ended.json["refused"][0]["reason"].startswith("blank")
    assert "tercet calibrate" in ended.err
    person = run("gallery", "list", "--gallery", gallery, "--json").json["identities"][0]
    assert (person["identity"], person["tags"]) == ("Zoë", ["staff"])
    assert person["expires"] > person["enrolled"]
    assert run("gallery", "stats", "--gallery", gallery, "--json").json["pictures"] == 2
    assert run("gallery", "purge", "--gallery", gallery, "--json").json["removed"]["templates"] == 0

    # Without a calibration: the score, undecided, and what to do.
    for words in (("identify", trained, files[0]), ("verify", trained, files[0], "--claim", "Zoë")):
        ended = run(*words, "--gallery", gallery, "--json")
        assert (ended.code, ended.json["decision"]) == (3, "undecided")
        assert ended.json["score"] == pytest.approx(1, abs=1e-5)
        assert "tercet calibrate" in ended.err
    ended = run("identify", trained, files[0], "--gallery", gallery, "--tag", "guest", "--json")
    assert (ended.code, ended.json["decision"], ended.json["candidates"]) == (1, "unknown", [])

    # The same picture under another name.
    ended = run("enroll", trained, "thief", files[0], "--gallery", gallery)
    assert ended.refused(str(files[0]), "the same as a sample of Zoë")
    assert run("enroll", trained, "thief", files[0], "--gallery", gallery, "--force").code == 0
    assert run("forget", "thief", "--gallery", gallery).out.startswith("removed 1 template of thief")


def test_wrong_use(run, trained: Path, some: Path, gallery: str, tmp_path: Path) -> None:
    file = first(some, "7")
    assert run("identify", trained, file, "--gallery", gallery).refused("no such gallery; `enroll` makes one")
    assert run("search", trained, file, "--gallery", gallery).refused("no such gallery")
    assert run("enroll", trained, "ann", "--gallery", gallery).refused("ann: no such folder or manifest")
    assert run("enroll", trained, "ann", some, "--gallery", gallery).refused("is not a file")
    assert run("enroll", trained, "ann", tmp_path / "no.png", "--gallery", gallery).refused("no.png")
    assert run("enroll", trained, " ", file, "--gallery", gallery).refused("identity: must not be blank")
    assert run("enroll", trained, "ann", file, "--gallery", gallery, "--retain", "soon").refused("--retain soon")
    assert run("enroll", trained, "ann", file, "--gallery", gallery, "--retain", "9999y").refused("a hundred years")
    assert run("enroll", trained, "ann", file, "--gallery", tmp_path / "i.db", "--index", "TREE").refused("TREE")
    assert not (tmp_path / "i.db").exists()
    assert run("verify", trained, file).refused("two files, or one file with --claim")
    assert run("verify", trained, file, file, "--claim", "x").refused("two files, or one file with --claim")
    assert run("verify", trained, file, file, "--gallery", gallery).refused("two files, or one file with --claim")
    assert run("gallery", "stats", "--gallery", "http://127.0.0.1:1").refused("no Milvus server answers")
    assert run("gallery", "export", "--out", "x.txt", "--gallery", gallery).refused(".npz")
    assert run("enroll", trained, "ann", file, "--gallery", gallery).code == 0
    assert run("gallery", "calibrate", trained, "--gallery", gallery).refused("has no threshold yet")


def test_a_gallery_of_another_model_is_refused(run, trained: Path, some: Path, digits: Path, gallery: str) -> None:
    file = first(some, "7")
    other = Path(gallery).parent / "other"
    csv, width = digits / "digits.csv", "32"
    assert run("train", csv, "--task", "digits", "--epochs", "0.3", "--embedding-dim", width, "--out", other).code == 0
    assert run("enroll", other, "ann", file, "--gallery", gallery).code == 0
    for words in (("enroll", trained, "ann", file), ("identify", trained, file), ("search", trained, file)):
        assert run(*words, "--gallery", gallery).refused("holds vectors of model", "tercet enroll RUN DATA")
