"""The comparison in benchmarks/applications.py: fair, resumable, and its table says what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from synthetic import write_people

PLACE = Path(__file__).resolve().parents[2] / "benchmarks" / "applications.py"


@pytest.fixture
def applications(monkeypatch):
    spec = importlib.util.spec_from_file_location("applications", PLACE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "applications", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESAMPLES", 20)
    monkeypatch.setitem(module.SETS, "made_up", module.Set("people", "characters"))
    return module


@pytest.mark.long
def test_every_system_is_scored_on_the_same_identities_and_nothing_is_repeated(
    applications, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")
    write_people(tmp_path / "people", people=12, pictures=6)
    found = tmp_path / "found.jsonl"
    words = ["applications.py", "--data", tmp_path, "--out", found, "--minutes", "0.01", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*words, "--sets", "made_up"])))
    threads = torch.get_num_threads()
    try:
        applications.main()
        said = capsys.readouterr().out
        lines = [json.loads(line) for line in found.read_text().splitlines()]
        systems = [line["system"] for line in lines]
        without = ["raw_pixels", "hog", "untrained", "description"]
        assert systems == [*without, "tercet", "tercet, network", "semihard", "semihard, network"]
        assert len({(line["identities"], line["samples"], line["trained_on"]) for line in lines}) == 1
        tercet, _, semihard, _ = lines[4:]
        for line in lines[4:]:
            assert line["cpu_s"] >= 0.6 and line["steps"] >= 1 and 0 < line["outside_encoder"] < 1
        assert tercet["figures"] != semihard["figures"]
        assert "| tercet, 0.01 min |" in said and "**made_up**: " in said
        applications.main()
        assert len(found.read_text().splitlines()) == 8
    finally:
        torch.set_num_threads(threads)


def test_the_loss_of_the_other_library_takes_forgeries_as_negatives_alone(applications):
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")
    loss = applications.SemiHard()
    torch.manual_seed(0)
    x_BD = torch.nn.functional.normalize(torch.randn(8, 4), dim=1).requires_grad_()
    labels_B = torch.tensor([0, 0, 1, 1, 2, 2, -1, -1])
    loss(x_BD, labels_B).backward()
    assert all(len(set(found.tolist()) & {6, 7}) == 0 for found in loss.miner(x_BD, applications.alone(labels_B))[:2])
    assert torch.equal(applications.alone(labels_B), torch.tensor([0, 0, 1, 1, 2, 2, 9, 10]))
