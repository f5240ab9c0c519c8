"""On whom a threshold is chosen: the validation identities where they are enough, never on those trained on."""

from __future__ import annotations

import pytest

import tercet
from synthetic import read_people, tiny_plan, write_people
from tercet.data import SampleStore
from tercet.protocol import calibrate_run, calibration_rows
from tercet.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("data") / "people", people=20, pictures=6)


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    return tercet.load(train(read_people(folder), tiny_plan(epochs=8), tmp_path_factory.mktemp("out") / "run"))


def identities(store: SampleStore, rows) -> set[str]:
    return {store.manifest.rows[row].identity for row in rows}


def test_own_data_leave_the_test_identities_alone_where_validation_is_enough(model, folder) -> None:
    with SampleStore.read(read_people(folder), model.front_end) as store:
        # 3 validation identities of 6 pictures: 108 pairs of two, enough for 30 / 0.3 = 100
        chosen = calibration_rows(model, store, target_fmr=0.3)
        assert identities(store, chosen.rows) == set(model.split.split.validation)
        assert chosen.identities == 3
        assert chosen.warnings == ()
        assert calibrate_run(model, store, target_fmr=0.3).calibration.impostor_pairs == 108


def test_own_data_fall_back_to_the_test_identities_and_say_so(model, folder) -> None:
    with SampleStore.read(read_people(folder), model.front_end) as store:
        chosen = calibration_rows(model, store, target_fmr=0.1)
        assert identities(store, chosen.rows) == set(model.split.split.test)
        (warning,) = chosen.warnings
        assert "108" in warning and "test" in warning


def test_other_data_are_used_whole_and_without_a_warning(model, tmp_path) -> None:
    strangers = read_people(write_people(tmp_path / "strangers", people=5, pictures=4, seed=9))
    with SampleStore.read(strangers, model.front_end) as store:
        chosen = calibration_rows(model, store, target_fmr=0.3)
        assert len(chosen.rows) == 20
        assert not any("validation" in warning for warning in chosen.warnings)
