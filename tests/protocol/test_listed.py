"""Evaluation on a published list of pairs: exactly those, by the list's folds, nobody dropped in silence."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic import read_people
from tercet.data import SampleStore
from tercet.data.trials import read_trials
from tercet.errors import DataError
from tercet.evaluate import cosine, verification
from tercet.protocol import evaluate_run, listed_pairs


def write_list(folder, lines):
    file = folder / "list.txt"
    file.write_text("\n".join(" ".join(map(str, line)) for line in lines) + "\n")
    return file


@pytest.fixture
def strangers(model):
    return list(model.split.split.test)


def lines_of(people):
    lines = []
    for n, person in enumerate(people):
        other = people[(n + 1) % len(people)]
        for i in range(5):
            lines.append((f"{person}/{i}.png", f"{person}/{i + 1}.png", 1, n % 2))
            lines.append((f"{person}/{i}.png", f"{other}/{i}.png", 0, n % 2))
    return lines


def test_exactly_the_pairs_of_the_list_are_scored_by_its_folds(model, people, strangers, tmp_path):
    lines = lines_of(strangers)
    trials = read_trials(write_list(tmp_path, lines), people)
    with SampleStore.read(read_people(people), model.front_end) as store:
        found = evaluate_run(model, store, protocol="verification", trials=trials, resamples=20)
    a, b = (model.embed([people / line[side] for line in lines]) for side in (0, 1))
    expected = verification(cosine(a, b), [line[2] == 1 for line in lines], folds=np.array([line[3] for line in lines]))
    for key in ("eer", "auc", "accuracy", "accuracy_standard_error", "min_cllr"):
        assert found.figures[key] == pytest.approx(getattr(expected, key), abs=1e-9)
    values = found.to_json()
    assert values["pairs"] == {"genuine": 25, "impostor": 25} and values["warnings"] == []
    assert values["identities"] == 5 and values["samples"] == 30 and values["accuracy_standard_error"] is not None
    low, high = values["intervals"]["auc"]["ci95"]
    assert low <= values["auc"] <= high
    assert values["baselines"]["raw_pixels"]["pairs"] == values["pairs"]
    assert "recall" not in values


def test_pairs_of_people_in_training_are_named_and_left_out_unless_kept(model, people, strangers, tmp_path):
    known = model.split.split.train[0]
    lines = [*lines_of(strangers), (f"{known}/0.png", f"{strangers[0]}/0.png", 0, 0)]
    trials = read_trials(write_list(tmp_path, lines), people)
    with SampleStore.read(read_people(people), model.front_end) as store:
        options = {"protocol": "verification", "trials": trials, "resamples": 0, "baselines": False}
        out = evaluate_run(model, store, **options).to_json()
        kept = evaluate_run(model, store, keep_seen=True, **options).to_json()
    assert out["pairs"]["impostor"] == 25 and out["left_out"] == {"identities": 1, "samples": 6, "pairs": 1}
    assert known in out["warnings"][0] and "left out" in out["warnings"][0]
    assert kept["pairs"]["impostor"] == 26 and kept["left_out"]["pairs"] == 0
    assert known in kept["warnings"][0] and "too good" in kept["warnings"][0]


def test_a_list_beside_the_rest_leaves_retrieval_as_it_is(model, people, strangers, tmp_path):
    trials = read_trials(write_list(tmp_path, lines_of(strangers)[:20]), people)
    with SampleStore.read(read_people(people), model.front_end) as store:
        both = evaluate_run(model, store, trials=trials, resamples=0, baselines=False).to_json()
        alone = evaluate_run(model, store, protocol="retrieval", resamples=0, baselines=False).to_json()
    assert both["recall"] == alone["recall"] and both["map_at_r"] == alone["map_at_r"]
    assert both["pairs"] == {"genuine": 10, "impostor": 10}


def test_an_unreadable_file_is_a_failure_to_acquire_and_counted(model, people, strangers, tmp_path):
    import shutil

    folder = shutil.copytree(people, tmp_path / "people")
    (folder / strangers[0] / "0.png").write_bytes(b"broken")
    trials = read_trials(write_list(tmp_path, lines_of(strangers)), folder)
    with SampleStore.read(read_people(folder), model.front_end) as store:
        found = evaluate_run(model, store, protocol="verification", trials=trials, resamples=0, baselines=False)
    values = found.to_json()
    assert values["failure_to_acquire"] == {"failed": 3, "of": 50, "rate": 0.06, "what": "pairs"}
    assert values["pairs"] == {"genuine": 24, "impostor": 23}
    assert values["at_eer"]["frr"] == pytest.approx(0.06 + 0.94 * values["at_eer"]["fnmr"], abs=1e-12)


def test_a_file_that_is_not_among_the_data_is_refused_with_its_line(model, people, strangers, tmp_path):
    lines = [*lines_of(strangers), (f"{strangers[0]}/0.png", f"{strangers[1]}/0.png", 0, 0)]
    trials = read_trials(write_list(tmp_path, lines), people)
    manifest = read_people(people)
    with (
        SampleStore.read(manifest.of(strangers[1:]), model.front_end) as store,
        pytest.raises(DataError, match=rf"list.txt: line 1: {strangers[0]}/0.png is not among the data"),
    ):
        listed_pairs(model, store, trials)


def test_a_list_without_impostors_that_may_be_scored_is_refused(model, people, strangers, tmp_path):
    known = model.split.split.train[0]
    lines = [(f"{strangers[0]}/0.png", f"{strangers[0]}/1.png", 1), (f"{known}/0.png", f"{strangers[0]}/1.png", 0)]
    trials = read_trials(write_list(tmp_path, lines), people)
    with (
        SampleStore.read(read_people(people), model.front_end) as store,
        pytest.raises(DataError, match=r"1 genuine and 0 impostor pairs are left to score \(1 were left out"),
    ):
        listed_pairs(model, store, trials)


def test_a_label_against_the_folders_is_pointed_out(model, people, strangers, tmp_path):
    lines = [*lines_of(strangers), (f"{strangers[0]}/0.png", f"{strangers[1]}/3.png", 1, 0)]
    trials = read_trials(write_list(tmp_path, lines), people)
    with SampleStore.read(read_people(people), model.front_end) as store:
        assert "1 pairs are genuine by the list" in listed_pairs(model, store, trials).warnings[0]


def test_a_pair_with_both_labels_is_refused_and_what_spoils_figures_is_pointed_out(model, people, strangers, tmp_path):
    a, b = (f"{strangers[0]}/{i}.png" for i in (0, 1))
    options = {"protocol": "verification", "resamples": 0, "baselines": False}
    with SampleStore.read(read_people(people), model.front_end) as store:
        trials = read_trials(write_list(tmp_path, [*lines_of(strangers), (b, a, 0, 0)]), people)
        with pytest.raises(DataError, match=r"list.txt: line 51: the pair of line 1, with the other label"):
            evaluate_run(model, store, trials=trials, **options)
        odd = [(a, a, 1, 0), (a, b, 1, 0), (f"{strangers[0]}/0.png", f"{strangers[0]}/5.png", 0, 0)]
        trials = read_trials(write_list(tmp_path, [*lines_of(strangers), *odd]), people)
        warnings = evaluate_run(model, store, trials=trials, **options).to_json()["warnings"]
        one_fold = read_trials(write_list(tmp_path, [(*line[:3], 7) for line in lines_of(strangers)]), people)
        found = evaluate_run(model, store, trials=one_fold, **options).to_json()
    assert [warning.partition(",")[0] for warning in warnings] == [
        "1 pairs are impostors by the list",
        "1 pairs stand in the list more than once",
        "1 pairs are of a file with itself",
    ]
    assert found["accuracy"] is None
    assert "no accuracy" in found["warnings"][0]
