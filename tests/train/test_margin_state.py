"""The margin that chooses itself is a part of the training's state: after a stop it goes on exactly, whatever mines."""

import json
import signal

import pytest
import torch

from synthetic import tiny_plan
from tercet.functional.options import MINING
from tercet.run.files import read_tensors
from tercet.train import train


def state(out):
    return read_tensors(max(out.glob("checkpoints/step-*")) / "tensors.safetensors")


@pytest.mark.parametrize("mining", ["auto", *MINING])
def test_after_ctrl_c_margin_and_weights_are_those_of_a_training_that_ran_through(people, tmp_path, mining):
    pressed = []

    def press(now):
        if now.phase == "validate" and not pressed:
            pressed.append(signal.raise_signal(signal.SIGINT))

    # With a bank the negatives that the margin follows come from a reference set; for one mode that is enough.
    memory = {"memory": 12} if mining == "hard" else {}
    plan = tiny_plan(epochs=2, validations=2, margin="auto", mining=mining, **memory)
    with pytest.raises(KeyboardInterrupt):
        train(people, plan, tmp_path / "parts", on_progress=press)
    before = state(tmp_path / "parts")
    assert before["criterion.margin._seen"] == 3 and before["criterion.margin._spread"] > 0
    train(people, plan, tmp_path / "parts", resume=True)
    train(people, plan, tmp_path / "whole")
    parts, whole = state(tmp_path / "parts"), state(tmp_path / "whole")
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in parts)
    assert (
        parts["criterion.margin._seen"] == 6 and parts["criterion.margin._spread"] != before["criterion.margin._spread"]
    )


def test_where_it_stands_is_told_at_every_look(people, tmp_path):
    out = train(people, tiny_plan(epochs=2, margin="auto"), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line["phase"] == "train"]
    assert looks and looks[-1]["margin"] == 0.5 * float(state(out)["criterion.margin._spread"])
