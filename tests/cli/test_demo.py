from __future__ import annotations

import json
from pathlib import Path

import pytest

import tercet


def test_demo_goes_the_whole_way_and_names_what_it_left(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("demo", "--epochs", "0.3", "--json")
    assert ended.code == 0
    found = ended.json
    out = Path("demo-run")
    assert found["run"] == str(out)
    assert found["trained_on"] == {"train": 896, "validation": 2, "test": 3}
    assert found["samples"] == 542
    assert {"eer", "recall", "map_at_r", "intervals", "baselines"} <= set(found)
    assert Path(found["report"]) == out / "report.html"
    assert "identities it has never seen" in (out / "report.html").read_text("utf-8")
    assert len(list((out / "data" / "digits").glob("?/*.png"))) == 1797
    assert json.loads((out / "command.json").read_text())["command"] == "tercet demo --epochs 0.3 --json"

    model = tercet.load(out)
    assert {name[0] for name in model.split.split.train} == set("03689")
    assert model.split.split.validation == tuple("25")
    assert model.split.split.test == tuple("147")
    if found["calibration"] is not None:  # a second of training may leave too much overlap for a threshold
        assert model.calibration.id == found["calibration"]["id"]
        assert found["calibration"]["impostor_pairs"] == 177 * 182
    pairs = [(Path(item["a"]).parent.name, Path(item["b"]).parent.name, item["truth"]) for item in found["verify"]]
    assert pairs == [
        ("1", "1", "same"),
        ("1", "4", "different"),
        ("4", "4", "same"),
        ("4", "7", "different"),
        ("7", "7", "same"),
        ("7", "1", "different"),
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
