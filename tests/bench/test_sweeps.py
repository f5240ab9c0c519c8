"""The comparison in benchmarks/sweeps.py: margins by the held-out identities, figures by the test's."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from synthetic import write_people

PLACE = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def sweeps(monkeypatch):
    monkeypatch.syspath_prepend(str(PLACE))
    spec = importlib.util.spec_from_file_location("sweeps", PLACE / "sweeps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made_up = sys.modules["applications"].Set("people", "characters")
    monkeypatch.setitem(module.SETS, "made_up", made_up)
    yield module
    sys.modules.pop("applications", None)


def line(**more):
    trials = [{"margin": "auto", "eer": [0.1, 0.2, 0.3]}, {"margin": 0.5, "eer": [0.1, 0.1]}]
    test = {"auto": {"eer": [0.10, 0.14], "recall": [0.9, 0.9]}, "0.5": {"eer": [0.09, 0.11], "recall": [0.8, 1.0]}}
    return {"set": "faces", "minutes": 0.5, "best": "0.5", "trials": trials, "test": test} | more


def test_the_table_is_of_the_seeds_that_both_have(sweeps):
    *_, row = sweeps.table([line()])
    # behind by 1 and 3 points: mean 2, and 12.706 standard errors of 1 to each side
    assert row == "| faces | 0.5 | 2 | 0.5 | 15.0 / 10.0 | 12.0 / 10.0 | +2.0 ± 12.7 | 90.0 / 90.0 | +0.0 ± 127.1 |"
    one = {"auto": {"eer": [0.10], "recall": [0.9]}, "0.5": {"eer": [0.12], "recall": [0.8]}}
    *_, row = sweeps.table([line(test=one)])
    assert row == "| faces | 0.5 | 1 | 0.5 | 10.0 / 10.0 | 10.0 / 12.0 | -2.0 | 90.0 / 80.0 | -10.0 |"


@pytest.mark.long
def test_the_best_margin_is_scored_beside_the_default_on_whom_no_sweep_has_seen(sweeps, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="optuna is not installed")
    write_people(tmp_path / "people", people=12, pictures=6)
    words = ["sweeps.py", "--data", tmp_path, "--out", tmp_path / "out", "--minutes", "0.005", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*words, "--sets", "made_up"])))
    threads = torch.get_num_threads()
    try:
        sweeps.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "out" / "made_up.json").read_text())
    assert len(found["trials"]) == 10 and {"auto", found["best"]} == set(found["test"])
    assert "| made_up | " in capsys.readouterr().out
