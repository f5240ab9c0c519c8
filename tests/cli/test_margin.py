from __future__ import annotations

import pytest
from PIL import Image

import tercet.functional as TF
from tercet import load
from tercet.protocol import scored_rows
from tercet.run.model import embed_rows


def test_the_curve_of_a_run_is_exact_and_drawn(run, trained, digits, tmp_path):
    ended = run("margin", trained, "--json", "--plot", tmp_path / "curve.png")
    assert ended.code == 0
    found = ended.json
    assert found["samples"] == 75 and found["identities"] == 3 and found["distance"] == "squared"
    import torch

    from tercet.data import SampleStore
    from tercet.tasks import load_task

    model = load(trained)
    with SampleStore.read(load_task("digits").read(digits / "digits.csv"), model.front_end) as store:
        rows = scored_rows(model, store).rows
        x = torch.from_numpy(embed_rows(model.encoder, store, rows))
        labels = torch.from_numpy(store.manifest.labels[rows])
    for i in (0, 10, 30):
        census = TF.census(x, labels, margin=found["margins"][i])
        assert found["active_fraction"][i] == pytest.approx(1 - census.easy / census.total, abs=1e-4)
        loss = TF.batch_triplet_loss(x, labels, margin=found["margins"][i])
        assert found["loss"][i] == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
    at = found["margin_at_share"]["0.5"]
    assert at is None or found["margins"][0] <= at <= found["margins"][-1]
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 600


def test_the_curve_as_text_at_margins_of_the_users_choice(run, trained):
    ended = run("margin", trained, "--margins", "0.5,0.1")
    assert ended.code == 0
    lines = [line.split() for line in ended.out.splitlines() if line.strip().startswith("0.")]
    assert [line[0] for line in lines] == ["0.100", "0.500"]
    assert "trained with margin" in ended.out


def test_a_sweep_says_which_margin_is_best_and_goes_on_where_it_was(run, digits, tmp_path):
    pytest.importorskip("optuna")
    args = ("margin", digits / "digits.csv", "--sweep", "--task", "digits", "--out", tmp_path / "sweep")
    args += ("--margins", "0.1,soft", "--seeds", "2", "--epochs", "1")
    first = run(*args, "--json", "--plot", tmp_path / "sweep.svg")
    assert first.code == 0, first.err
    assert first.json["best"] in (0.1, "soft")
    assert {trial["margin"] for trial in first.json["trials"]} == {0.1, "soft"}
    assert "<svg" in (tmp_path / "sweep.svg").read_text()
    again = run(*args)
    assert again.code == 0 and f"best: {first.json['best']}" in again.out
    assert "validation EER" in again.out


def test_wrong_use_is_one_line(run, trained, digits, tmp_path):
    assert run("margin", digits).refused("not a run of tercet")
    assert run("margin", trained, "--plot", tmp_path / "a.gif").refused("a.gif: a plot ends in .png")
    assert run("margin", trained, "--margins", "0.1,soft").refused("numbers only")
    assert run("margin", trained, "--margins", "0.1,x").refused("margin='x'")
    assert run("margin", digits, "--sweep", "--task", "digits").refused("--sweep needs --task and --out")
    assert run("margin", digits, "--sweep", "--out", tmp_path / "o").refused("--sweep needs --task and --out")
    wrong = ("margin", digits, "--sweep", "--task", "digits", "--out", tmp_path / "o", "--margins", "-1")
    assert run(*wrong).refused("margin")
