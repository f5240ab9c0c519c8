from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from tercet.train import TrainingProgress


@pytest.fixture(scope="module")
def own(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "own")
    # How often a training is looked at is a matter of time, and this one took a second: the history of a longer one.
    looks = [at("train", step, loss=1 / step) for step in (1, 2, 3)] + [at("validate", step) for step in (2, 3)]
    (run / "history.jsonl").write_text("".join(json.dumps(asdict(look)) + "\n" for look in looks))
    return run


def at(phase: Literal["train", "validate"], step: int, loss: float = 0.1) -> TrainingProgress:
    return TrainingProgress(
        phase, step, loss=loss, active_fraction=0.5, mean_positive=0.2, mean_negative=1.0, validation_eer=0.1
    )


def test_report_of_the_runs_own_data(run, own: Path, digits: Path) -> None:
    ended = run("report", own, "--json")
    assert ended.code == 0
    assert ended.json == {"report": str(own / "report.html"), "run": str(own)}
    text = (own / "report.html").read_text("utf-8")
    assert text.count('<article class="query"') == 8
    for heading in (
        "How scores are spread", "ROC", "DET", "Map of the samples", "Loss", "Active triplets", "Distances",
        "Validation EER", "Margin curve", "Costs and failures", "Labels that may be wrong", "Trivial properties",
    ):  # fmt: skip
        assert f">{heading}</h" in text, heading
    assert text.count("<svg") == 9
    assert len(text) < 5_000_000
    assert f"tercet report {own}" in text and f"tercet evaluate {own} {digits}/digits.csv --seed 0 --json" in text
    assert "125 samples of 5 identities" in text
    assert "3 other identities with 75 samples" in text
    assert "No threshold has been chosen" in text
    assert f"tercet train {digits}/digits.csv --task digits" in text
    assert re.search(r"torch \d+\.\d+", text)
    assert "<dd>0 for the training" in text
    seen = set(re.findall(r'alt="(?:query|first sample|second sample), identity (\d)"', text))
    assert seen == {"7", "8", "9"}


def test_report_of_other_data_goes_where_it_is_told(run, own: Path, digits: Path, tmp_path: Path) -> None:
    for digit in "79":
        shutil.copytree(digits / digit, tmp_path / "data" / f"<{digit}> & co")
    page = tmp_path / "page.html"
    before = (own / "report.html").read_text() if (own / "report.html").is_file() else None
    ended = run("report", own, tmp_path / "data", "--out", page)
    assert (ended.code, ended.out) == (0, f"report: {page}\n")
    text = page.read_text("utf-8")
    assert "&lt;7&gt; &amp; co" in text
    assert "<7>" not in text
    assert ((own / "report.html").read_text() if (own / "report.html").is_file() else None) == before


def test_report_overwrites_its_own_page_and_nothing_else(run, own: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><p>my diary")
    assert run("report", own, "--out", page).refused("page.html", "no report of tercet")
    assert page.read_text() == "<!DOCTYPE html><p>my diary"
    assert run("report", own, "--out", tmp_path).refused("no report of tercet")
    page.unlink()
    assert run("report", own, "--out", page).code == 0
    assert run("report", own, "--out", page).code == 0


def test_report_of_a_calibrated_run_shows_its_evidence_and_what_the_doctor_said(
    run, own: Path, digits: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(own, tmp_path / "run")
    said = json.dumps(asdict(at("validate", 3)) | {"phase": "remark", "remark": "the embeddings are shrinking"})
    (here / "history.jsonl").write_text((here / "history.jsonl").read_text() + said + "\n")
    assert run("calibrate", here, digits / "digits.csv", "--fmr", "0.3").code == 0
    assert run("report", here).code == 0
    text = (here / "report.html").read_text("utf-8")
    for words in (
        "Evidence of a score</h3>",
        "Can the stated chance be believed?</h3>",
        "Cllr",
        "actual DCF, prior 0.01",
    ):
        assert words in text, words
    assert "Step 3: the embeddings are shrinking" in text


def test_report_says_when_the_data_are_gone(run, digits: Path, tmp_path: Path) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    out = tmp_path / "run"
    run("train", data / "digits.csv", "--task", "digits", "--epochs", "0.5", "--out", out)
    shutil.rmtree(data)
    assert run("report", out).refused("digits.csv", "not there any more", "tercet report")


def test_names_that_are_markup_and_notes_that_are_damaged_make_a_page_all_the_same(
    run, own: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(own, tmp_path / "run")
    (copy / "metrics.json").write_text('{"steps": "many", "remarks": 5}')
    (copy / "history.jsonl").write_text('{"phase": "train", "step": "a"}\n{"phase": "tr')
    (copy / "command.json").write_text('{"command": 3, "data": 4}')
    names = ("<b>bold</b>", "a\"quote' &amp; {{ 7 * 7 }}", "new\nline", "\u202eevil")
    random = np.random.default_rng(0)
    for name in names:
        (tmp_path / "few" / name.replace("/", "")).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "few" / name.replace("/", "") / f"{number}.png")
    ended = run("report", copy, tmp_path / "few", "--out", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "{{ 7 * 7 }}" in page
    assert run("report", copy).refused("4: the run's data are not there any more")
