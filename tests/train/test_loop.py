import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from synthetic import read_people, tiny_plan, write_people
from tercet.data import ImageFrontEnd, SampleStore
from tercet.encoders import build_encoder
from tercet.errors import DataError, RunError
from tercet.evaluate import all_pairs, verification
from tercet.run.files import read_tensors
from tercet.run.model import embed_rows
from tercet.train import train
from tercet.train.validation import Validation


def weights(out):
    return read_tensors(out / "weights.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def history(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def press_ctrl_c(at):
    """Ctrl-C at the validation of this number."""
    seen = iter(range(100))

    def on_progress(progress):
        if progress.phase == "validate" and next(seen) == at:
            signal.raise_signal(signal.SIGINT)

    return on_progress


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory):
    """A training that ran through."""
    return train(people, tiny_plan(), tmp_path_factory.mktemp("whole") / "run")


def test_what_a_run_holds(whole, people):
    model = tercet.load(whole)
    assert model.task == "digits" and model.config["seed"] == 0
    split = model.split.split
    assert (len(split.train), len(split.validation), len(split.test)) == (5, 2, 3)
    assert model.config["data"]["samples"] == {"train": 30, "validation": 12}
    assert model.config["training"]["epochs"] == 4
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["steps"] == 12 and metrics["finished"] is True
    validated = [line for line in history(whole) if line["phase"] == "validate"]
    best = min(validated, key=lambda line: line["validation_eer"] - line["validation_map_at_r"])
    assert (metrics["validation"]["eer"], metrics["validation"]["step"]) == (best["validation_eer"], best["step"])
    with SampleStore.read(people.of(split.train), model.front_end) as store:
        assert model.split.hashes["train"] == store.hashes


def test_history_has_every_validation_and_looks_at_the_loss(whole):
    lines = history(whole)
    assert [line["step"] for line in lines if line["phase"] == "validate"] == [3, 6, 9, 12]
    last = [line for line in lines if line["phase"] == "train"][-1]
    assert last["loss"] >= 0 and 0 <= last["active_fraction"] <= 1 and last["images_per_second"] > 0
    assert last["mean_negative"] > 0 and last["learning_rate"] < 1e-4


def test_the_best_weights_are_those_that_are_saved_where_later_ones_are_worse(people, tmp_path):
    out = train(people, tiny_plan(epochs=8, validations=8, learning_rate=0.1), tmp_path / "run")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation"]["step"] < metrics["steps"], "the case that this test is about"
    model = tercet.load(out)
    with SampleStore.read(people.of(model.split.split.validation), model.front_end) as store:
        x_ND = embed_rows(model.encoder, store, np.arange(len(store)))
        pairs = all_pairs(x_ND, store.manifest.labels)
    eer = verification(pairs.scores, pairs.genuine).eer
    assert eer == pytest.approx(metrics["validation"]["eer"], abs=1e-9)
    ended = [line for line in history(out) if line["phase"] == "validate"][-1]
    assert metrics["validation"]["map_at_r"] - eer > ended["validation_map_at_r"] - ended["validation_eer"]
    last = read_tensors(sorted(out.glob("checkpoints/step-*"))[-1] / "tensors.safetensors")
    assert torch.equal(last["best.embed.bias"], weights(out)["embed.bias"])
    assert not torch.equal(last["encoder.embed.bias"], weights(out)["embed.bias"])


def test_neither_figure_of_a_validation_alone_chooses_the_weights(people, tmp_path, monkeypatch):
    figures = iter([(0.30, 0.10), (0.31, 0.18), (0.305, 0.17), (0.40, 0.20)])
    monkeypatch.setattr(Validation, "score", lambda self, encoder, ranks: next(figures))
    found = json.loads((train(people, tiny_plan(), tmp_path / "run") / "metrics.json").read_text())["validation"]
    assert found == {"eer": 0.31, "map_at_r": 0.18, "step": 6}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(whole, people, tmp_path):
    assert equal(weights(whole), weights(train(people, tiny_plan(), tmp_path / "again")))
    assert not equal(weights(whole), weights(train(people, tiny_plan(seed=1), tmp_path / "other")))


def test_training_draws_nothing_from_the_callers_generators(people, tmp_path):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    train(people, tiny_plan(epochs=1), tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_teaches_something_about_identities_it_has_not_seen(tmp_path):
    data = read_people(write_people(tmp_path / "many", people=40, pictures=6))
    out = train(data, tiny_plan(epochs=30, identities_per_batch=12, learning_rate=5e-3), tmp_path / "run")
    model = tercet.load(out)
    torch.manual_seed(0)
    untrained = build_encoder(model.config["encoder"])
    with SampleStore.read(data.of(model.split.split.test), model.front_end) as store:
        rows = np.arange(len(store))
        eers = []
        for encoder in (model.encoder, untrained):
            pairs = all_pairs(embed_rows(encoder, store, rows), store.manifest.labels)
            eers.append(verification(pairs.scores, pairs.genuine).eer)
    assert eers[0] < 0.8 * eers[1]


@pytest.mark.parametrize("at", [0, 2])
def test_ctrl_c_keeps_checkpoint_and_best_model_and_resuming_gives_the_same_weights(whole, people, tmp_path, at):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(), out, on_progress=press_ctrl_c(at))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    so_far = json.loads((out / "metrics.json").read_text())
    assert so_far["finished"] is False and so_far["steps"] == 3 * (at + 1)
    assert tercet.load(out).fingerprint
    assert train(people, tiny_plan(), out, resume=True) == out
    assert equal(weights(out), weights(whole))
    kept = {file: json.loads((out / file).read_text()) for file in ("run.json", "metrics.json")}
    expected = {file: json.loads((whole / file).read_text()) for file in kept}
    for values in (*kept.values(), *expected.values()):
        values.pop("seconds", None)
    assert kept == expected
    steps = [line["step"] for line in history(out) if line["phase"] == "validate"]
    assert steps == [3, 6, 9, 12], "no line is written twice"


# Everything that has a state: margin, curriculum, bank and its encoder, the factor of float16, what a survey has found.
STATEFUL = {
    "checkpoint_seconds": 0, "margin": "auto", "mining": "auto", "precision": "float16",
    "memory": 20, "memory_momentum": 0.9, "memory_age": 8, "mine_every": 7,
}  # fmt: skip
KILLED = """
import json, sys
from synthetic import read_people, tiny_plan
from pathlib import Path
from tercet.train import train
resume = Path(sys.argv[2], "plan.json").is_file()
train(read_people(Path(sys.argv[1])), tiny_plan(**json.loads(sys.argv[3])), Path(sys.argv[2]), resume=resume)
"""


def newest(out):
    return max((int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*")), default=0)


def train_until_killed(people, out, settings, step):
    """A process that trains, or goes on, and is killed as soon as it has a checkpoint of that step; its last one."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, str(people.root), str(out), json.dumps(settings)]
    process = subprocess.Popen(words, env=environment)
    try:
        deadline = time.monotonic() + 200
        while newest(out) < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    return newest(out)


def test_after_kill_9_the_weights_are_those_of_a_training_that_nobody_killed(people, tmp_path):
    settings = STATEFUL | {"epochs": 40}
    step = train_until_killed(people, tmp_path / "run", settings, 20)
    assert 20 <= step < 120, "the case that this test is about"
    with pytest.raises(RunError, match=r"has not finished.*--resume"):
        tercet.load(tmp_path / "run")
    out = train(people, tiny_plan(**settings), tmp_path / "run", resume=True)
    whole = train(people, tiny_plan(**settings | {"checkpoint_seconds": 1000}), tmp_path / "whole")
    last = [read_tensors(run / "checkpoints" / "step-000000120" / "tensors.safetensors") for run in (out, whole)]
    assert equal(*last) and len(last[0]["memory.rows"]) > 12 and last[0]["scale.scale"] > 0
    assert equal(weights(out), weights(whole))
    assert not list(out.glob("checkpoints/.partial*"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_again_and_again_at_random_moments_the_weights_are_the_same_in_the_end(people, tmp_path):
    settings, out, kills = STATEFUL | {"epochs": 100}, tmp_path / "run", 0
    while newest(out) < 300 and kills < 30:
        train_until_killed(people, out, settings, newest(out) + random.randint(1, 90))
        kills += 1
    assert kills > 3
    train(people, tiny_plan(**settings), out, resume=True)
    whole = train(people, tiny_plan(**settings), tmp_path / "whole")
    assert equal(weights(out), weights(whole))


def test_a_truncated_checkpoint_costs_the_steps_since_the_one_before_and_nothing_else(whole, people, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(checkpoint_seconds=0), out, on_progress=press_ctrl_c(1))
    newest = sorted(out.glob("checkpoints/step-*"))[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(people, tiny_plan(checkpoint_seconds=0), out, resume=True)
    assert equal(weights(out), weights(whole))
    steps = [line["step"] for line in history(out) if line["phase"] == "validate"]
    assert steps == [3, 6, 9, 12], "what is done again is not noted twice"


def test_resuming_a_finished_run_changes_nothing_and_a_longer_budget_goes_on(whole, people, tmp_path):
    out = train(people, tiny_plan(), tmp_path / "run")
    train(people, tiny_plan(), out, resume=True)
    assert equal(weights(out), weights(whole))
    train(people, tiny_plan(epochs=6), out, resume=True)
    assert json.loads((out / "metrics.json").read_text())["steps"] == 18
    assert json.loads((out / "plan.json").read_text())["settings"]["epochs"] == 6


def test_a_folder_in_the_way_is_left_alone(whole, people, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"is there already; .*--resume"):
        train(people, tiny_plan(), whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        train(people, tiny_plan(), tmp_path / "file")
    with pytest.raises(RunError, match="cannot be made"):
        train(people, tiny_plan(), tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    assert train(people, tiny_plan(epochs=1), tmp_path / "empty")


def test_resuming_needs_the_same_plan_the_same_data_and_something_to_resume(people, tmp_path):
    with pytest.raises(RunError, match="nothing to resume"):
        train(people, tiny_plan(), tmp_path / "run", resume=True)
    out = train(people, tiny_plan(epochs=1), tmp_path / "run")
    with pytest.raises(RunError, match=r"was started with settings\.margin='auto', not 0\.3"):
        train(people, tiny_plan(epochs=1, margin=0.3), out, resume=True)
    other = read_people(write_people(tmp_path / "others", seed=1))
    with pytest.raises(RunError, match="the data are not those"):
        train(other, tiny_plan(epochs=1), out, resume=True)


def test_a_run_from_before_a_setting_was_known_goes_on_with_its_default(whole, people, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(), tmp_path / "run", on_progress=press_ctrl_c(0))
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    for name in ("mine_every", "categories", "memory"):
        del plan["settings"][name]
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"was started with settings\.mine_every=0, not 5"):
        train(people, tiny_plan(mine_every=5), tmp_path / "run", resume=True)
    assert equal(weights(train(people, tiny_plan(), tmp_path / "run", resume=True)), weights(whole))


def test_a_full_disk_stops_with_one_line_and_resuming_gives_the_same_weights(whole, people, tmp_path, monkeypatch):
    out, sync = tmp_path / "run", os.fsync

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_up(progress):
        if progress.phase == "validate" and progress.step == 6:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)$") as caught:
        train(people, tiny_plan(checkpoint_seconds=0), out, on_progress=fill_up)
    assert str(out) in str(caught.value)
    monkeypatch.setattr(os, "fsync", sync)
    train(people, tiny_plan(checkpoint_seconds=0), out, resume=True)
    assert equal(weights(out), weights(whole))


def test_too_few_identities_leave_no_folder_behind(tmp_path):
    data = read_people(write_people(tmp_path / "one", people=1))
    with pytest.raises(DataError):
        train(data, tiny_plan(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_few_identities_train_without_validation_to_the_last_step(tmp_path):
    data = read_people(write_people(tmp_path / "few", people=5))
    out = train(data, tiny_plan(epochs=2), tmp_path / "run")
    assert tercet.load(out).split.split.validation == ()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation"] == {"eer": None, "map_at_r": None, "step": None}
    checkpoint = read_tensors(sorted(out.glob("checkpoints/step-*"))[-1] / "tensors.safetensors")
    assert torch.equal(checkpoint["encoder.embed.weight"], weights(out)["embed.weight"])


def test_unreadable_pictures_are_skipped_and_counted(tmp_path):
    folder = write_people(tmp_path / "people")
    (folder / "p01" / "0.png").write_bytes(b"no picture")
    (folder / "p02" / "notes.txt").write_text("x")
    out = train(read_people(folder), tiny_plan(epochs=1), tmp_path / "run")
    summary = tercet.load(out).config["data"]
    assert {entry["path"] for entry in summary["skipped"]} == {"p01/0.png", "p02/notes.txt"}
    assert sum(summary["samples"].values()) == 41


def test_where_unreadable_pictures_leave_too_little_one_line_says_so(tmp_path):
    folder = write_people(tmp_path / "people", people=4, pictures=2)
    data = read_people(folder)
    for picture in folder.rglob("1.png"):
        picture.write_bytes(b"")
    with pytest.raises(DataError, match=r"people: cannot be trained on .*no identity has two samples"):
        train(data, tiny_plan(epochs=1), tmp_path / "run")


@pytest.mark.parametrize("between_looks", [60.0, -1.0])
def test_a_training_that_diverges_says_so_and_writes_no_model(people, tmp_path, monkeypatch, between_looks):
    """Also where each of its steps is looked at."""
    monkeypatch.setattr("tercet.train.loop._LOOK_SECONDS", between_looks)
    for doctor, message in (
        (False, r"run: training diverged at step \d+.*lower learning rate"),
        (True, r"run: training given up at step \d+ after 3 fresh starts: the loss .* lower learning rate"),
    ):
        out = tmp_path / str(doctor) / "run"
        with pytest.raises(RunError, match=message):
            # A decay that no learning rate makes good.
            train(people, tiny_plan(epochs=50, weight_decay=1e30, warmup=0, mining="all", doctor=doctor), out)
        assert not (out / "run.json").exists()


def test_the_doctor_takes_a_training_back_that_goes_wrong_and_brings_it_to_its_end(people, tmp_path):
    """At this rate the weights are no numbers after a step or two."""
    told = []
    plan = tiny_plan(epochs=4, learning_rate=1e30, warmup=0, mining="all")
    out = train(people, plan, tmp_path / "run", on_progress=told.append)
    assert [now.remark for now in told if now.phase == "remark"][1].startswith("went back to healthy weights")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["finished"] and metrics["steps"] == 12
    assert [remark["kind"] for remark in metrics["remarks"]] == ["not-finite", "fresh start 1"]
    assert all(remark.keys() == {"step", "kind", "text"} for remark in metrics["remarks"])
    assert all(torch.isfinite(tensor).all() for tensor in weights(out).values())


def test_mining_auto_hardens_and_is_the_same_after_a_resume(people, tmp_path):
    plan = tiny_plan(epochs=12, mining="auto", margin=0.02)
    train(people, plan, tmp_path / "whole")
    modes = [json.loads(line).get("mining") for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    modes = [mode for mode in modes if mode]
    assert set(modes) <= {"all", "semihard", "hard"} and modes == sorted(modes, key=["all", "semihard", "hard"].index)
    train(people, tiny_plan(epochs=6, mining="auto", margin=0.02), tmp_path / "parts")
    half = json.loads((tmp_path / "parts" / "metrics.json").read_text())["steps"]
    assert 0 < half < json.loads((tmp_path / "whole" / "metrics.json").read_text())["steps"]
    place = max((tmp_path / "parts" / "checkpoints").glob("step-*")) / "state.json"
    assert json.loads(place.read_text())["progress"]["care"]["doctor"]["looks"] == half


def test_a_budget_in_minutes_ends_near_its_time(people, tmp_path):
    told = []
    train(people, tiny_plan(minutes=0.02), tmp_path / "run", on_progress=told.append)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["seconds"] >= 1.2 and metrics["steps"] > 1
    assert {progress.phase for progress in told} - {"remark"} == {"read", "train", "validate", "done"}
    done = told[-1]
    assert done.phase == "done" and done.fraction_done == 1.0 and done.remaining_s == 0.0


def test_other_losses_mining_and_mixed_precision_train_too(people, tmp_path):
    options = [
        {"margin": "soft", "mining": "hard", "reduction": "mean"},
        {"mining": "all", "distance": "cosine"},
        {"mining": "random"},
        {"precision": "bfloat16"},
        {"precision": "float16"},
    ]
    for number, option in enumerate(options):
        out = train(people, tiny_plan(epochs=2, **option), tmp_path / str(number))
        assert tercet.load(out).fingerprint
    again = train(people, tiny_plan(epochs=2, mining="random"), tmp_path / "again")
    assert equal(weights(again), weights(tmp_path / "2"))
    assert not equal(weights(tmp_path / "3"), weights(tmp_path / "4"))


def close(one, other, tolerance):
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one | other)


def test_chunks_change_what_fits_and_not_what_is_learnt(whole, people, tmp_path):
    out = train(people, tiny_plan(chunk=5), tmp_path / "run")
    assert close(weights(out), weights(whole), 1e-4) and not equal(weights(out), weights(whole))
    assert json.loads((out / "metrics.json").read_text())["remarks"] == []


def test_a_memory_bank_changes_what_is_learnt_and_a_late_one_nothing(whole, people, tmp_path):
    used = train(people, tiny_plan(memory=30), tmp_path / "used")
    late = train(people, tiny_plan(memory=30, memory_warmup=100), tmp_path / "late")
    assert not close(weights(used), weights(whole), 1e-4) and equal(weights(late), weights(whole))


def test_a_gradient_is_cut_to_the_largest_norm(whole, people, tmp_path):
    tight = train(people, tiny_plan(clip=1e-9, epochs=2), tmp_path / "tight")
    wide = train(people, tiny_plan(clip=1e9), tmp_path / "wide")
    assert equal(weights(wide), weights(whole))
    told = [line["gradient_norm"] for line in history(tight) if line["phase"] == "train"]
    assert min(told) > 1e-3, "what is told is the norm before the cut"
    assert not close(weights(tight), weights(whole), 1e-3)


def test_a_compiled_encoder_learns_the_same(whole, people, tmp_path, monkeypatch):
    """The backend that needs no compiler: what is tested is what the training makes of a compiled module."""
    compiled, real = [], torch.compile

    def with_eager(module):
        compiled.append(module)
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", with_eager)
    out = train(people, tiny_plan(compile=True, chunk=5), tmp_path / "run")
    assert len(compiled) == 1 and close(weights(out), weights(whole), 1e-4)
    assert weights(out).keys() == weights(whole).keys()


def test_as_many_checkpoints_are_kept_as_asked(people, tmp_path):
    out = train(people, tiny_plan(epochs=3, checkpoint_seconds=0, checkpoints=4), tmp_path / "run")
    assert [path.name[-2:] for path in sorted(out.glob("checkpoints/*"))] == ["06", "07", "08", "09"]


def test_the_share_of_time_outside_the_encoder_is_told(whole):
    shares = [line["outside_encoder"] for line in history(whole) if line["phase"] == "train"]
    assert shares and all(0 < share < 1 for share in shares)


def test_no_step_waits_for_a_file(people, tmp_path, monkeypatch):
    opened, steps = [], []
    read = ImageFrontEnd.read_bytes
    monkeypatch.setattr(
        ImageFrontEnd, "read_bytes", lambda self, path: (opened.append(len(steps)), read(self, path))[1]
    )
    train(people, tiny_plan(mine_every=4), tmp_path / "run", on_progress=lambda now: steps.append(now.phase))
    assert len(opened) == 42, "each of training and validation once"
    assert not {"train", "validate", "survey"} & set(steps[: max(opened)])


def test_batch_norm_is_held_where_batches_are_divided_and_that_is_said_once(people, tmp_path, monkeypatch):
    from tercet.train.plan import Plan

    def with_norm(plan):
        torch.manual_seed(0)
        encoder = plan.encoder.build()
        encoder.stem[1] = torch.nn.BatchNorm2d(8)
        return encoder

    monkeypatch.setattr(Plan, "initial", with_norm)
    monkeypatch.setattr("tercet.train.result.save_model", lambda *_, **__: None)  # no such encoder can be loaded again
    for chunk, said in ((None, []), (5, ["batch-norm"])):
        out = train(people, tiny_plan(epochs=2, chunk=chunk), tmp_path / str(chunk))
        kinds = [line["kind"] for line in history(out) if line["phase"] == "remark"]
        last = read_tensors(out / "checkpoints" / "step-000000006" / "tensors.safetensors")
        assert kinds == said and bool(last["encoder.stem.1.running_mean"].any()) != bool(said)


def test_outside_the_main_thread_it_trains_all_the_same(whole, people, tmp_path):
    thread = threading.Thread(target=train, args=(people, tiny_plan(), tmp_path / "run"))
    thread.start()
    thread.join()
    assert equal(weights(tmp_path / "run"), weights(whole))
