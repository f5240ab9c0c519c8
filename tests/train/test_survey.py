"""Surveys: when they are due, tiles that outlive a kill, and a state that a resumed training goes on with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synthetic import tiny_plan
from tercet.data import Manifest, SampleStore
from tercet.errors import RunError
from tercet.run.files import read_tensors
from tercet.train import survey as module
from tercet.train import train
from tercet.train.ranks import Ranks
from tercet.train.survey import Survey

MINED = {"mine_every": 4, "epochs": 5, "validations": 2, "identities_per_batch": 4}  # 15 steps, of 30 rows


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "TILE", 8)


@pytest.fixture(scope="module")
def store(people):
    with SampleStore.read(people, tiny_plan().front_end) as store:
        yield store


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return tiny_plan().encoder.build()


def new(store, folder, *, every=10, skip=0.1, **options):
    return Survey(store, np.arange(len(store)), Ranks(), folder, every=every, skip=skip, **options)


def made(survey, encoder, *, tiles=1000, tell=lambda done, rows: None):
    """Whether a survey of at most so many tiles is done."""
    left = iter(range(tiles))
    return survey.take(10, encoder, goes_on=lambda: next(left, None) is not None, tell=tell)


def weights(out):
    return read_tensors(out / "weights.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_survey_is_due_at_every_so_many_steps_and_once(store, encoder, tmp_path):
    survey = new(store, tmp_path)
    assert [step for step in range(31) if survey.due(step)] == [10, 20, 30]
    assert made(survey, encoder) and not survey.due(10) and survey.due(20)
    assert not new(store, tmp_path, every=0).due(10)
    survey.forget()
    assert survey.found is None and survey.mean_hardness() is None


def test_tiles_and_batches_change_nothing_and_progress_counts_every_row_twice(store, encoder, tmp_path, monkeypatch):
    whole, told = new(store, tmp_path / "whole"), []
    assert made(whole, encoder)
    monkeypatch.setattr(module, "TILE", 7)
    parts = new(store, tmp_path / "parts", batch=3)
    assert made(parts, encoder, tell=lambda done, rows: told.append((done, rows)))
    assert told[0] == (7, 120) and told[-1] == (120, 120) and len(told) == 18
    assert torch.equal(torch.from_numpy(parts.found.near_IM), torch.from_numpy(whole.found.near_IM))
    np.testing.assert_allclose(parts.found.hard_N, whole.found.hard_N, atol=1e-5)
    assert np.isneginf(whole.found.hard_N).sum() == 6
    assert not (tmp_path / "whole").exists() and not (tmp_path / "parts").exists(), "nothing stays behind"


def test_a_survey_that_was_cut_short_goes_on_with_the_next_tile(store, encoder, tmp_path, small_tiles, monkeypatch):
    first = new(store, tmp_path)
    assert not made(first, encoder, tiles=11) and first.found is None and first.due(10)
    (place,) = tmp_path.iterdir()
    assert sorted(file.name[:8] for file in place.iterdir()) == ["embedded"] * 8 + ["nearest-"] * 3
    embedded = []
    monkeypatch.setattr(module, "embed_rows", lambda *_, **__: embedded.append(1))
    again = new(store, tmp_path)
    assert made(again, encoder) and not embedded
    monkeypatch.undo()
    whole = new(store, tmp_path / "whole")
    assert made(whole, encoder)
    assert np.array_equal(again.found.near_IM, whole.found.near_IM)
    np.testing.assert_allclose(again.found.hard_N, whole.found.hard_N, atol=1e-5)


def test_a_damaged_tile_is_made_again_and_those_of_other_weights_are_not_used(store, encoder, tmp_path, small_tiles):
    assert not made(new(store, tmp_path), encoder, tiles=9)
    (place,) = tmp_path.iterdir()
    (place / "embedded-000002.safetensors").write_bytes(b"half")
    torch.manual_seed(1)
    other, after = tiny_plan().encoder.build(), new(store, tmp_path)
    whole = new(store, tmp_path / "whole")
    assert made(after, encoder) and made(whole, encoder) and np.array_equal(after.found.hard_N, whole.found.hard_N)
    assert not made(new(store, tmp_path), encoder, tiles=9)
    of_other, plain = new(store, tmp_path), new(store, tmp_path / "plain")
    assert made(of_other, other) and made(plain, other)
    assert np.array_equal(of_other.found.hard_N, plain.found.hard_N)
    assert not np.array_equal(of_other.found.hard_N, after.found.hard_N)


def test_a_folder_that_cannot_be_made_is_told(store, encoder, tmp_path, small_tiles):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        made(new(store, tmp_path / "file"), encoder)


def test_state_goes_through_tensors_and_is_refused_for_other_data(store, encoder, tmp_path):
    survey, again = new(store, tmp_path), new(store, tmp_path)
    again.set_tensors(survey.tensors())
    assert again.found is None and again.step == -1
    assert made(survey, encoder)
    again.set_tensors(survey.tensors())
    assert again.step == 10 and not again.due(10) and again.mean_hardness() == survey.mean_hardness()
    assert np.array_equal(again.found.hard_N, survey.found.hard_N)
    fewer = Survey(store, np.arange(54), Ranks(), tmp_path, every=10, skip=0.1)
    with pytest.raises(ValueError, match="others now"):
        fewer.set_tensors(survey.tensors())


def test_forgeries_are_not_searched(people, encoder, tmp_path):
    rows = [replace(row, kind="skilled") if row.path.stem in "45" else row for row in people.rows]
    with SampleStore.read(Manifest(people.root, tuple(rows)), tiny_plan().front_end) as store:
        survey = new(store, tmp_path, skip=0.0)
        assert made(survey, encoder)
    assert np.array_equal(np.isneginf(survey.found.hard_N), ~store.manifest.genuine)
    genuine = Manifest(people.root, tuple(row for row in rows if row.kind == "genuine"))
    with SampleStore.read(genuine, tiny_plan().front_end) as without:
        alone = new(without, tmp_path, skip=0.0)
        assert made(alone, encoder)
    np.testing.assert_allclose(survey.found.hard_N[store.manifest.genuine], alone.found.hard_N, atol=1e-6)


def test_mining_changes_what_is_learnt_and_is_told(people, tmp_path):
    told = []
    mined = train(people, tiny_plan(**MINED), tmp_path / "mined", on_progress=told.append)
    plain = train(people, tiny_plan(**MINED | {"mine_every": 0}), tmp_path / "plain")
    late = train(people, tiny_plan(**MINED | {"mine_every": 1000}), tmp_path / "late")
    assert not equal(weights(mined), weights(plain)) and equal(weights(late), weights(plain))
    surveys = [now for now in told if now.phase == "survey"]
    assert [now.fraction_done for now in surveys] == [0.5, 1.0] * 3 and surveys[-1].step == 60
    last = [json.loads(line) for line in (mined / "history.jsonl").read_text().splitlines()][-2]
    assert last["phase"] == "train" and last["survey"] == 12 and -2 < last["hardness"] < 2


@pytest.mark.parametrize("at", [0, 3, 9])
def test_ctrl_c_in_a_survey_and_resuming_give_the_same_weights(people, tmp_path, small_tiles, at):
    whole, seen = train(people, tiny_plan(**MINED), tmp_path / "whole"), iter(range(1000))

    def press(now):
        if now.phase == "survey" and next(seen) == at:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(**MINED), out, on_progress=press)
    assert json.loads((out / "metrics.json").read_text())["steps"] == (4 if at < 8 else 8)
    assert list((out / "survey").glob("*/*.safetensors"))
    told = []
    train(people, tiny_plan(**MINED), out, resume=True, on_progress=told.append)
    assert equal(weights(out), weights(whole)) and not (out / "survey").exists()
    # Tiles that were there are told at once, as those that are made; what matters is that all are.
    assert [now.fraction_done for now in told if now.phase == "survey"][7] == 1.0


KILLED = """
import json, sys
from pathlib import Path
from synthetic import read_people, tiny_plan
from tercet.train import survey, train
survey.TILE = 8
resume = Path(sys.argv[2], "plan.json").is_file()
train(read_people(Path(sys.argv[1])), tiny_plan(**json.loads(sys.argv[3])), Path(sys.argv[2]), resume=resume)
"""


def test_after_kill_9_in_a_survey_the_weights_are_those_of_a_training_that_nobody_killed(people, tmp_path, small_tiles):
    out, settings = tmp_path / "run", MINED | {"epochs": 20, "checkpoint_seconds": 1000, "mine_every": 10}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, str(people.root), str(out), json.dumps(settings)]
    process = subprocess.Popen(words, env=environment)
    try:
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            step = max((int(path.name[:9]) for path in out.glob("survey/*")), default=0)
            if step >= 20 and list(out.glob("survey/*/embedded-000001*")):
                break
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    last = max(int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*"))
    assert 20 <= last < 60, "the case that this test is about"
    train(people, tiny_plan(**settings), out, resume=True)
    whole = train(people, tiny_plan(**settings), tmp_path / "whole")
    final = [read_tensors(run / "checkpoints" / "step-000000060" / "tensors.safetensors") for run in (out, whole)]
    assert equal(*final) and int(final[0]["survey.step"]) == 50 and len(final[0]["survey.hard"]) == 30


def test_after_an_alarm_batches_are_ordinary_ones_until_the_next_survey(people, tmp_path, monkeypatch):
    forgotten = []
    forget = Survey.forget
    monkeypatch.setattr(Survey, "forget", lambda self: (forgotten.append(1), forget(self))[1])
    out, wild = tmp_path / "run", {"learning_rate": 1e30, "warmup": 0, "mining": "all", "epochs": 50}
    with contextlib.suppress(RunError):  # given up or not
        train(people, tiny_plan(**MINED | wild), out)
    kinds = [json.loads(line).get("kind", "") for line in (out / "history.jsonl").read_text().splitlines()]
    starts = sum(kind.startswith("fresh start") for kind in kinds)
    assert starts >= 1 and len(forgotten) == 1 + starts, "once at the beginning, and with each fresh start"
