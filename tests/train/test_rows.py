"""Some of the rows of a store, where all would be too many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthetic import read_people, write_people
from tercet.data import ImageFrontEnd, Manifest, SampleStore
from tercet.train.rows import rows_of, some_rows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Ten people with six pictures each, of which the last two are forgeries."""
    people = read_people(write_people(tmp_path_factory.mktemp("data") / "people"))
    rows = tuple(row if int(row.path.stem) < 4 else replace(row, kind="skilled") for row in people.rows)
    with SampleStore.read(Manifest(people.root, rows), ImageFrontEnd(8, 8, 1)) as read:
        yield read


def names(store, rows_N):
    return [store.manifest.rows[row].identity for row in rows_N]


def test_few_rows_are_all_of_them(store):
    everybody = tuple(sorted(set(names(store, range(60)))))
    assert some_rows(store, everybody, most=60).tolist() == list(range(60))
    genuine_N = some_rows(store, everybody, most=60, genuine=True)
    assert genuine_N.tolist() == np.flatnonzero(store.manifest.genuine).tolist() and len(genuine_N) == 40


def test_of_many_rows_there_are_whole_identities_evenly_taken(store):
    everybody = tuple(f"p{n:02d}" for n in range(10))
    rows_N = some_rows(store, everybody, most=30)
    assert rows_N.tolist() == rows_of(store, ("p00", "p02", "p04", "p06", "p08")).tolist()
    assert sorted(set(names(store, some_rows(store, everybody, most=12, genuine=True)))) == ["p00", "p03", "p06"]


@pytest.mark.parametrize("most", [2, 5, 7])
def test_of_two_identities_that_are_too_many_there_is_an_even_part_and_no_more(store, most):
    rows_N = some_rows(store, tuple(f"p{n:02d}" for n in range(10)), most=most)
    assert len(rows_N) == most and len(set(rows_N.tolist())) == most
    of_first, of_second = (names(store, rows_N).count(name) for name in ("p00", "p05"))
    assert of_first + of_second == most and abs(of_first - of_second) <= 1


def test_identities_without_a_row_are_passed_over(store):
    """Those whose files cannot be read are in the division of the data, and not in the store."""
    wanted = ("a", "p00", "b", "c", "p05", "d", "p07")
    assert set(names(store, some_rows(store, wanted, most=12))) == {"p00", "p05"}
    assert some_rows(store, ("a", "b"), most=12).tolist() == []
