from __future__ import annotations

import json
from pathlib import Path

import pytest

import tercet


def test_demo_goes_the_whole_way_and_names_what_it_left(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("demo", "--minutes", "0.02", "--json")
    assert ended.code == 0
    found = ended.json
    out = Path("demo-run")
    assert found["run"] == str(out)
    assert found["trained_on"] == {"train": 5, "validation": 2, "test": 3}
    assert found["samples"] == 533
    assert {"eer", "recall", "map_at_r", "intervals", "baselines"} <= set(found)
    assert Path(found["report"]) == out / "report.html"
    assert "identities it has never seen" in (out / "report.html").read_text("utf-8")
    assert len(list((out / "data").glob("?/*.png"))) == 1797
    assert json.loads((out / "command.json").read_text())["command"] == "tercet demo --minutes 0.02 --json"

    model = tercet.load(out)
    assert model.split.split.train == tuple("01234")
    assert model.split.split.test == tuple("789")
    if found["calibration"] is not None:  # a second of training may leave too much overlap for a threshold
        assert model.calibration.id == found["calibration"]["id"]
        assert found["calibration"]["impostor_pairs"] == 182 * 181
    pairs = [(Path(item["a"]).parent.name, Path(item["b"]).parent.name, item["truth"]) for item in found["verify"]]
    assert pairs == [
        ("7", "7", "same"),
        ("7", "8", "different"),
        ("8", "8", "same"),
        ("8", "9", "different"),
        ("9", "9", "same"),
        ("9", "7", "different"),
    ]
    assert len(found["search"]["results"]) == 10
    assert found["search"]["query"] not in {result["path"] for result in found["search"]["results"]}

    # What it says to try next works as it stands there.
    for command in [line.split()[1:] for line in ended.err.splitlines() if line.startswith("  tercet ")]:
        if "FOLDER" not in command:
            assert run(*command).code in (0, 1, 3)

    again = run("demo", "--out", out)
    assert again.refused("demo-run", "is there already")
    assert json.loads((out / "run.json").read_text())["fingerprint"] == found["model"]


def test_demo_takes_the_next_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tercet.cli.demo import _free_name

    monkeypatch.chdir(tmp_path)
    assert _free_name() == Path("demo-run")
    Path("demo-run").mkdir()
    assert _free_name() == Path("demo-run-2")
    Path("demo-run-2").touch()
    assert _free_name() == Path("demo-run-3")
