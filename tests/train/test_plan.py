import json
from dataclasses import replace

import pytest

from synthetic import tiny_plan
from tercet.errors import InvalidInput, InvalidOption
from tercet.train import Settings


@pytest.mark.parametrize("settings", [Settings(epochs=3, margin="soft"), Settings(minutes=0.5, mining="hard", seed=7)])
def test_settings_survive_json(settings):
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": None}, "minutes, epochs"),
        ({"minutes": 1.0}, "minutes, epochs"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": float("nan")}, "epochs=nan"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": True}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup": 1.0}, "warmup"),
        ({"identities_per_batch": 1}, "identities_per_batch"),
        ({"samples_per_identity": 2.0}, "samples_per_identity"),
        ({"validations": 0}, "validations"),
        ({"seed": -1}, "seed"),
        ({"margin": -0.1}, "margin"),
        ({"chunk": 0}, "chunk=0"),
        ({"clip": 0.0}, "clip=0"),
        ({"compile": 1}, "compile=1"),
        ({"checkpoints": 1}, "checkpoints=1"),
        ({"memory": -1}, "memory=-1"),
        ({"memory": 9, "memory_age": 0}, "memory_age=0"),
        ({"memory": 9, "memory_momentum": 1.0}, "memory_momentum=1"),
        ({"mine_every": -1}, "mine_every=-1"),
        ({"mine_skip": 1.0}, "mine_skip=1"),
        ({"categories": 0}, "categories=0"),
        ({"categories": 9}, "categories=9 must be at most half of the identities of a batch, which are 16"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong, message):
    with pytest.raises(InvalidInput, match=message):
        Settings(**({"epochs": 1} | wrong))


@pytest.mark.parametrize("wrong", [{"mining": "best"}, {"distance": "l1"}, {"reduction": "max"}, {"precision": "half"}])
def test_unknown_options_are_refused_before_anything_is_read(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(InvalidOption, match=f"{name}='{value}'"):
        Settings(epochs=1, **wrong)


def test_settings_with_other_keys_are_refused():
    with pytest.raises(InvalidInput, match="settings: keys"):
        Settings.from_json({"epochs": 1})
    with pytest.raises(InvalidInput, match="settings: keys"):
        Settings.from_json(Settings(epochs=1).to_json() | {"chunks": 1})


def test_settings_of_a_run_from_before_chunks_and_memory_are_read():
    values = Settings(epochs=1).to_json()
    for name in (
        "temper",
        "chunk",
        "clip",
        "compile",
        "checkpoints",
        "memory",
        "memory_age",
        "memory_warmup",
        "memory_momentum",
        "categories",
        "mine_every",
        "mine_skip",
    ):
        del values[name]
    assert Settings.from_json(values) == Settings(epochs=1)


@pytest.mark.parametrize("option", ["memory_age", "memory_warmup", "memory_momentum"])
def test_how_a_memory_works_needs_one(option):
    with pytest.raises(InvalidOption, match=f"{option} has no meaning without memory"):
        Settings(epochs=1, **{option: 0.5 if option == "memory_momentum" else 3})


@pytest.mark.parametrize("option", [{"mine_every": 100}, {"categories": 2}])
def test_partners_and_tempering_exclude_each_other(option):
    with pytest.raises(InvalidOption, match="temper"):
        Settings(epochs=1, temper=0.5, **option)


def test_a_front_end_that_does_not_fit_the_encoder_is_refused():
    plan = tiny_plan()
    with pytest.raises(InvalidInput, match=r"makes \(1, 9, 8\), which this encoder does not take"):
        replace(plan, front_end=replace(plan.front_end, height=9))
