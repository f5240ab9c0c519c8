from __future__ import annotations

import numpy as np

from tercet.evaluate import retrieval_per_query
from tercet.report.doubts import doubtful_labels


def clusters(seed: int = 0, *, people: int = 8, each: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    x = np.eye(people, 16)[labels] + 0.1 * rng.normal(size=(len(labels), 16))
    return x.astype(np.float32), labels


def found(x: np.ndarray, labels: np.ndarray, **options):
    return doubtful_labels(x, labels, retrieval_per_query(x, labels, ks=(10,)), stranger=0.05, **options)


def test_clean_labels_are_not_doubted():
    for seed in range(10):
        assert found(*clusters(seed)) == ((), 0)


def test_swapped_labels_are_named_with_what_they_should_be():
    x, labels = clusters()
    wrong = labels.copy()
    wrong[3], wrong[40] = 6, 1
    doubts, count = found(x, wrong)
    assert count == 2 and {(d.row, d.suggested) for d in doubts} == {(3, 0), (40, 5)}
    for doubt in doubts:
        assert wrong[doubt.neighbour] == doubt.suggested and doubt.agreeing == 5
        assert doubt.other is not None and doubt.other > doubt.own


def test_a_sample_like_nobody_is_named_without_a_suggestion():
    x, labels = clusters()
    x[10] = -x[10]
    (doubt,), count = found(x, labels)
    assert (doubt.row, doubt.suggested, doubt.other, count) == (10, None, None, 1)
    assert labels[doubt.neighbour] == labels[10] and doubt.neighbour != 10


def test_of_many_the_clearest_come_first_and_those_alone_are_never_doubted():
    x, labels = clusters(people=8, each=12)
    wrong = labels.copy()
    wrong[::12] = (labels[::12] + 1) % 8
    shown, count = found(x, wrong, count=3)
    assert count == 8 and len(shown) == 3
    alone = labels.copy()
    alone[0] = 99
    assert found(x, alone) == ((), 0)


def test_identities_of_two_samples_suggest_nothing():
    x, labels = clusters(people=8, each=2)
    wrong = labels.copy()
    wrong[0] = 1
    assert all(doubt.suggested is None for doubt in found(x, wrong)[0])
