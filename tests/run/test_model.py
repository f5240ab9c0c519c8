import json

import numpy as np
import pytest

import tercet
from synthetic import read_people
from tercet.data import SampleStore
from tercet.errors import DataError, InvalidInput, RunError
from tercet.evaluate import calibrate
from tercet.run import Vectors


@pytest.fixture
def model(run):
    return tercet.load(run)


@pytest.fixture
def files(people):
    return sorted(people.rglob("*.png"))


def embed(model, files):
    return Vectors(model.embed(files), tuple(map(str, files)), tuple(f.parent.name for f in files), model.fingerprint)


def calibration(threshold):
    """One whose threshold lies just below the given score: 40 of 400 impostors reach it."""
    accepted = np.linspace(threshold, 1, 90)
    scores = np.concatenate([accepted, np.linspace(-1, threshold - 1e-3, 360)])
    return calibrate(scores, np.arange(450) % 9 < 5 * (np.arange(450) < 90), target_fmr=0.1)


def test_files_arrays_and_stores_give_the_same_unit_vectors(model, people, files):
    with SampleStore.read(read_people(people), model.front_end) as store:
        arrays = store.take(np.arange(len(store))).numpy()
        from_store = model.embed(store, batch_size=7)
    order = [row.path for row in store.manifest.rows]
    from_files = model.embed(order)
    assert from_files.dtype == np.float32 and from_files.shape == (60, 8)
    np.testing.assert_allclose(np.linalg.norm(from_files, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(from_store, from_files, atol=1e-6)
    np.testing.assert_allclose(model.embed(arrays, batch_size=11), from_files, atol=1e-6)
    np.testing.assert_allclose(model.embed([str(order[5])]), from_files[5:6], atol=1e-6)


def test_progress_counts_to_the_end(model, files):
    seen = []
    model.embed(files, batch_size=25, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(25, 60), (50, 60), (60, 60)]


def test_what_cannot_be_embedded_is_named(model, files, tmp_path):
    (tmp_path / "no.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no\.png: "):
        model.embed([files[0], tmp_path / "no.png"])
    with pytest.raises(InvalidInput, match="a list of files"):
        model.embed(str(files[0]))
    with pytest.raises(InvalidInput, match="nothing to embed"):
        model.embed([])
    with pytest.raises(InvalidInput, match="uint8"):
        model.embed(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(InvalidInput, match="batch_size=0"):
        model.embed(files, batch_size=0)


def test_without_a_calibration_verify_cannot_decide(model, files):
    decision = model.verify(files[0], files[0])
    assert decision.decision == "undecided" and decision.threshold is None
    assert decision.score == pytest.approx(1, abs=1e-6)
    assert decision.to_json() == {
        "decision": "undecided",
        "score": decision.score,
        "threshold": None,
        "calibration": None,
        "llr": None,
        "model": model.fingerprint,
        "reason": "this run has no calibrated threshold",
    }


def test_verify_decides_by_the_stored_threshold_and_names_it(model, run, files):
    a, b = files[0], files[-1]
    score = model.verify(a, b).score
    assert score == model.verify(b, a).score
    for threshold, expected in ((score - 0.05, "match"), (score + 0.05, "no-match")):
        chosen = calibration(threshold)
        model.save_calibration(chosen)
        again = tercet.load(run)
        assert again.calibration == chosen
        decision = again.verify(a, b)
        assert decision.decision == expected
        assert decision.to_json()["calibration"] == {
            "id": chosen.id,
            "target_fmr": 0.1,
            "achieved_fmr": chosen.achieved_fmr,
            "achieved_fnmr": chosen.achieved_fnmr,
            "impostor_pairs": 400,
        }


def test_a_score_at_the_threshold_is_a_match_and_zero_is_a_threshold(model, files, monkeypatch):
    from dataclasses import replace

    score = model.verify(files[0], files[9]).score
    model.calibration = replace(calibration(0.5), threshold=score)
    assert model.verify(files[0], files[9]).decision == "match"
    model.calibration = replace(calibration(0.5), threshold=0.0)
    assert model.verify(files[0], files[0]).threshold == 0.0


def test_a_damaged_or_borrowed_calibration_is_refused_and_a_new_model_drops_the_old_one(model, run, save):
    model.save_calibration(calibration(0.5))
    whole = json.loads((run / "calibration.json").read_text())
    for values, message in (
        (whole | {"threshold": 0.1}, "damaged"),
        (whole | {"model": "0" * 16}, "another model"),
        ({"model": model.fingerprint}, "damaged"),
    ):
        (run / "calibration.json").write_text(json.dumps(values))
        with pytest.raises(RunError, match=rf"calibration\.json: .*{message}"):
            tercet.load(run)
    (run / "calibration.json").write_text(json.dumps(whole))
    save(run)
    assert tercet.load(run).calibration is not None, "the same model keeps its threshold"
    save(run, seed=1)
    assert tercet.load(run).calibration is None


def test_search_finds_the_file_itself_first_and_orders_the_rest(model, files):
    gallery = embed(model, files)
    hits = model.search(files[17], gallery, k=5)
    assert hits[0].path == str(files[17]) and hits[0].identity == files[17].parent.name
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    scores = gallery.vectors @ gallery.vectors[17]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], atol=1e-6)
    assert len(model.search(files[0], gallery, k=1000)) == len(files)
    with pytest.raises(InvalidInput, match="k=0"):
        model.search(files[0], gallery, k=0)


def test_a_gallery_of_another_model_is_refused(model, files, save, tmp_path):
    save(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match=f"not by {model.fingerprint}"):
        model.search(files[0], embed(tercet.load(tmp_path / "other"), files))
