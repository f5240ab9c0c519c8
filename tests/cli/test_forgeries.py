"""Signatures with forgeries through every command."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from tercet.cli.main import main
from tercet.run import load
from writers import draw, signature, write_writers


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve writers with genuine and forged signatures. Not to be changed."""
    return write_writers(tmp_path_factory.mktemp("signatures") / "writers", writers=12, genuine=7, forged=5)


@pytest.fixture(scope="module")
def run_of_writers(writers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on them for a few steps. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "signatures"
    assert main(["train", str(writers), "--task", "signatures", "--epochs", "3", "--out", str(out), "--json"]) == 0
    return out


def test_training_tells_each_kind_of_impostor_apart(run_of_writers, run):
    evaluation = run("evaluate", run_of_writers, run_of_writers.parent / "x")
    assert evaluation.refused("no such file or folder")
    from tercet.run.files import read_json

    found = read_json(run_of_writers / "evaluation.json")
    assert set(found["by_kind"]) == {"random", "skilled", "thresholds"}
    assert found["references"]["by_count"]["10"] is None, "seven genuine signatures are no ten references"
    assert found["forgeries"] == 3 * 5
    assert found["samples"] == 3 * 7


def test_evaluate_has_the_keys_of_the_contract_and_the_kinds_beside_them(writers, run_of_writers, run):
    found = run("evaluate", run_of_writers, writers, "--references", "1,3", "--json").json
    for key in ("eer", "auc", "accuracy", "tar_at_fmr", "pairs", "recall", "map_at_r", "r_precision", "queries"):
        assert key in found
    # Test identities: 3 of 12, 7 genuine and 5 forged each.
    assert found["pairs"] == {"genuine": 3 * 21, "impostor": 3 * 49}
    assert found["queries"] == 21, "a forgery is no query"
    kinds = found["by_kind"]
    assert kinds["random"]["impostor"] == 3 * 49
    assert kinds["random"]["eer"] == pytest.approx(found["eer"])
    assert kinds["skilled"]["impostor"] == 3 * 5 * 7
    low, high = found["intervals"]["by_kind"]["skilled"]["eer"]["ci95"]
    assert low <= kinds["skilled"]["eer"] <= high
    assert [at["name"] for at in kinds["thresholds"]] == ["random FMR 10 %", "random FMR 1 %"]
    assert all(at["a_posteriori"] for at in kinds["thresholds"])
    assert set(found["references"]["by_count"]) == {"1", "3"}
    assert set(found["baselines"]) == {"description", "hog", "untrained"}
    assert "skilled" in found["baselines"]["hog"]["by_kind"]
    assert found["left_out"] == {"identities": 9, "samples": 9 * 12}


def test_evaluate_in_words(writers, run_of_writers, run):
    ended = run("evaluate", run_of_writers, writers, "--references", "3,99", "--fusion", "mean")
    assert ended.code == 0
    for words in (
        "skilled forgeries",
        "a posteriori",
        "mean of the scores",
        "EER, hog",
        "3, untrained network",
        "3, hog",
    ):
        assert words in ended.out
    assert "too few identities have more than 99 genuine samples" in ended.err


@pytest.fixture
def listed(writers: Path, tmp_path: Path) -> Path:
    """A manifest of the writers with their forgeries, and of four simple ones each: another shape under the name."""
    random, rows = np.random.default_rng(1), []
    for writer in sorted(writers.iterdir()):
        for kind, folder in (("genuine", "genuine"), ("skilled", "forged")):
            rows += [(path, writer.name, kind) for path in sorted((writer / folder).iterdir())]
        for number in range(4):
            shape = np.stack([random.uniform(0.2, 1, size=(2, 5)), random.uniform(0, 2 * np.pi, size=(2, 5))])
            simple = tmp_path / f"{writer.name}_{number}.png"
            draw(signature(shape, random, jitter=0.08)).save(simple)
            rows.append((simple, writer.name, "simple"))
    with (tmp_path / "writers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "identity", "kind"), *rows])
    return tmp_path / "writers.csv"


def test_simple_forgeries_of_a_manifest_have_figures_of_their_own(listed, writers, run_of_writers, run):
    found = run("evaluate", run_of_writers, listed, "--references", "3", "--json").json
    # Test identities: 3 of 12, 7 genuine, 5 skilled and 4 simple forgeries each.
    kinds = found["by_kind"]
    assert set(kinds) == {"random", "skilled", "simple", "thresholds"}
    assert found["forgeries"] == 3 * (5 + 4)
    assert (kinds["skilled"]["impostor"], kinds["simple"]["impostor"]) == (3 * 5 * 7, 3 * 4 * 7)
    assert found["intervals"]["by_kind"]["simple"]["eer"]["ci95"] is not None
    model = load(run_of_writers)
    scores = []
    for writer in model.split.split.test:
        simple_MD = model.embed(sorted(listed.parent.glob(f"{writer}_*.png")))
        genuine_ND = model.embed(sorted((writers / writer / "genuine").iterdir()))
        scores += (simple_MD @ genuine_ND.T).ravel().tolist()
    for at in kinds["thresholds"]:
        assert set(at["far"]) == {"random", "skilled", "simple"}
        assert at["far"]["simple"] == pytest.approx(np.mean(np.array(scores) >= at["threshold"]), abs=1 / len(scores))
    accepted = kinds["thresholds"][0]["far"]
    assert 0 < accepted["simple"] < accepted["skilled"], "another shape is easier to tell than an imitation"
    references = found["references"]
    three = references["by_count"]["3"]
    assert references["threshold_on"] == "skilled"
    assert three["questioned"]["simple"] == 3 * 4
    for figures in (three, found["baselines"]["hog"]["references"]["by_count"]["3"]):
        for key in ("eer", "eer_user", "far"):
            assert set(figures[key]) == {"random", "skilled", "simple"}
            assert 0 <= figures[key]["simple"]["mean"] <= 1
    assert "simple" in found["baselines"]["hog"]["by_kind"]


def test_simple_forgeries_are_named_in_what_is_printed(listed, run_of_writers, run):
    ended = run("evaluate", run_of_writers, listed, "--references", "3")
    assert ended.code == 0
    [kinds] = [line for line in ended.out.splitlines() if line.startswith("simple forgeries")]
    assert f" {3 * 4 * 7} " in kinds
    assert "% of simple forgeries" in ended.out
    assert "EER, simple" in " ".join(ended.out.split())


def test_a_classifier_for_each_writer(writers, run_of_writers, run):
    found = run("evaluate", run_of_writers, writers, "--references", "3", "--writer-dependent", "--json").json
    assert found["references"]["decision"] == "svm"
    assert found["references"]["by_count"]["3"]["identities"] == 3
    assert found["baselines"]["hog"]["references"]["decision"] == "similarity"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--references", "1,x"], "--references='1,x': expected numbers such as 1,3,5,10, or none"),
        (["--references", "0"], "expected numbers"),
        (["--references", "none", "--writer-dependent"], "--fusion and --writer-dependent are for --references"),
        (["--fusion", "mean", "--writer-dependent"], "--fusion has no part in --writer-dependent"),
    ],
)
def test_options_that_mean_nothing_are_refused(writers, run_of_writers, run, options, said):
    assert run("evaluate", run_of_writers, writers, *options).refused(said)


def test_a_threshold_is_for_a_kind_of_impostor_and_says_so(writers, run_of_writers, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_of_writers, copy)
    random = run("calibrate", copy, writers, "--fmr", "0.25", "--json").json
    assert random["impostors"] == "random"
    assert set(random["accepted"]) == {"random", "skilled"}
    assert random["accepted"]["random"] == pytest.approx(random["achieved_fmr"])
    assert random["impostor_pairs"] == 147
    skilled = run("calibrate", copy, writers, "--fmr", "0.4", "--impostors", "skilled", "--json").json
    assert (skilled["impostors"], skilled["impostor_pairs"]) == ("skilled", 105)
    assert skilled["accepted"]["skilled"] == pytest.approx(skilled["achieved_fmr"])
    everything = run("calibrate", copy, writers, "--fmr", "0.25", "--impostors", "all", "--json").json
    assert everything["impostor_pairs"] == 147 + 105
    assert run("calibrate", copy, writers, "--fmr", "0.1", "--impostors", "skilled").refused("needs at least 300")
    spoken = run("calibrate", copy, writers, "--fmr", "0.25")
    assert "of skilled forgeries" in spoken.out
    one, other = (writers / "001" / "genuine" / f"001_0{n}.png" for n in (1, 2))
    decided = run("verify", copy, one, other, "--json")
    assert decided.code in (0, 1)
    assert decided.json["calibration"]["impostors"] == "random"
    found = run("evaluate", copy, writers, "--references", "none", "--json").json
    assert "references" not in found
    calibrated = found["by_kind"]["thresholds"][-1]
    assert (calibrated["name"], calibrated["a_posteriori"]) == ("calibrated", False)
    assert calibrated["far"]["skilled"] == pytest.approx(found["by_kind"]["thresholds"][-1]["far"]["skilled"])


def test_skilled_forgeries_must_be_there_to_choose_a_threshold_on_them(run_of_writers, run, tmp_path):
    plain = write_writers(tmp_path / "plain", writers=6, genuine=5, forged=0, seed=7)
    for writer in plain.iterdir():
        (writer / "forged").rmdir()
    ended = run("calibrate", run_of_writers, plain, "--fmr", "0.2", "--impostors", "skilled")
    assert ended.refused("holds no skilled forgery")


def test_a_forgery_stands_in_no_gallery(writers, run_of_writers, run, tmp_path):
    forged = next((writers / "001" / "forged").iterdir())
    found = run("search", run_of_writers, forged, "--gallery", writers, "-k", "200", "--json").json
    assert found["gallery"] == 12 * 7
    assert all("genuine" in result["path"] for result in found["results"])
    vectors = tmp_path / "all.npz"
    assert run("embed", run_of_writers, writers, "--out", vectors).code == 0
    found = run("search", run_of_writers, forged, "--gallery", vectors, "-k", "200", "--json").json
    assert {result["identity"] for result in found["results"] if "forged" in result["path"]} == {""}


def test_a_page_without_ink_is_undecided_or_skipped(writers, run_of_writers, run, tmp_path):
    blank = tmp_path / "blank.png"
    draw([(0, 0), (0, 0)], ink=255).save(blank)
    genuine = writers / "001" / "genuine" / "001_01.png"
    ended = run("verify", run_of_writers, genuine, blank)
    assert ended.code == 3
    assert "too little ink" in ended.out + ended.err


def test_a_page_without_ink_is_nobody_of_a_gallery(writers, run_of_writers, run, tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite", reason="the extra gallery is not installed")
    monkeypatch.delenv("TERCET_GALLERY_KEY", raising=False)
    draw([(0, 0), (0, 0)], ink=255).save(blank := tmp_path / "blank.png")
    place = ("--gallery", tmp_path / "g.db")
    genuine = writers / "001" / "genuine" / "001_01.png"
    assert run("enroll", run_of_writers, "ann", genuine, *place).code == 0
    ended = run("identify", run_of_writers, blank, *place, "--json")
    assert (ended.code, ended.json["decision"], ended.json["score"]) == (3, "undecided", None)
    assert ended.json["candidates"] == []
    assert ended.json["reason"].startswith(f"{blank}: too little ink")
    ended = run("verify", run_of_writers, blank, "--claim", "ann", *place, "--json")
    assert (ended.code, ended.json["decision"], ended.json["claim"], ended.json["references"]) == (
        3,
        "undecided",
        "ann",
        1,
    )
    assert ended.json["reason"].startswith(f"{blank}: too little ink")
    assert run("verify", run_of_writers, blank, "--claim", "bob", *place).refused("'bob' is not enrolled")
    assert run("search", run_of_writers, blank, *place).refused(str(blank), "too little ink")


def test_the_report_shows_the_run(run_of_writers, run):
    ended = run("report", run_of_writers)
    assert ended.code == 0
    assert "hog" in (run_of_writers / "report.html").read_text("utf-8")
