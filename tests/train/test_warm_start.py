"""The warm start: its loss by hand, its place in a training, its state after Ctrl-C, and what it leaves alone."""

import json
import math
import signal

import numpy as np
import pytest
import torch

from synthetic import tiny_plan
from tercet.errors import InvalidInput
from tercet.run.files import read_tensors
from tercet.train import train
from tercet.train.warm_start import WarmStart

CPU = torch.device("cpu")


def weights(out):
    return read_tensors(out / "weights.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def told(out, key):
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


def test_the_loss_is_the_softmax_over_the_identities_that_are_trained_on():
    labels_N = np.array([7, 3, -1, 3, 7, 11])
    warm = WarmStart(labels_N, 4, seed=0, device=CPU)
    assert warm.weight_CD.shape == (3, 4)
    x_BD = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = warm(x_BD, torch.tensor([11, 3, -1, 7]))
    rows = []
    for x, own in ((x_BD[0], 2), (x_BD[1], 0), (x_BD[3], 1)):
        scores = (16 * torch.cosine_similarity(x.detach(), warm.weight_CD.detach())).tolist()
        rows.append(math.log(sum(math.exp(score) for score in scores)) - scores[own])
    assert loss.item() == pytest.approx(sum(rows) / 3, rel=1e-5)
    loss.backward()
    assert not x_BD.grad[2].any() and x_BD.grad[[0, 1, 3]].abs().sum(1).min() > 0
    assert warm(x_BD, torch.full((4,), -1)).item() == 0


def test_a_collapsed_embedding_has_a_gradient():
    """What triplets have not: from one point, samples of different identities are pulled apart."""
    warm = WarmStart(np.arange(4), 8, seed=0, device=CPU)
    x_BD = torch.ones(4, 8, requires_grad=True)
    warm(x_BD, torch.arange(4)).backward()
    assert torch.pdist(x_BD.grad).min() > 1e-3


def test_it_comes_first_and_then_triplets_do(people, tmp_path, monkeypatch):
    monkeypatch.setattr("tercet.train.loop._LOOK_SECONDS", 0.0)
    out = train(people, tiny_plan(epochs=4, warm_start=6), tmp_path / "run")
    assert json.loads((out / "run.json").read_text())["training"]["warm_start"] == 6
    modes = told(out, "mining")
    assert modes == [(step, "softmax" if step <= 6 else "all") for step in range(1, 13)]
    plain = train(people, tiny_plan(epochs=4), tmp_path / "plain")
    assert weights(out).keys() == weights(plain).keys() and not equal(weights(out), weights(plain))


def test_it_lasts_as_many_steps_as_were_asked_for(people, tmp_path):
    two, three, more = (
        weights(train(people, tiny_plan(epochs=1, validations=1, warm_start=steps), tmp_path / str(steps)))
        for steps in (2, 3, 100)
    )
    assert equal(three, more) and not equal(two, three), "an epoch has three steps"


def test_it_separates_the_identities_of_the_training(people, tmp_path):
    out = train(people, tiny_plan(epochs=30, warm_start=10_000, validations=1), tmp_path / "run")
    losses = [loss for _, loss in told(out, "loss") if loss is not None]
    assert losses[-1] < 0.6 * math.log(6), "chance is the logarithm of how many identities there are"


@pytest.mark.parametrize("mining", ["auto", "hard"])
def test_after_ctrl_c_in_the_warm_start_the_weights_are_the_same(people, tmp_path, mining):
    seen = []

    def press(progress):
        if progress.phase == "validate" and not seen:
            seen.append(signal.raise_signal(signal.SIGINT))

    plan = tiny_plan(epochs=6, warm_start=9, margin="auto", mining=mining, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        train(people, plan, tmp_path / "parts", on_progress=press)
    assert 0 < max(int(place.name[5:]) for place in tmp_path.glob("parts/checkpoints/step-*")) < 9
    train(people, plan, tmp_path / "parts", resume=True)
    train(people, plan, tmp_path / "whole")
    ends = [max(tmp_path.glob(f"{run}/checkpoints/step-*")) / "tensors.safetensors" for run in ("parts", "whole")]
    assert equal(*map(read_tensors, ends)) and "warm_start.weight" in read_tensors(ends[0])


def test_the_curriculum_and_the_margin_wait(people, tmp_path):
    out = train(people, tiny_plan(epochs=4, warm_start=10_000, mining="auto", margin="auto"), tmp_path / "run")
    state = json.loads((max(out.glob("checkpoints/step-*")) / "state.json").read_text())
    care = state["progress"]["care"]
    assert care["stage"] == care["stage_steps"] == 0 and care["doctor"]["looks"] == 12
    assert care["doctor"]["remarks"] == []


def test_a_number_of_steps_is_needed():
    for wrong in (-1, 0.5, True, 2**63):
        with pytest.raises(InvalidInput, match="warm_start"):
            tiny_plan(warm_start=wrong)
