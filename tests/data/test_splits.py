from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.data import Manifest, Row, Split, split_identities
from tercet.errors import DataError, InvalidInput

counts_of_data = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=4), st.integers(1, 4), min_size=4, max_size=40
).filter(lambda counts: sum(count > 1 for count in counts.values()) >= 3)


def everybody(split: Split) -> list[str]:
    return [*split.train, *split.validation, *split.test]


def several(names: tuple[str, ...], counts: dict[str, int]) -> int:
    return sum(counts[name] > 1 for name in names)


@given(counts=counts_of_data, seed=st.integers(0, 2**40))
def test_parts_are_disjoint_complete_and_each_can_be_used(manifest_of, counts, seed):
    split = split_identities(manifest_of(counts), seed=seed)
    assert sorted(everybody(split)) == sorted(counts)
    assert len(split.train) >= 2
    assert several(split.train, counts) >= 1
    assert several(split.test, counts) >= 2
    assert not split.validation or several(split.validation, counts) >= 2
    assert split.seed == seed


@given(counts=counts_of_data, seed=st.integers(0, 99), data=st.data())
def test_the_order_of_files_does_not_matter(manifest_of, counts, seed, data):
    manifest = manifest_of(counts)
    shuffled = Manifest(manifest.root, tuple(data.draw(st.permutations(manifest.rows))))
    assert split_identities(shuffled, seed=seed) == split_identities(manifest, seed=seed)


def test_the_split_of_a_seed_is_the_same_on_every_machine_and_for_ever(manifest_of):
    split = split_identities(manifest_of({f"p{n}": 2 for n in range(10)}), seed=0)
    assert split == Split(0, ("p0", "p4", "p6", "p7", "p8"), ("p3", "p5"), ("p1", "p2", "p9")), (
        "a change of this order makes every saved seed mean another split"
    )
    assert split_identities(manifest_of({f"p{n}": 2 for n in range(10)}), seed=1).test != split.test


def test_shares_are_kept_for_identities_with_one_sample_too(manifest_of):
    counts = {f"m{n}": 2 for n in range(40)} | {f"s{n}": 1 for n in range(100)}
    split = split_identities(manifest_of(counts), seed=3)
    assert [several(part, counts) for part in (split.train, split.validation, split.test)] == [24, 6, 10]
    assert [len(part) for part in (split.train, split.validation, split.test)] == [84, 21, 35]
    wider = split_identities(manifest_of(counts), seed=3, validation=0, test=0.5)
    assert (len(wider.train), wider.validation, len(wider.test)) == (70, (), 70)


@pytest.mark.parametrize(("identities", "parts"), [(4, (2, 0, 2)), (5, (3, 0, 2)), (6, (2, 2, 2)), (7, (3, 2, 2))])
def test_few_identities_give_up_validation_first(manifest_of, identities, parts):
    split = split_identities(manifest_of({str(n): 2 for n in range(identities)}), seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == parts


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"^/nowhere: needs two identities at the very least, and has 0 \(none\)$"),
        ({"ada": 9}, r"^/nowhere: needs two identities at the very least, and has 1 \('ada'\)$"),
        ({"a": 2, "b": 2, "c": 2}, "too few identities with two or more samples .* 3 of 3 identities have two"),
        ({"a": 2, "b": 2, "c": 1, "d": 1}, "2 of 4 identities have two or more"),
        ({str(n): 1 for n in range(50)}, "0 of 50 identities"),
    ],
)
def test_too_few_to_divide(manifest_of, counts, message):
    with pytest.raises(DataError, match=message):
        split_identities(manifest_of(counts), seed=0)


@pytest.mark.parametrize(
    "shares",
    [{"test": 0}, {"test": -0.1}, {"validation": -0.1}, {"test": 0.6, "validation": 0.4}, {"test": float("nan")}],
)
def test_shares_that_leave_nothing_are_refused(manifest_of, shares):
    with pytest.raises(InvalidInput, match="validation="):
        split_identities(manifest_of({"a": 2, "b": 2, "c": 2, "d": 2}), seed=0, **shares)


def test_the_split_column_is_followed_and_what_it_lacks_is_carved_from_train(manifest_of):
    counts = {f"p{n:02}": 2 for n in range(22)}
    column = {"p00": "test", "p01": "test", "p02": "train"}
    split = split_identities(manifest_of(counts, column), seed=0)
    assert split.test == ("p00", "p01")
    assert len(split.validation) == 3
    assert "p02" in split.train or "p02" in split.validation
    assert sorted(everybody(split)) == sorted(counts)
    whole = split_identities(manifest_of(counts, column | {"p03": "validation", "p04": "validation"}), seed=0)
    assert (whole.test, whole.validation, len(whole.train)) == (("p00", "p01"), ("p03", "p04"), 18)
    only_train = split_identities(manifest_of(counts, {"p02": "train"}), seed=0)
    assert (len(only_train.test), len(only_train.validation)) == (6, 3)


def test_a_split_column_that_cannot_be_used(manifest_of):
    counts = {"a": 2, "b": 2, "c": 2, "d": 2, "e": 2}
    with pytest.raises(DataError, match=r"test 1 \(1\)"):
        split_identities(manifest_of(counts, {"a": "test"}), seed=0)
    with pytest.raises(DataError, match=r"validation 1 \(1\), test 2 \(2\)"):
        split_identities(manifest_of(counts, {"a": "test", "b": "test", "c": "validation"}), seed=0)


def test_an_identity_in_two_parts_is_named(manifest_of):
    counts = {"a": 2, "b": 2, "c": 2, "d": 2}
    one, other = manifest_of(counts, {"b": "train"}), manifest_of(counts, {"b": "test"})
    with pytest.raises(DataError, match=r"identity 'b' is in both train and test; a split is by identity"):
        split_identities(Manifest(one.root, one.rows + other.rows), seed=0)


def test_blank_rows_of_an_identity_follow_its_other_rows(manifest_of):
    counts = {"a": 2, "b": 2, "c": 2, "d": 2}
    blank, marked = manifest_of(counts), manifest_of(counts, {"a": "test", "c": "test"})
    split = split_identities(Manifest(blank.root, marked.rows + blank.rows), seed=0)
    assert (split.train, split.test) == (("b", "d"), ("a", "c"))


def test_json_and_back():
    split = Split(7, ("a", "b"), (), ("c", "d"))
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"seed": 0, "train": [], "test": []},
        {"seed": "0", "train": [], "validation": [], "test": []},
        {"seed": True, "train": [], "validation": [], "test": []},
        {"seed": 0, "train": "ab", "validation": [], "test": []},
        {"seed": 0, "train": [1], "validation": [], "test": []},
        {"seed": 0, "train": ["a"], "validation": [], "test": ["a"]},
    ],
)
def test_nonsense_is_not_a_split(value):
    with pytest.raises(InvalidInput, match=r"^split: "):
        Split.from_json(value)


def test_forgeries_go_with_their_target_and_do_not_make_it_an_identity_of_several_samples():
    root = Path("/nowhere")
    rows = []
    for writer in range(10):
        rows += [Row(root / f"{writer}/{n}.png", f"w{writer}") for n in range(3)]
        rows += [Row(root / f"{writer}/f{n}.png", f"w{writer}", kind="skilled") for n in range(2)]
    # One genuine sample and many forgeries of it: no positive pair.
    rows += [Row(root / "one.png", "one"), *(Row(root / f"one/f{n}.png", "one", kind="skilled") for n in range(9))]
    manifest = Manifest(root, tuple(rows))
    split = split_identities(manifest, seed=3)
    without = Manifest(root, tuple(row for row in rows if row.kind == "genuine"))
    assert split == split_identities(without, seed=3)
    for part in (split.train, split.validation, split.test):
        of_part = manifest.of(part)
        assert {row.identity for row in of_part.rows} == set(part)
    two = Manifest(root, tuple(row for row in rows if row.identity in ("w0", "one")))
    with pytest.raises(DataError, match="1 of 2 identities have two or more"):
        split_identities(two, seed=0)
