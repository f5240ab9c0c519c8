"""One threshold, the same in evaluate and verify: normalised or not, foreseen, and kept with the run."""

from __future__ import annotations

import json

import pytest

import tercet
from synthetic import read_people, write_people
from tercet.data import SampleStore, read_data
from tercet.data.images import ImageFrontEnd
from tercet.data.trials import read_trials
from tercet.errors import DataError, InvalidInput, RunError
from tercet.evaluate import cosine
from tercet.protocol import calibrate_run, evaluate_run


def store_of(model, folder):
    return SampleStore.read(read_people(folder), model.front_end)


def strangers(tmp_path, seed, count=16, name="strangers"):
    folder = write_people(tmp_path / f"{name}-all", people=count, pictures=5, seed=seed)
    for place in sorted(folder.iterdir()):
        place.rename(place.with_name(f"{name}-{place.name}"))
    return folder


def test_the_figures_at_the_threshold_are_foreseen_for_others_and_not_for_those_chosen_on(model, tmp_path):
    here, there = strangers(tmp_path, 1), strangers(tmp_path, 2, name="others")
    with store_of(model, here) as store:
        found = calibrate_run(model, store, target_fmr=0.1)
        model.save_calibration(found.calibration, norm=found.norm, samples=found.samples)
        own = evaluate_run(model, store, protocol="verification", resamples=0, baselines=False).to_json()
    with store_of(model, there) as store:
        others = evaluate_run(model, store, protocol="verification", resamples=0, baselines=False).to_json()
    assert own["at_threshold"]["fmr"] == found.calibration.achieved_fmr
    assert own["at_threshold"]["foreseen_fmr"] is None and own["at_threshold"]["kept"] is None
    assert "chosen on 16 of the scored identities" in own["warnings"][-1]
    low, high = others["at_threshold"]["foreseen_fmr"]
    assert low < 0.1 < high and others["warnings"] == []
    assert others["at_threshold"]["kept"] == (low <= others["at_threshold"]["fmr"] <= high)
    assert others["at_threshold"]["fmr_ci95"][0] <= others["at_threshold"]["fmr"]
    assert others["cllr"] >= others["min_cllr"] and others["act_dcf"]["0.05"] >= others["min_dcf"]["0.05"]
    assert others["at_threshold"]["calibration"] == found.calibration.id


@pytest.mark.parametrize("norm", ["none", "as-norm"])
def test_verify_scores_as_evaluate_does(model, people, norm, tmp_path):
    with store_of(model, people) as store:
        found = calibrate_run(model, store, target_fmr=0.3, norm=norm, cohort=5)
    model.save_calibration(found.calibration, norm=found.norm, samples=found.samples)
    again = tercet.load(model.path)
    assert again.calibration == found.calibration and (again.norm is None) == (norm == "none")
    folder = strangers(tmp_path, 3, count=4)
    files = sorted(folder.rglob("*.png"))
    (tmp_path / "list.txt").write_text(
        f"{files[0].relative_to(folder)} {files[1].relative_to(folder)} 1\n"
        f"{files[0].relative_to(folder)} {files[5].relative_to(folder)} 0\n"
    )
    trials = read_trials(tmp_path / "list.txt", folder)
    with store_of(again, folder) as store:
        at = evaluate_run(again, store, protocol="verification", trials=trials, resamples=0, baselines=False)
    own, other = again.verify(files[0], files[1]), again.verify(files[0], files[5])
    threshold = again.calibration.threshold
    assert at.figures["at_threshold"]["fnmr"] == float(own.score < threshold)
    assert at.figures["at_threshold"]["fmr"] == float(other.score >= threshold)
    # the threshold of the EER on one pair of each kind is one of the two scores themselves
    assert at.figures["at_eer"]["threshold"] == pytest.approx(max(own.score, other.score), abs=1e-6)
    assert own.llr == pytest.approx(again.calibration.llr(own.score))
    assert own.to_json()["llr"] == own.llr
    if norm == "as-norm":
        assert again.norm.top == 5 and len(again.norm.cohort) == len(model.split.split.train)
        plain = cosine(again.embed([files[0]]), again.embed([files[1]]))[0]
        assert abs(own.score - plain) > 0.01


def test_as_norm_needs_the_training_data(model, tmp_path):
    with (
        store_of(model, strangers(tmp_path, 4)) as store,
        pytest.raises(DataError, match=r"as-norm needs the training identities .* hold fewer than two of them"),
    ):
        calibrate_run(model, store, target_fmr=0.1, norm="as-norm")


def test_a_cohort_that_is_missing_or_exchanged_is_found_and_an_old_one_removed(model, people):
    with store_of(model, people) as store:
        normed = calibrate_run(model, store, target_fmr=0.3, norm="as-norm", cohort=5)
        plain = calibrate_run(model, store, target_fmr=0.3)
    with pytest.raises(InvalidInput, match="normalised by as-norm"):
        model.save_calibration(normed.calibration)
    model.save_calibration(normed.calibration, norm=normed.norm)
    (file,) = model.path.glob("cohort-*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(RunError, match="checksum"):
        tercet.load(model.path)
    file.write_bytes(whole)
    values = json.loads((model.path / "calibration.json").read_text())
    (model.path / "calibration.json").write_text(json.dumps(values | {"cohort_sha256": None}))
    with pytest.raises(RunError, match="the cohort of its scores is not named"):
        tercet.load(model.path)
    model.save_calibration(plain.calibration, samples=plain.samples)
    assert not list(model.path.glob("cohort-*"))
    assert tercet.load(model.path).calibrated_on == frozenset(plain.samples)


def test_identification_enrols_half_of_the_strangers(model, tmp_path):
    with store_of(model, strangers(tmp_path, 5)) as store:
        found = evaluate_run(model, store, protocol="identification", resamples=50).to_json()
    figures, intervals = found["identification"], found["intervals"]["identification"]
    assert (figures["enrolled"], figures["mated"], figures["non_mated"]) == (8, 24, 40)
    assert figures["threshold_at_fpir"] == {"0.1": None, "0.01": None}
    low, high = intervals["fnir"]["1"]["ci95"]
    assert low <= figures["fnir"]["1"] <= high and intervals["fnir_at_fpir"]["0.1"] == {"ci95": None}
    assert figures["fnir"]["1"] < found["baselines"]["untrained"]["identification"]["fnir"]["1"]
    with store_of(model, strangers(tmp_path, 5, name="again")) as store:
        forced = evaluate_run(model, store, protocol="identification", force_small=True, resamples=0, baselines=False)
    assert forced.figures["identification"]["fnir_at_fpir"]["0.1"]["1"] >= figures["fnir"]["1"]


def test_a_gallery_of_its_own_never_returns_the_same_file(model, tmp_path):
    folder = strangers(tmp_path, 6, count=5)
    with store_of(model, folder) as store, store_of(model, folder) as gallery:
        apart = evaluate_run(model, store, gallery=gallery, protocol="retrieval", resamples=0)
        among = evaluate_run(model, store, protocol="retrieval", resamples=0)
    for key in ("recall", "map", "map_at_r", "queries"):
        assert apart.figures[key] == pytest.approx(among.figures[key], abs=1e-12)
    assert apart.baselines["untrained"]["map"] == pytest.approx(among.baselines["untrained"]["map"], abs=1e-12)


def test_a_gallery_of_people_in_training_is_refused(model, people, tmp_path):
    manifest = read_people(people)
    with (
        store_of(model, strangers(tmp_path, 7, count=3)) as store,
        SampleStore.read(manifest.of(model.split.split.train), model.front_end) as gallery,
        pytest.raises(DataError, match="every identity of the gallery"),
    ):
        evaluate_run(model, store, gallery=gallery, protocol="retrieval")


def test_results_of_the_same_group_can_be_left_out(model, tmp_path):
    folder = strangers(tmp_path, 8, count=4)
    files = sorted(folder.rglob("*.png"))
    lines = ["path,identity,group", *(f"{f.relative_to(folder)},{f.parent.name},{int(f.stem) // 2}" for f in files)]
    (folder / "list.csv").write_text("\n".join(lines))
    manifest = read_data(folder / "list.csv", suffixes=ImageFrontEnd.SUFFIXES)
    options = {"protocol": "retrieval", "resamples": 0, "baselines": False}
    with SampleStore.read(manifest, model.front_end) as store:
        every = evaluate_run(model, store, **options).figures
        apart = evaluate_run(model, store, ignore_same_group=True, **options).figures
    assert apart["map"] != every["map"] and apart["queries"] == every["queries"] == 20
