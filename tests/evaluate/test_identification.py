"""Open-set identification: by loops over searches, and the margin that a second own sample must not spoil."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InvalidInput
from tercet.evaluate import Searches, cosine, enrol_half, fmr_for_fpir, search_identities


def samples(seed: int, rows: int, people: int):
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=(rows, 3)), 1), rng.integers(people, size=rows)


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_searches_agree_with_loops(seed):
    gallery, theirs = samples(seed, 12, 5)
    query, own = samples(seed + 1, 9, 8)
    found = search_identities(query, own, gallery, theirs)
    names = np.unique(theirs)
    assert found.enrolled == len(names)
    for q in range(9):
        score = {n: max(cosine(query[q : q + 1], gallery[g : g + 1])[0] for g in np.flatnonzero(theirs == n))
                 for n in names}  # fmt: skip
        ranked = sorted(names, key=lambda n: (-score[n], n))
        assert found.identity[q] == ranked[0] and found.best[q] == score[ranked[0]]
        assert found.mated[q] == (own[q] in names)
        if len(names) > 1:
            assert found.runner_up[q] == score[ranked[1]]
        if found.mated[q]:
            assert found.own[q] == score[own[q]]
            assert found.rank[q] == sum(score[n] >= score[own[q]] for n in names)
    if found.mated.any() and not found.mated.all():
        t = float(np.median(found.best))
        right = [found.rank[q] <= 2 and found.own[q] >= t for q in range(9) if found.mated[q]]
        assert found.fnir(t, rank=2) == pytest.approx(1 - np.mean(right), abs=1e-12)
        assert found.fpir(t) == np.mean([found.best[q] >= t for q in range(9) if not found.mated[q]])


def searches(best, mated, **other):
    n = len(best)
    fields = {
        "runner_up": np.zeros(n), "identity": np.zeros(n, int), "own": np.array(best, float),
        "rank": np.ones(n, int), "enrolled": 2,
    } | other  # fmt: skip
    return Searches(best=np.array(best, float), mated=np.array(mated), **fields)


def test_worked_by_hand():
    # Strangers at 0.9, 0.7, 0.7, 0.1; enrolled people found at 0.8 (rank 1) and 0.6 (rank 2).
    found = searches([0.9, 0.7, 0.7, 0.1, 0.8, 0.6], [False] * 4 + [True] * 2, rank=np.array([0, 0, 0, 0, 1, 2]))
    assert found.threshold_at(0.25, force_small=True) == pytest.approx(0.8)
    assert found.fpir(0.8) == 0.25
    assert found.threshold_at(0.5, force_small=True) == pytest.approx(0.8)  # the two at 0.7 come together
    assert found.threshold_at(0.75, force_small=True) == pytest.approx(0.4)
    assert found.threshold_at(0.01, force_small=True) > 0.9
    assert found.threshold_at(0.25) is None  # fewer than 30 false positives to be expected
    assert (found.fnir(), found.fnir(rank=2), found.fnir(0.7, rank=2), found.fnir(0.9)) == (0.5, 0.0, 0.5, 1.0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 99))
def test_the_threshold_keeps_the_target_and_no_lower_score_would(scores, percent):
    found = searches(scores, [False] * len(scores))
    threshold = found.threshold_at(percent / 100, force_small=True)
    assert found.fpir(threshold) <= percent / 100 + 1e-12
    below = [s for s in scores if s < threshold]
    if below:
        assert found.fpir(max(below)) > percent / 100


def test_the_runner_up_is_another_identity_and_not_a_second_sample_of_the_same():
    gallery = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    found = search_identities(np.array([[1.0, 0.0]]), [7], gallery, [7, 7, 8])
    assert found.margin[0] == pytest.approx(1.0) and found.identity[0] == 7


def test_an_equal_score_of_another_identity_stands_before_the_right_one():
    found = search_identities(np.ones((1, 2)), [1], np.ones((4, 2)), [1, 2, 3, 4])
    assert found.rank[0] == 4 and found.fnir() == 1.0  # a collapsed model finds nobody


def test_the_summary_says_none_where_strangers_are_too_few():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(100, 1, 6)) + 0.2 * rng.normal(size=(100, 8, 6)), np.repeat(np.arange(100), 8)
    x = x.reshape(-1, 6)
    gallery, mated, strangers = enrol_half(labels)
    assert len({*gallery, *mated, *strangers}) == 800 and len(gallery) == len(mated) == 200 and len(strangers) == 400
    assert set(labels[gallery]) == set(labels[mated]) and not set(labels[gallery]) & set(labels[strangers])
    rows = np.concatenate([mated, strangers])
    found = search_identities(x[rows], labels[rows], x[gallery], labels[gallery])
    summary = found.summary()
    assert summary.threshold_at_fpir["0.01"] is None and summary.fnir_at_fpir["0.01"] is None
    assert summary.fnir_at_fpir["0.1"]["1"] == found.fnir(summary.threshold_at_fpir["0.1"])
    assert found.fpir(summary.threshold_at_fpir["0.1"]) == 0.1
    assert (summary.enrolled, summary.mated, summary.non_mated) == (50, 200, 400)
    assert summary.margin["right"] > summary.margin["stranger"]
    assert found.summary(force_small=True).fnir_at_fpir["0.01"] is not None


def test_fpir_grows_with_the_gallery():
    rng = np.random.default_rng(3)
    gallery, strangers = rng.normal(size=(400, 8)), rng.normal(size=(500, 8))
    small = search_identities(strangers, np.full(500, 999), gallery[:20], np.arange(20))
    large = search_identities(strangers, np.full(500, 999), gallery, np.arange(400))
    assert large.fpir(0.8) > 3 * small.fpir(0.8)
    threshold = large.threshold_at(0.1)
    independent = fmr_for_fpir(0.1, 400)
    pairs = (cosine(np.repeat(strangers[:250], 400, axis=0), np.tile(gallery, (250, 1))) >= threshold).mean()
    assert pairs == pytest.approx(independent, rel=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: searches([0.5], [True]).fpir(0.1), "no non-mated search among 1"),
        (lambda: searches([0.5], [False]).fnir(), "no mated search among 1"),
        (lambda: searches([0.5], [False]).threshold_at(1.0), "fpir: expected"),
        (lambda: fmr_for_fpir(0.0, 5), "fpir, enrolled"),
        (lambda: enrol_half([0, 0, 1, 2]), "needs two identities with two samples or more, got 1"),
        (lambda: search_identities(np.eye(2), [0, 1], np.eye(3), [0, 1, 2]), "gallery_GD: expected"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
