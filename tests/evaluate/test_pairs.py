from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InvalidInput
from tercet.evaluate import all_pairs, cosine
from tercet.evaluate.pairs import _PairIndex, _ranks

some_labels = st.lists(st.integers(-2, 4), max_size=18).map(lambda drawn: np.array(drawn, dtype=np.int64))


def vectors(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 5))


def pairs_by_loops(labels):
    return [
        (i, j, labels[i] == labels[j])
        for i, j in itertools.combinations(range(len(labels)), 2)
        if labels[i] >= 0 or labels[j] >= 0
    ]


@given(some_labels, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_every_pair_comes_once_in_order_whatever_the_tile(labels, tile):
    x = vectors(len(labels))
    pairs = all_pairs(x, labels, tile=tile)
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.genuine.tolist(), strict=True))
    assert found == pairs_by_loops(labels)
    np.testing.assert_array_equal(pairs.scores, cosine(x[pairs.first], x[pairs.second]))
    assert len(pairs) == len(found)


@given(some_labels)
@settings(max_examples=60, deadline=None)
def test_the_numbering_reaches_every_pair_of_either_kind_once(labels):
    index = _PairIndex.of(labels)
    expected = pairs_by_loops(labels)
    for kind, total, of in ((True, index.genuine, index.genuine_pair), (False, index.impostor, index.impostor_pair)):
        one, other = of(np.arange(total))
        found = {(min(i, j), max(i, j)) for i, j in zip(one.tolist(), other.tolist(), strict=True)}
        assert len(found) == total
        assert found == {(i, j) for i, j, genuine in expected if genuine == kind}


@pytest.mark.parametrize(
    ("labels", "max_pairs", "genuine", "impostor"),
    [
        (np.repeat(np.arange(20), 5), 1000, 200, 800),  # all 200 genuine pairs, the rest impostors
        (np.repeat(np.arange(2), 50), 1000, 500, 500),  # too many of both
        (np.array([0] * 60 + [1]), 500, 440, 60),  # few impostors: all of them
    ],
)
def test_a_sample_keeps_to_its_size_and_takes_no_pair_twice(labels, max_pairs, genuine, impostor):
    x = vectors(len(labels))
    pairs = all_pairs(x, labels, max_pairs=max_pairs, seed=3)
    assert (int(pairs.genuine.sum()), int((~pairs.genuine).sum())) == (genuine, impostor)
    assert (pairs.first < pairs.second).all()
    assert len(np.unique(pairs.first * len(labels) + pairs.second)) == max_pairs
    np.testing.assert_array_equal(pairs.genuine, labels[pairs.first] == labels[pairs.second])
    np.testing.assert_array_equal(pairs.scores, cosine(x[pairs.first], x[pairs.second]))
    again, other = all_pairs(x, labels, max_pairs=max_pairs, seed=3), all_pairs(x, labels, max_pairs=max_pairs, seed=4)
    np.testing.assert_array_equal(again.second, pairs.second)
    assert (other.second != pairs.second).any()


@pytest.mark.parametrize(("population", "size"), [(30, 20), (30, 5)])
def test_the_sample_is_uniform(population, size):
    rng = np.random.default_rng(0)
    times = np.zeros(population)
    for _ in range(3000):
        drawn = _ranks(population, size, rng)
        assert len(np.unique(drawn)) == size
        times[drawn] += 1
    expected = 3000 * size / population
    assert np.abs(times - expected).max() < 5 * np.sqrt(expected)


def test_all_ranks_are_taken_where_all_are_wanted():
    assert _ranks(4, 4, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_ND": np.ones(4)}, "x_ND: expected"),
        ({"x_ND": np.full((4, 2), np.inf)}, "x_ND: holds"),
        ({"labels_N": [1, 2]}, r"labels_N: expected \[4\]"),
        ({"labels_N": [1.0, 2.0, 3.0, 4.0]}, "labels_N: expected integers"),
        ({"max_pairs": 1}, "max_pairs"),
        ({"tile": 0}, "tile"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        all_pairs(**({"x_ND": np.ones((4, 2)), "labels_N": [1, 1, 2, 2]} | arguments))
