"""A sweep: paired seeds, halving, resume without repeating a training."""

import json
import math

import pytest

from synthetic import read_people, tiny_plan, write_people
from tercet.errors import DataError, InvalidInput, RunError
from tercet.train import sweep as module
from tercet.train.sweep import Trial, difference, sweep

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return read_people(write_people(tmp_path_factory.mktemp("data") / "people"))


def test_every_margin_has_the_same_seeds_the_worse_half_stops_and_all_of_it_is_on_the_disk(people, tmp_path):
    told = []
    trials = sweep(people, tiny_plan(epochs=1), tmp_path, margins=(0.2, 0.02, "soft"), seeds=2, on_trial=told.append)
    assert {trial.margin for trial in trials} == {0.2, 0.02, "soft"} == {trial.margin for trial in told}
    assert trials[0].mean_eer == min(trial.mean_eer for trial in trials if not trial.pruned)
    for trial in trials:
        assert len(trial.eer) == (1 if trial.pruned else 2)
        for number, eer in enumerate(trial.eer):
            run = tmp_path / f"margin-{trial.margin}" / f"seed-{number}"
            assert json.loads((run / "metrics.json").read_text())["validation"]["eer"] == eer
    splits = [json.loads((tmp_path / f"margin-{m}" / "seed-0" / "split.json").read_text()) for m in (0.2, 0.02, "soft")]
    assert splits[0] == splits[1] == splits[2]


def test_what_is_on_the_disk_is_not_trained_again_and_a_cut_off_sweep_goes_on(people, tmp_path, monkeypatch):
    plan = tiny_plan(epochs=1)
    runs = []
    whole = module.train

    def counted(*args, **kwargs):
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(args[2])
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(people, plan, tmp_path, margins=(0.2, 0.02), seeds=3)
    done = {run: (run / "weights.safetensors").stat().st_mtime_ns for run in runs}
    monkeypatch.setattr(module, "train", whole)
    first = sweep(people, plan, tmp_path, margins=(0.2, 0.02), seeds=3)
    assert {run: (run / "weights.safetensors").stat().st_mtime_ns for run in done} == done
    monkeypatch.setattr(module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert {trial.margin: trial.eer[0] for trial in sweep(people, plan, tmp_path, margins=(0.2, 0.02), seeds=3)} == {
        trial.margin: trial.eer[0] for trial in first
    }


def test_a_sweep_that_is_made_again_decides_as_it_did(people, tmp_path, monkeypatch):
    """The first margin is the worst: it had nobody to be compared with, and has nobody the second time."""
    eers = {0.2: 0.3, 0.02: 0.2, 0.5: 0.1, "soft": 0.25}
    monkeypatch.setattr(module, "_one", lambda _, __, margin, *___: {"eer": eers[margin], "map_at_r": 0.5})
    first, again = (sweep(people, tiny_plan(), tmp_path, margins=tuple(eers), seeds=2) for _ in range(2))
    assert [len(trial.eer) for trial in first] == [2, 2, 2, 1]
    assert again == first
    kept = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert {str(trial["margin"]): trial["eer"] for trial in kept} == {str(t.margin): list(t.eer) for t in again}


def test_what_cannot_be_swept_is_refused_before_anything_is_trained(people, tmp_path):
    for wrong in ((), (0.1, 0.1)):
        with pytest.raises(InvalidInput, match="margins must be"):
            sweep(people, tiny_plan(), tmp_path / "a", margins=wrong)
    with pytest.raises(InvalidInput, match="margin"):
        sweep(people, tiny_plan(), tmp_path / "a", margins=(0.1, -1.0))
    with pytest.raises(InvalidInput, match="seeds=0"):
        sweep(people, tiny_plan(), tmp_path / "a", seeds=0)
    assert not (tmp_path / "a").exists()


def test_too_few_identities_to_hold_some_out_is_one_line(tmp_path):
    few = read_people(write_people(tmp_path / "few", people=5))
    with pytest.raises(DataError, match="too few identities for some to be held out"):
        sweep(few, tiny_plan(epochs=1), tmp_path / "out", margins=(0.1,), seeds=1)


def test_a_folder_of_other_settings_is_left_alone(people, tmp_path):
    sweep(people, tiny_plan(epochs=1), tmp_path, margins=(0.1,), seeds=1)
    with pytest.raises(RunError, match="was trained with other settings"):
        sweep(people, tiny_plan(epochs=2), tmp_path, margins=(0.1,), seeds=1)


def test_differences_are_paired():
    one = Trial(0.1, (0.10, 0.20, 0.30), (0, 0, 0), False)
    other = Trial(0.2, (0.11, 0.22, 0.33), (0, 0, 0), False)
    mean, low, high = difference(other, one)
    assert mean == pytest.approx(0.02)
    # standard deviation 0.01 over three differences; Student's t at 97.5 % with 2 degrees of freedom is 4.302653
    assert (high - low) / 2 == pytest.approx(4.302652730 * 0.01 / math.sqrt(3))
    assert math.isnan(difference(Trial(0.3, (0.1,), (0,), True), one)[1])
