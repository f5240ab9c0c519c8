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


def test_a_front_end_that_does_not_fit_the_encoder_is_refused():
    plan = tiny_plan()
    with pytest.raises(InvalidInput, match=r"makes \(1, 9, 8\), which this encoder does not take"):
        replace(plan, front_end=replace(plan.front_end, height=9))
