"""AS-norm: by its formula written as loops, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InvalidInput
from tercet.evaluate import AsNorm, all_pairs, verification


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=25)
def test_the_scores_are_those_of_the_formula(seed, top):
    rng = np.random.default_rng(seed)
    known, labels = rng.normal(size=(30, 5)) + 1, np.arange(30) % 9
    norm = AsNorm.of(known, labels, top=top)
    means = np.stack([known[labels == n].mean(axis=0) for n in range(9)])
    centre = means.mean(axis=0)
    x = rng.normal(size=(6, 5)) + 1
    ready = norm.normalised(x)
    pairs = all_pairs(ready.vectors, [0, 0, 1, 1, 2, 2])
    found = ready.pairs(pairs)
    cohort, own = unit(means - centre), unit(x - centre)
    for score, i, j in zip(found.scores, found.first, found.second, strict=True):
        side = [np.sort(cohort @ own[n])[-min(top, 9):] for n in (i, j)]  # fmt: skip
        expected = np.mean([(own[i] @ own[j] - s.mean()) / s.std() for s in side])
        assert score == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert found.genuine.tolist() == pairs.genuine.tolist()


def test_somebody_who_resembles_everybody_no_longer_matches_everybody():
    rng = np.random.default_rng(1)
    crowd = rng.normal(size=16)
    share = np.where(np.arange(120) % 4 == 0, 2.5, 0.3)  # every fourth person looks like the crowd

    def samples(people):
        x = rng.normal(size=(len(people), 16)) + share[people, None] * crowd
        return np.repeat(x, 4, axis=0) + 0.8 * rng.normal(size=(4 * len(people), 16)), np.repeat(people, 4)

    norm = AsNorm.of(*samples(np.arange(60)), top=15)
    x, labels = samples(np.arange(60, 120))
    plain = all_pairs(x, labels)
    ready = norm.normalised(x)
    better = ready.pairs(all_pairs(ready.vectors, labels))
    eer = verification(plain.scores, plain.genuine).eer
    assert verification(better.scores, better.genuine).eer < 0.8 * eer


def test_a_cohort_that_says_nothing_keeps_scores_finite():
    norm = AsNorm.of(np.eye(3), [0, 1, 2])
    found = norm.normalised(np.vstack([np.ones((1, 3)), np.zeros((1, 3)), norm.mean]))
    assert np.isfinite(found.scores(np.array([0.5]), np.array([0]), np.array([2]))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AsNorm.of(np.eye(2), [4, 4]), "at least two identities, got 1"),
        (lambda: AsNorm.of(np.eye(2), [4, 5], top=1), "top=1"),
        (lambda: AsNorm.of(np.eye(2), [4, 5]).normalised(np.ones((1, 3))), "expected width 2"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
