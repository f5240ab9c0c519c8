from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tercet.errors import InvalidInput
from tercet.evaluate.leakage import Separation, separation_of_pairs, separation_of_rows


def made(seed: int, *, people: int = 30, each: int = 6) -> tuple[np.random.Generator, np.ndarray]:
    return np.random.default_rng(seed), np.repeat(np.arange(people), each)


def test_the_auc_of_rows_is_that_of_scikit_learn_whichever_way_it_points():
    rng, labels = made(1)
    forged = rng.random(len(labels)) < 0.4
    values = rng.normal(size=len(labels)) + forged
    expected = roc_auc_score(forged, values)
    assert separation_of_rows(values, forged, labels).auc == pytest.approx(expected, abs=1e-12)
    assert separation_of_rows(-values, forged, labels).auc == pytest.approx(expected, abs=1e-12)


def test_the_auc_of_pairs_is_that_of_the_negative_difference():
    rng, labels = made(2, people=12)
    values = rng.normal(size=len(labels)) + labels / 3
    first, second = np.triu_indices(len(labels), 1)
    genuine = labels[first] == labels[second]
    found = separation_of_pairs(values, first, second, genuine, labels)
    assert found.auc == pytest.approx(roc_auc_score(genuine, -np.abs(values[first] - values[second])), abs=1e-12)
    assert 0.5 < found.low < found.auc and found.identities == 12


def test_names_separate_where_they_differ_and_not_where_they_are_all_one():
    _, labels = made(3)
    forged = np.arange(len(labels)) % 2 == 0
    assert separation_of_rows(np.where(forged, "PNG", "JPEG"), forged, labels).auc == 1.0
    assert separation_of_rows(np.full(len(labels), "PNG"), forged, labels).auc == 0.5
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    kinds = np.array(["PNG", "JPEG", "BMP"])[labels % 3]
    assert separation_of_pairs(kinds, first, second, same, labels).auc == pytest.approx(0.5 + 20 / 29 / 2)


def test_chance_is_not_beyond_a_limit_even_where_rows_of_an_identity_hang_together():
    """Each identity has a level of its own for its forgeries: the rows are many, the identities few."""
    alarms = naive = 0
    for seed in range(60):
        rng, labels = made(seed, people=6, each=20)
        forged = np.arange(len(labels)) % 20 < 10
        levels = rng.normal(size=(6, 2))
        values = levels[labels, forged.astype(int)] + 0.3 * rng.normal(size=len(labels))
        found = separation_of_rows(values, forged, labels)
        alarms += found.beyond(0.6)
        naive += found.auc > 0.6
    assert alarms == 0
    assert naive > 20


def test_a_real_difference_is_beyond_the_limit():
    for seed in range(20):
        rng, labels = made(seed, people=8, each=12)
        forged = np.arange(len(labels)) % 12 < 6
        values = rng.normal(size=len(labels)) + 2 * forged
        assert separation_of_rows(values, forged, labels).beyond(0.6)


def test_a_limit_is_passed_only_with_evidence():
    assert Separation(0.8, 0.6, 20).beyond(0.75)
    assert not Separation(0.7, 0.6, 20).beyond(0.75)
    assert not Separation(0.8, 0.45, 20).beyond(0.75)


def test_without_both_kinds_there_is_nothing_to_say():
    with pytest.raises(InvalidInput, match="both kinds"):
        separation_of_rows([1.0, 2.0], [True, True], [0, 1])
    with pytest.raises(InvalidInput, match="values_N"):
        separation_of_rows([1.0], [True, False], [0, 1])
    two = separation_of_rows([1.0, 2.0, 0.0, 3.0], [True, False, True, False], [0, 0, 1, 1])
    assert two.low == 0.0 and not two.beyond(0.6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_is_refused(bad):
    values, forged, labels = np.arange(12.0), np.arange(12) % 2 == 0, np.arange(12) // 2
    values[3] = bad
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        separation_of_rows(values, forged, labels)
    first, second = np.triu_indices(12, 1)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        separation_of_pairs(values, first, second, labels[first] == labels[second], labels)
