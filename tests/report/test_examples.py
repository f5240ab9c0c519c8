from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tercet.evaluate import all_pairs
from tercet.report.examples import draw_queries, hardest_false_matches, hardest_false_non_matches


def angles(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_hardest_pairs_of_a_case_worked_by_hand() -> None:
    # identities 0 (at 0, 10, 50 degrees), 1 (at 60, 61) and 2 (at 200)
    labels = np.array([0, 0, 0, 1, 1, 2])
    pairs = all_pairs(angles(0, 10, 50, 60, 61, 200), labels)
    shown = hardest_false_matches(pairs, labels, count=9)
    assert len(shown) == 9  # of 11 impostor pairs
    shown = hardest_false_matches(pairs, labels, count=3)
    # 0 with 1 nearest at 50 and 60; then 1 with 2 at 61 and 200 (139 apart), then 0 with 2 at 50 and 200 (150 apart)
    assert [(pairs.first[i], pairs.second[i]) for i in shown] == [(2, 3), (4, 5), (2, 5)]
    shown = hardest_false_matches(pairs, labels, count=4)
    # one more than there are twos of identities: the second of 0 with 1, which lies behind the first
    assert [(pairs.first[i], pairs.second[i]) for i in shown] == [(2, 3), (2, 4), (4, 5), (2, 5)]
    shown = hardest_false_non_matches(pairs, labels, count=2)
    assert [(pairs.first[i], pairs.second[i]) for i in shown] == [(0, 2), (3, 4)]
    assert len(hardest_false_matches(pairs, labels, count=1)) == 1


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.integers(1, 12), st.integers(0, 99))
def test_queries_are_drawn_from_as_many_identities_as_there_are(names: list[int], count: int, seed: int) -> None:
    labels = np.array(names)
    included = np.array([names.count(name) > 1 for name in names])
    rows = draw_queries(labels, included, count=count, seed=seed)
    assert len(rows) == min(count, included.sum())
    assert len(set(rows)) == len(rows)
    assert included[rows].all()
    assert len(set(labels[rows])) == min(count, len(set(labels[included])))
    np.testing.assert_array_equal(rows, draw_queries(labels, included, count=count, seed=seed))
