import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import tercet
from synthetic import read_people, tiny_plan, write_people
from tercet.data import SampleStore
from tercet.encoders import build_encoder
from tercet.errors import DataError, InvalidInput
from tercet.evaluate import AsNorm, all_pairs, retrieval, verification
from tercet.protocol import calibrate_run, calibration, evaluate_run, scored_rows
from tercet.protocol.calibration import training_cohort
from tercet.run.model import embed_rows
from tercet.train import train

COSTS = {"accuracy_standard_error", "min_dcf", "act_dcf", "cllr", "min_cllr"}
RANKING = {"class_recall", "precision", "map"}
KEYS = (
    COSTS
    | RANKING
    | {"eer", "auc", "accuracy", "tar_at_fmr", "pairs", "recall", "map_at_r", "r_precision", "queries", "excluded"}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("data") / "people", people=20, pictures=6)


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    return tercet.load(train(read_people(folder), tiny_plan(epochs=8), tmp_path_factory.mktemp("out") / "run"))


def read(folder, model):
    return SampleStore.read(read_people(folder), model.front_end)


@pytest.fixture(scope="module")
def evaluation(folder, model):
    with read(folder, model) as store:
        return evaluate_run(model, store, resamples=50)


def test_whoever_was_trained_or_validated_on_is_left_out(folder, model):
    with read(folder, model) as store:
        scored = scored_rows(model, store)
        names = {store.manifest.rows[row].identity for row in scored.rows}
    split = model.split.split
    assert names == set(split.test) and scored.identities == len(names) == 5
    assert scored.left_out == tuple(sorted({*split.train, *split.validation}))
    assert scored.left_out_samples == 6 * 15 and scored.warnings == ()


def test_one_file_in_training_leaves_the_whole_identity_out_whatever_it_is_called(folder, model, tmp_path):
    strangers = write_people(tmp_path / "strangers", people=3, seed=5)
    for name in ("p00", "p01", "p02"):
        (strangers / name).rename(strangers / f"new-{name}")
    known = model.split.split.train[0]
    (strangers / "new-p01" / "copy.png").write_bytes((folder / known / "3.png").read_bytes())
    with read(strangers, model) as store:
        scored = scored_rows(model, store)
    assert scored.left_out == ("new-p01",) and scored.identities == 2 and scored.left_out_samples == 7


def test_a_namesake_without_a_common_file_is_scored_with_a_warning(model, tmp_path):
    with read(write_people(tmp_path / "others", people=20, seed=5), model) as store:
        evaluation = evaluate_run(model, store, resamples=0, baselines=False)
    assert evaluation.scored.identities == 20 and evaluation.scored.left_out == ()
    assert len(evaluation.to_json()["warnings"]) == 1
    assert evaluation.scored.warnings[0].startswith("15 identities have the name of one in training")


def test_where_nobody_is_left_one_line_says_so(folder, model):
    split = model.split.split
    manifest = read_people(folder)
    with (
        SampleStore.read(manifest.of(split.train), model.front_end) as store,
        pytest.raises(DataError, match="nobody is left to score"),
    ):
        evaluate_run(model, store)
    with (
        SampleStore.read(manifest.of(split.train + split.test[:1]), model.front_end) as store,
        pytest.raises(DataError, match="1 identities are left"),
    ):
        evaluate_run(model, store)


def test_the_json_has_the_keys_of_the_contract_and_is_json(evaluation):
    values = evaluation.to_json()
    assert values.keys() == KEYS | {
        "intervals", "baselines", "identities", "samples", "left_out", "skipped", "warnings", "model",
        "failure_to_acquire", "at_eer", "at_threshold", "curve", "leakage",
    }  # fmt: skip
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["baselines"].keys() == {"raw_pixels", "untrained"}
    assert all(figures.keys() == KEYS for figures in values["baselines"].values())
    assert values["pairs"] == {"genuine": 5 * 15, "impostor": 30 * 29 // 2 - 75}
    assert values["queries"] == 30 and values["excluded"] == 0 and values["recall"].keys() == {"1", "5", "10"}
    assert values["tar_at_fmr"]["0.001"] is None and values["tar_at_fmr"]["0.1"] > 0
    assert values["left_out"] == {"identities": 15, "samples": 90}
    intervals = values["intervals"]
    for low, high, figure in (
        (*intervals["eer"]["ci95"], values["eer"]),
        (*intervals["recall"]["1"]["ci95"], values["recall"]["1"]),
        (*intervals["tar_at_fmr"]["0.1"]["ci95"], values["tar_at_fmr"]["0.1"]),
    ):
        assert 0 <= low <= figure <= high <= 1
    assert intervals["tar_at_fmr"]["0.001"] == {"ci95": None}
    assert intervals.keys() == (KEYS | {"tar_at_fmr"}) - {"accuracy_standard_error", "pairs", "queries", "excluded"}
    assert values["failure_to_acquire"] == {"failed": 0, "of": 30, "rate": 0.0, "what": "files"}
    fmr, fnmr = values["curve"]["fmr"], values["curve"]["fnmr"]
    assert 2 < len(fmr) == len(fnmr) == len(values["curve"]["thresholds"]) <= 200
    assert (fmr[0], fnmr[0], fmr[-1], fnmr[-1]) == (0, 1, 1, 0) and sorted(fmr) == fmr
    assert values["at_threshold"] is None and values["at_eer"]["far"] == values["at_eer"]["fmr"]


def test_the_figures_are_those_of_the_models_vectors(folder, model, evaluation):
    test = read_people(folder).of(model.split.split.test)
    x_ND = model.embed([row.path for row in test.rows])
    pairs = all_pairs(x_ND, test.labels)
    assert evaluation.figures["eer"] == pytest.approx(verification(pairs.scores, pairs.genuine).eer, abs=1e-9)
    assert evaluation.figures["map_at_r"] == pytest.approx(retrieval(x_ND, test.labels).map_at_r, abs=1e-9)


def test_plain_baseline_is_the_pictures_without_their_mean(folder, model, evaluation):
    test = read_people(folder).of(model.split.split.test)
    pixels_ND = np.stack([model.front_end.decode(row.path).ravel() for row in test.rows]).astype(np.float64)
    pairs = all_pairs(pixels_ND - pixels_ND.mean(axis=1, keepdims=True), test.labels)
    expected = verification(pairs.scores, pairs.genuine)
    assert evaluation.baselines["raw_pixels"]["eer"] == pytest.approx(expected.eer, abs=1e-6)


def test_untrained_is_the_network_that_the_training_began_with(folder, model, evaluation):
    torch.manual_seed(model.config["seed"])
    encoder = build_encoder(model.config["encoder"])
    test = read_people(folder).of(model.split.split.test)
    x_BCHW = torch.from_numpy(np.stack([model.front_end.decode(row.path) for row in test.rows]))
    with torch.no_grad():
        x_ND = encoder(model.front_end.normalise(x_BCHW)).numpy()
    pairs = all_pairs(x_ND, test.labels)
    expected = verification(pairs.scores, pairs.genuine).eer
    assert evaluation.baselines["untrained"]["eer"] == pytest.approx(expected, abs=1e-6)
    assert evaluation.figures["eer"] < expected


def test_one_protocol_alone_and_no_baselines(folder, model):
    told = []
    with read(folder, model) as store:
        one = evaluate_run(model, store, protocol="verification", baselines=False, resamples=0, on_phase=told.append)
        other = evaluate_run(model, store, protocol="retrieval", baselines=False, resamples=0)
    assert told == ["model", "figures"]
    decisions = {"failure_to_acquire", "at_eer", "at_threshold", "curve"}
    assert one.figures.keys() == COSTS | {"eer", "auc", "accuracy", "tar_at_fmr", "pairs"} | decisions
    assert other.figures.keys() == KEYS - one.figures.keys()
    assert one.to_json()["intervals"] == {} == one.to_json()["baselines"]


def test_the_order_of_files_and_the_callers_generator_change_nothing(folder, model, evaluation):
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    with read(folder, model) as store:
        again = evaluate_run(model, store, resamples=50)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.to_json() == evaluation.to_json()


def test_skipped_files_are_counted(model, tmp_path):
    strangers = write_people(tmp_path / "strangers", people=3, seed=5)
    (strangers / "p00" / "0.png").write_bytes(b"")
    with read(strangers, model) as store:
        values = evaluate_run(model, store, resamples=0, baselines=False).to_json()
    assert values["skipped"] == [{"path": "p00/0.png", "reason": "the file is empty"}] and values["samples"] == 17
    assert values["failure_to_acquire"] == {"failed": 1, "of": 18, "rate": 1 / 18, "what": "files"}
    point = values["at_eer"]
    assert point["far"] == pytest.approx(point["fmr"] * 17 / 18, abs=1e-12)
    assert point["frr"] == pytest.approx(1 / 18 + point["fnmr"] * 17 / 18, abs=1e-12)


def test_calibration_is_on_strangers_and_refuses_what_the_pairs_cannot_bear(folder, model):
    with read(folder, model) as store:
        scored = scored_rows(model, store)
        counts = Counter(store.manifest.rows[row].identity for row in scored.rows)
        impostors = (len(scored.rows) ** 2 - sum(n * n for n in counts.values())) // 2
        calibration = calibrate_run(model, store, target_fmr=0.1).calibration
        assert calibration.impostor_pairs == impostors and calibration.achieved_fmr <= 0.1
        with pytest.raises(InvalidInput, match=str(impostors)):
            calibrate_run(model, store, target_fmr=0.001)


def with_roles(store, role_of):
    """The same samples, each row in the part that `role_of(identity, number among its own)` says."""
    count = Counter()
    rows = []
    for row in store.manifest.rows:
        rows.append(replace(row, role=role_of(row.identity, count[row.identity])))
        count[row.identity] += 1
    store.manifest = replace(store.manifest, rows=tuple(rows))


def test_queries_are_searched_in_the_gallery_that_the_data_name(folder, model):
    names = model.split.split.test
    with read(folder, model) as store:
        plain = evaluate_run(model, store, protocol="retrieval", resamples=0, leakage=False)
        with_roles(store, lambda name, n: "query" if n == 0 else "gallery" if n < 4 else "")
        found = evaluate_run(model, store, protocol="retrieval", resamples=20, leakage=False)
        rows = scored_rows(model, store).rows
        vectors = model.embed(store.take(rows).numpy())
        labels = store.manifest.labels[rows]
        roles = np.array([store.manifest.rows[n].role for n in rows])
        query, there = roles == "query", roles == "gallery"
        expected = retrieval(vectors[query], labels[query], vectors[there], labels[there], full_ranking=True)
    assert found.figures["recall"] == expected.recall and found.figures["map"] == expected.map
    assert found.figures["queries"] == len(names) == 5 and plain.figures["queries"] == 30
    assert found.intervals["recall"]["1"]["ci95"]
    assert "retrieval: 5 queries are searched in 15 samples, as the data say" in found.warnings
    assert set(found.baselines) >= {"raw_pixels", "untrained"}
    assert all(figures["queries"] == 5 for figures in found.baselines.values())


def test_a_row_that_is_both_never_finds_itself_and_parts_without_another_are_none(folder, model):
    with read(folder, model) as store:
        plain = evaluate_run(model, store, protocol="retrieval", resamples=0, leakage=False, baselines=False)
        with_roles(store, lambda name, n: "both")
        both = evaluate_run(model, store, protocol="retrieval", resamples=0, leakage=False, baselines=False)
        assert both.figures == plain.figures
        with_roles(store, lambda name, n: "query")
        queries = evaluate_run(model, store, protocol="both", resamples=0, leakage=False, baselines=False)
        assert queries.figures["recall"] == plain.figures["recall"]
        assert not any(warning.startswith("retrieval:") for warning in queries.warnings)


def test_as_norm_beside_the_cosine(folder, model):
    """By its definition, pair by pair: each similarity judged by those of both sides to the nearest of the cohort."""
    options = {"protocol": "verification", "baselines": False, "leakage": False}
    with read(folder, model) as store:
        plain = evaluate_run(model, store, resamples=20, **options).to_json()
        found = evaluate_run(model, store, resamples=20, cohort=4, **options).to_json()
        rows = {
            part: [n for n, row in enumerate(store.manifest.rows) if row.identity in getattr(model.split.split, part)]
            for part in ("train", "test")
        }
        x_ND, known_MD = (embed_rows(model.encoder, store, np.array(rows[part])) for part in ("test", "train"))
        labels, known = (store.manifest.labels[rows[part]] for part in ("test", "train"))
    means_CD = np.stack([known_MD[known == label].mean(axis=0) for label in np.unique(known)])
    centre_D = means_CD.mean(axis=0)

    def cosine(a_ND, b_ND):
        a_ND, b_ND = (x - centre_D for x in (a_ND, b_ND))
        return (a_ND @ b_ND.T) / np.linalg.norm(a_ND, axis=1)[:, None] / np.linalg.norm(b_ND, axis=1)

    nearest_N4 = np.sort(cosine(x_ND, means_CD), axis=1)[:, -4:]
    judged_NN = (cosine(x_ND, x_ND) - nearest_N4.mean(axis=1)[:, None]) / nearest_N4.std(axis=1)[:, None]
    first, second = np.triu_indices(len(x_ND), 1)
    expected = verification((judged_NN + judged_NN.T)[first, second] / 2, labels[first] == labels[second])
    normed = found.pop("as_norm")
    assert normed["eer"] == pytest.approx(expected.eer, abs=1e-6)
    assert normed["min_dcf"] == pytest.approx(expected.min_dcf, abs=1e-6)
    assert normed["cohort"] == 4 and normed["eer"] != plain["eer"]
    low, high = found["intervals"].pop("as_norm")["eer"]["ci95"]
    assert low <= normed["eer"] <= high
    assert found == plain, "nothing else is another"


def test_the_cohort_has_the_genuine_samples_evenly_taken(folder, model, monkeypatch):
    monkeypatch.setattr(calibration, "_MOST_OF_COHORT", 7)
    with read(folder, model) as store:
        forged = tuple(replace(row, kind="skilled") if row.path.stem == "3" else row for row in store.manifest.rows)
        store.manifest = replace(store.manifest, rows=forged)
        names = model.split.split.train
        trained = [n for n, row in enumerate(forged) if row.identity in names and row.kind == "genuine"]
        taken = [trained[i * len(trained) // 7] for i in range(7)]
        x_MD = embed_rows(model.encoder, store, np.array(taken))
        labels_M = store.manifest.labels[taken]
        found = training_cohort(model, store, 2)
    expected = AsNorm.of(x_MD, labels_M, top=2)
    np.testing.assert_array_equal(found.cohort, expected.cohort)


@pytest.mark.parametrize("cohort", [0, 1, -3, 2.5, True])
def test_a_cohort_that_is_none_is_refused_before_anything_is_read(folder, model, cohort):
    with read(folder, model) as store, pytest.raises(InvalidInput, match="cohort: must be a whole number of training"):
        evaluate_run(model, store, cohort=cohort)


def test_a_model_that_decides_by_as_norm_has_its_cohort_and_takes_no_other(folder, model):
    with read(folder, model) as store:
        normed = tercet.load(model.path)
        normed.norm = calibrate_run(model, store, target_fmr=0.3, norm="as-norm", cohort=6).norm
        with pytest.raises(InvalidInput, match="cohort=4: the model is calibrated for scores with AS-norm, by 6 of"):
            evaluate_run(normed, store, cohort=4)


def test_without_training_identities_there_is_no_as_norm(model, tmp_path):
    strangers = write_people(tmp_path / "strangers", people=6, seed=5)
    with read(strangers, model) as store:
        assert "as_norm" not in evaluate_run(model, store, resamples=0, baselines=False, cohort=300).figures
