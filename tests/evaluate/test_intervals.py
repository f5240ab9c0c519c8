from __future__ import annotations

import numpy as np
import pytest

import tercet.evaluate.intervals as intervals
from tercet.errors import InvalidInput
from tercet.evaluate import (
    Pairs,
    all_pairs,
    bootstrap_retrieval,
    bootstrap_verification,
    cross_validated_decisions,
    identity_folds,
    retrieval_per_query,
    verification,
)
from tercet.evaluate.figures import verification_figures


def faces(people: int = 30, each: int = 5, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    return rng.normal(size=(people, 8))[labels] + noise * rng.normal(size=(people * each, 8)), labels


def test_the_point_estimates_lie_in_their_intervals():
    x, labels = faces(60, noise=0.7)
    pairs = all_pairs(x, labels)
    folds = identity_folds(pairs, labels)
    found = verification(pairs.scores, pairs.genuine, folds=folds)
    intervals_ = bootstrap_verification(pairs, labels, folds=folds)
    points = {"eer": found.eer, "auc": found.auc, "accuracy": found.accuracy, "min_cllr": found.min_cllr}
    points |= {f"min_dcf.{k}": v for k, v in found.min_dcf.items()}
    assert set(intervals_) == {*points, "tar_at_fmr.0.1", "tar_at_fmr.0.01", "tar_at_fmr.0.001"}
    points |= {f"tar_at_fmr.{k}": v for k, v in found.tar_at_fmr.items()}
    for name, (low, high) in intervals_.items():
        assert 0 <= low < points[name] < high <= 1


def test_a_resample_is_the_figure_of_pairs_repeated_by_their_weights():
    # The weights of every resample against pairs written out that often, at ties too.
    x, labels = faces(6, 3)
    pairs = all_pairs(np.round(x), labels)
    llr = 2 * pairs.scores - 1
    found = bootstrap_verification(pairs, labels, resamples=12, seed=4, llr=llr)
    rng = np.random.default_rng(4)
    accepted = cross_validated_decisions(pairs.scores, pairs.genuine)
    assert accepted is not None
    drawn = []
    for _ in range(12):
        times = np.bincount(rng.integers(6, size=6), minlength=6)
        one, other = times[labels[pairs.first]], times[labels[pairs.second]]
        weight = np.where(pairs.genuine, one, one * other)
        scores, genuine = np.repeat(pairs.scores, weight), np.repeat(pairs.genuine, weight)
        figures = verification(scores, genuine, llr=np.repeat(llr, weight))
        rates = [np.average((accepted == pairs.genuine)[k], weights=weight[k]) for k in (pairs.genuine, ~pairs.genuine)]
        right = np.average(rates, weights=[pairs.genuine.mean(), 1 - pairs.genuine.mean()])
        costs = (figures.min_cllr, figures.min_dcf["0.05"], figures.cllr, figures.act_dcf["0.01"])
        drawn.append((figures.eer, figures.auc, right, *costs))
    names = ("eer", "auc", "accuracy", "min_cllr", "min_dcf.0.05", "cllr", "act_dcf.0.01")
    for column, name in enumerate(names):
        assert found[name] == pytest.approx(tuple(np.quantile(np.array(drawn)[:, column], [0.025, 0.975])), abs=1e-9)


def test_tar_of_a_resample_is_that_of_repeated_pairs():
    x, labels = faces(12, 4)
    pairs = all_pairs(x, labels)
    found = bootstrap_verification(pairs, labels, resamples=8, seed=1)
    assert "tar_at_fmr.0.001" not in found  # 1,056 impostor pairs
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(8):
        times = np.bincount(rng.integers(12, size=12), minlength=12)
        one, other = times[labels[pairs.first]], times[labels[pairs.second]]
        weight = np.where(pairs.genuine, one, one * other)
        scores, genuine = np.repeat(pairs.scores, weight), np.repeat(pairs.genuine, weight)
        drawn.append(verification(scores, genuine).tar_at_fmr["0.1"])
    assert found["tar_at_fmr.0.1"] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


def test_neither_the_order_of_pairs_nor_their_direction_matters():
    x, labels = faces()
    pairs = all_pairs(x, labels)
    order = np.random.default_rng(0).permutation(len(pairs))
    moved = Pairs(pairs.scores[order], pairs.genuine[order], pairs.second[order], pairs.first[order])
    assert bootstrap_verification(moved, labels, resamples=20) == bootstrap_verification(pairs, labels, resamples=20)


def test_the_seed_decides():
    x, labels = faces(10)
    pairs = all_pairs(x, labels)
    once = bootstrap_verification(pairs, labels, resamples=20, seed=3)
    assert bootstrap_verification(pairs, labels, resamples=20, seed=3) == once
    assert bootstrap_verification(pairs, labels, resamples=20, seed=4) != once


def test_more_people_make_the_interval_narrower():
    def width(people: int) -> float:
        x, labels = faces(people, 4)
        low, high = bootstrap_verification(all_pairs(x, labels), labels, resamples=80)["eer"]
        return high - low

    assert width(80) < 0.8 * width(15)


@pytest.mark.parametrize(("people", "each"), [(100, 5), (4, 60)])
def test_a_subsample_of_the_pairs_gives_nearly_the_same_intervals(people, each):
    # The first case keeps every genuine pair, the second has too many of both kinds.
    x, labels = faces(people, each, noise=1.3)
    pairs = all_pairs(x, labels)
    folds = np.arange(len(pairs)) % 5
    whole = bootstrap_verification(pairs, labels, folds=folds, resamples=100)
    part = bootstrap_verification(pairs, labels, folds=folds, resamples=100, max_pairs=10_000)
    assert set(whole) == set(part)
    for name in ("eer", "auc", "accuracy", "tar_at_fmr.0.1"):
        np.testing.assert_allclose(part[name], whole[name], atol=0.05)


def test_a_subsample_holds_each_pair_once_and_all_genuine_ones_that_fit():
    genuine = np.arange(1000) < 100
    rng = np.random.default_rng(0)
    kept = intervals._subsample(genuine, 400, rng)
    assert len(np.unique(kept)) == 400
    assert genuine[kept].sum() == 100
    assert genuine[intervals._subsample(~genuine, 400, rng)].sum() == 100
    assert genuine[intervals._subsample(genuine, 150, rng)].sum() == 75
    assert intervals._subsample(genuine, 1000, rng).tolist() == list(range(1000))


def test_too_few_identities_have_no_interval():
    x = np.random.default_rng(0).normal(size=(6, 3))
    labels = [0, 0, 0, 1, 1, 1]
    for seed in range(8):
        assert bootstrap_verification(all_pairs(x, labels), labels, resamples=20, seed=seed) == {}
    # One genuine pair and one impostor pair of three people: only two of nine resamples hold them all.
    pairs = Pairs(np.array([0.5, 0.4]), np.array([True, False]), np.array([0, 2]), np.array([1, 3]))
    assert bootstrap_verification(pairs, [0, 0, 1, 2]) == {}


def test_an_impostor_pair_within_one_identity_weighs_as_one_and_not_as_two():
    # A forgery has its writer's identity: drawn m times, the writer brings it m times and not m squared.
    labels = np.repeat(np.arange(6), 3)
    first, second = np.arange(0, 18, 3), np.arange(0, 18, 3)
    pairs = Pairs(
        np.random.default_rng(0).normal(size=12),
        np.arange(12) < 6,
        np.concatenate([first, first]),
        np.concatenate([second + 1, second + 2]),
    )
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(10):
        weight = np.tile(np.bincount(rng.integers(6, size=6), minlength=6), 2)
        drawn.append(verification(np.repeat(pairs.scores, weight), np.repeat(pairs.genuine, weight)).auc)
    found = bootstrap_verification(pairs, labels, resamples=10, seed=3)["auc"]
    assert found == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


def test_people_in_no_pair_have_no_part():
    x, labels = faces(10)
    pairs = all_pairs(x, labels)
    more = np.concatenate([labels, np.arange(50, 80)])
    assert bootstrap_verification(pairs, more, resamples=20) == bootstrap_verification(pairs, labels, resamples=20)


def test_distractors_are_drawn_one_by_one():
    x, labels = faces(8, 3)
    labels[-6:] = -1
    pairs = all_pairs(x, labels)
    apart = labels.copy()
    apart[-6:] = np.arange(100, 106)
    assert bootstrap_verification(pairs, labels, resamples=20) == bootstrap_verification(pairs, apart, resamples=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 0]}, "pairs: second does not point"),
        ({"labels": [0.0] * 4}, "labels: expected integers"),
        ({"resamples": 1}, "resamples"),
        ({"max_pairs": 1}, "max_pairs"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    pairs = Pairs(np.array([0.5, 0.4]), np.array([True, False]), np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(InvalidInput, match=message):
        bootstrap_verification(**({"pairs": pairs, "labels": [0, 1, 0, 2]} | arguments))


def test_retrieval_intervals_are_those_of_repeated_identities():
    x, labels = faces(9, 4)
    labels[0] = 99  # a query with no positive takes no part
    per_query = retrieval_per_query(x, labels)
    found = bootstrap_retrieval(per_query, labels, resamples=10, seed=2)
    figures = ("recall", "precision", "class_recall")
    assert set(found) == {*(f"{f}.{k}" for f in figures for k in (1, 5, 10)), "map_at_r", "r_precision"}
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(10):
        people = rng.integers(9, size=9)
        rows = np.concatenate([np.flatnonzero((labels == p) & per_query.included) for p in people])
        drawn.append([per_query.map_at_r[rows].mean(), per_query.recall["1"][rows].mean()])
    for column, name in enumerate(("map_at_r", "recall.1")):
        assert found[name] == pytest.approx(tuple(np.quantile(np.array(drawn)[:, column], [0.025, 0.975])), abs=1e-12)
    means = per_query.summary()
    low, high = bootstrap_retrieval(per_query, labels)["map_at_r"]
    assert low < means.map_at_r < high


def test_retrieval_of_one_identity_has_no_interval():
    per_query = retrieval_per_query(np.random.default_rng(0).normal(size=(4, 3)), [5, 5, 5, 6])
    assert bootstrap_retrieval(per_query, [5, 5, 5, 6]) == {}


def test_retrieval_arguments_are_checked():
    per_query = retrieval_per_query(np.eye(4), [5, 5, 6, 6])
    with pytest.raises(InvalidInput, match=r"labels: expected \[4\]"):
        bootstrap_retrieval(per_query, [5, 5, 6])
    with pytest.raises(InvalidInput, match="resamples"):
        bootstrap_retrieval(per_query, [5, 5, 6, 6], resamples=1)


def test_an_interval_of_an_evaluation_holds_its_figure_even_where_all_resamples_lie_on_one_side(monkeypatch):
    x, labels = faces(5, each=6, noise=1.5)
    pairs = all_pairs(x, labels)
    eer = verification(pairs.scores, pairs.genuine).eer
    aside = {"eer": (eer + 0.01, eer + 0.1), "auc": (0.0, 0.1), "min_cllr": (0.0, 5.0)}
    monkeypatch.setattr("tercet.evaluate.figures.bootstrap_verification", lambda *_, **__: aside)
    figures, drawn = verification_figures(pairs, labels, folds=identity_folds(pairs, labels))
    assert drawn["eer"]["ci95"] == [eer, eer + 0.1]
    assert drawn["auc"]["ci95"] == [0.0, figures["auc"]]
    assert drawn["min_cllr"]["ci95"] == [0.0, 5.0]
    assert drawn["tar_at_fmr"]["0.1"]["ci95"] is None
