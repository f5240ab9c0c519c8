"""Every builder against plain loops over its definition, and as the relation of a loss against the definitions."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
import tercet.functional as TF
from tercet import InvalidInput, InvalidOption, relation
from tercet.relation import tables

Sign = Callable[[int, int], int]


def loops(sign: Sign, anchors: list[int], others: list[int]) -> torch.Tensor:
    table = [[sign(i, j) for j in others] for i in anchors]
    return torch.tensor(table, dtype=torch.int8).reshape(len(anchors), len(others))


def check(built, sign: Sign, rows: int, others: int, *, same: bool) -> None:
    """The whole table, a tile of mixed and repeated rows, a pickled copy, and a loss with its gradient."""
    draw = random.Random(rows * 31 + others)
    some = [draw.randrange(rows) for _ in range(5)] if rows else []
    few = [draw.randrange(others) for _ in range(7)] if others else []
    for anchor, other in ((list(range(rows)), list(range(others))), (some, few)):
        index = torch.tensor(anchor, dtype=torch.int64), torch.tensor(other, dtype=torch.int64)
        for form in (built, pickle.loads(pickle.dumps(built))):
            got = form(*index)
            assert got.dtype == torch.int8
            torch.testing.assert_close(got, loops(sign, anchor, other), rtol=0, atol=0)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = None if same else torch.randn(others, 3, generator=generator, dtype=torch.float64)

    def by_loops(anchor_rows: torch.Tensor, other_rows: torch.Tensor) -> torch.Tensor:
        return loops(sign, anchor_rows.tolist(), other_rows.tolist())

    for mining in ("all", "semihard"):
        fast = TF.batch_triplet_loss(x, None, relation=built, reference=y, mining=mining, margin=0.5)
        slow = TF.reference.batch_triplet_loss(x, None, relation=by_loops, reference=y, mining=mining, margin=0.5)
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
        (fast_dx,) = torch.autograd.grad(fast, x)
        if slow.requires_grad:
            (slow_dx,) = torch.autograd.grad(slow, x, allow_unused=True)
            slow_dx = torch.zeros_like(x) if slow_dx is None else slow_dx
            torch.testing.assert_close(fast_dx, slow_dx, rtol=1e-10, atol=1e-12)
        else:
            assert not fast_dx.any()


def both_sides(element):
    """A list for the anchors, and one for the others or None."""
    some = st.lists(element, max_size=8)
    return st.tuples(some, st.one_of(st.none(), some))


@settings(max_examples=50)
@given(both_sides(st.sampled_from([0, 0, 1, 2, -1, -4, 9])), st.sampled_from([None, 9, 2, -1]), st.booleans())
def test_labels(sides, unlabelled, as_tensor) -> None:
    a, b = sides
    c = a if b is None else b

    def sign(i: int, j: int) -> int:
        if a[i] < 0 or unlabelled in (a[i], c[j]):
            return 0
        return 1 if a[i] == c[j] else -1

    form = (lambda v: torch.tensor(v, dtype=torch.int32)) if as_tensor else list
    built = relation.from_labels(form(a), others=None if b is None else form(b), unlabelled=unlabelled)
    check(built, sign, len(a), len(c), same=b is None)


@settings(max_examples=50)
@given(both_sides(st.sampled_from(["ann", "bob", "?", None])))
def test_names_as_labels(sides) -> None:
    a, b = sides
    c = a if b is None else b

    def sign(i: int, j: int) -> int:
        return 0 if a[i] is None or "?" in (a[i], c[j]) else 1 if a[i] == c[j] else -1

    check(relation.from_labels(a, others=b, unlabelled="?"), sign, len(a), len(c), same=b is None)


def test_from_labels_is_what_the_losses_do_with_labels() -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 7 - 1
    for mining in ("all", "hard", "semihard", "random"):
        by_labels = TF.batch_triplet_loss(x, labels, mining=mining, generator=torch.Generator().manual_seed(1))
        by_relation = TF.batch_triplet_loss(
            x, None, relation=relation.from_labels(labels), mining=mining, generator=torch.Generator().manual_seed(1)
        )
        torch.testing.assert_close(by_relation, by_labels, rtol=1e-12, atol=1e-14)


MEMBERS = {
    "sets": lambda rows: [{"abcd"[k] for k in range(4) if row[k]} for row in rows],
    "lists": lambda rows: [[("label", k) for k in range(4) if row[k] for _ in range(2)] for row in rows],
    "dense": lambda rows: torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 4),
    "bool": lambda rows: torch.tensor(rows, dtype=torch.bool).reshape(len(rows), 4),
    "sparse": lambda rows: torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 4).to_sparse(),
}


@settings(max_examples=50)
@given(
    both_sides(st.lists(st.sampled_from([0, 0, 1]), min_size=4, max_size=4)),
    st.sampled_from(sorted(MEMBERS)),
    st.integers(1, 3),
    st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0]),
    st.sampled_from([1, 3, 1 << 20]),
)
def test_sets(sides, form, share, jaccard, chunk) -> None:
    a, b = sides
    c = a if b is None else b

    def sign(i: int, j: int) -> int:
        mine, theirs = ({k for k in range(4) if row[k]} for row in (a[i], c[j]))
        if not mine:
            return 0
        if not mine & theirs:
            return -1
        return 1 if len(mine & theirs) >= share and len(mine & theirs) / len(mine | theirs) >= jaccard else 0

    make = MEMBERS[form]
    built = relation.from_sets(make(a), others=None if b is None else make(b), share=share, jaccard=jaccard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK", chunk)
        patch.setattr("tercet.relation.sets.CHUNK", chunk)
        check(built, sign, len(a), len(c), same=b is None)


def test_sparse_and_dense_matrices_may_be_mixed() -> None:
    rows, ones = torch.arange(3), torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    want = relation.from_sets(ones, others=ones.flip(0))(rows, rows)
    assert want.unique().tolist() == [-1, 1]
    for mine, theirs in ((ones.to_sparse(), ones.flip(0)), (ones, ones.flip(0).to_sparse())):
        assert torch.equal(relation.from_sets(mine, others=theirs)(rows, rows), want)


def test_a_stored_zero_of_a_sparse_matrix_is_no_label() -> None:
    index = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    sparse = torch.sparse_coo_tensor(index, torch.tensor([1, 0, 0, 1]), (2, 2), check_invariants=True)
    assert relation.from_sets(sparse)(torch.arange(2), torch.arange(2)).tolist() == [[1, -1], [-1, 1]]


@settings(max_examples=50)
@given(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 8)), st.integers(0, 10_000))
def test_pairs(rows, others, seed) -> None:
    draw = random.Random(seed)
    width = rows if others is None else others
    pairs = [(i, j) for i in range(rows) for j in range(width) if others is not None or i < j]
    known = draw.sample(pairs, min(len(pairs), 9))
    cut = draw.randint(0, len(known))
    positive, negative = ([(j, i) if others is None and draw.random() < 0.5 else (i, j) for i, j in some]
                          for some in (known[:cut] * 2, known[cut:]))  # fmt: skip

    def sign(i: int, j: int) -> int:
        either = {(i, j), (j, i)} if others is None else {(i, j)}
        return 1 if either & set(positive) else -1 if either & set(negative) else 0

    tensors = (torch.tensor(some, dtype=torch.int32).reshape(-1, 2) for some in (positive, negative))
    check(relation.from_pairs(*tensors, rows=rows, others=others), sign, rows, width, same=others is None)


def shared_levels(mine: list[int], theirs: list[int]) -> tuple[int, bool]:
    """How many levels agree from the top, and whether a difference (not an unknown level) ended it."""
    for level, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if a < 0 or b < 0:
            return level, False
        if a != b:
            return level, True
    return len(mine), False


@settings(max_examples=50)
@given(
    both_sides(st.lists(st.sampled_from([0, 0, 0, 1, 1, -1]), min_size=3, max_size=3)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_hierarchy(sides, positive_from, ignore_from, named) -> None:
    a, b = sides
    c = a if b is None else b
    ignore_from = min(ignore_from, positive_from)

    def sign(i: int, j: int) -> int:
        shared, differ = shared_levels(a[i], c[j])
        if shared >= positive_from:
            return 1
        return -1 if differ and shared < ignore_from else 0

    def form(rows: list[list[int]]):
        if not named:
            return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
        whole = [[None if v < 0 else f"name {v}" for v in row] for row in rows]
        return [row[: row.index(None)] if None in row and i % 2 else tuple(row) for i, row in enumerate(whole)]

    levels = {"positive_from": positive_from, "ignore_from": ignore_from}
    if named and max((len(row) for row in form(a) + (form(b) if b is not None else [])), default=0) < 3:
        return  # no path says that there are three levels
    built = relation.from_hierarchy(form(a), others=None if b is None else form(b), **levels)
    check(built, sign, len(a), len(c), same=b is None)


def test_hierarchy_by_default_ignores_siblings_and_one_level_is_labels() -> None:
    rows = torch.arange(3)
    paths = torch.tensor([[0, 0], [0, 1], [1, 0]])
    assert relation.from_hierarchy(paths)(rows, rows).tolist() == [[1, 0, -1], [0, 1, -1], [-1, -1, 1]]
    one = relation.from_hierarchy(torch.tensor([[4], [4], [5]]))
    assert one(rows, rows).tolist() == relation.from_labels([4, 4, 5])(rows, rows).tolist()


@settings(max_examples=50)
@given(both_sides(st.tuples(st.integers(-1, 2), st.integers(-1, 2))), st.sampled_from(["both", "positive", "negative"]))
def test_groups_left_out(sides, what) -> None:
    a, b = sides
    c = a if b is None else b

    def sign(i: int, j: int) -> int:
        plain = 0 if a[i][0] < 0 else 1 if a[i][0] == c[j][0] else -1
        here = a[i][1] >= 0 and a[i][1] == c[j][1]
        return 0 if here and (what == "both" or plain == {"positive": 1, "negative": -1}[what]) else plain

    mine, theirs = ([torch.tensor([row[k] for row in side], dtype=torch.int64) for k in (0, 1)] for side in (a, c))
    others = theirs if b is not None else [None, None]
    labels = relation.from_labels(mine[0], others=others[0])
    built = relation.leave_out_groups(labels, mine[1], others=others[1], what=what)
    check(built, sign, len(a), len(c), same=b is None)


def test_first_known() -> None:
    labels = relation.from_labels([0, 0, 1, -1])
    reviewed = relation.from_pairs(torch.tensor([[0, 2]]), torch.tensor([[0, 1]]), rows=4)
    said = {(0, 2): 1, (2, 0): 1, (0, 1): -1, (1, 0): -1}

    def sign(i: int, j: int) -> int:
        return said.get((i, j), int(labels(torch.tensor([i]), torch.tensor([j]))))

    check(relation.first_known(reviewed, labels), sign, 4, 4, same=True)


def test_a_loss_over_many_tiles_never_asks_for_the_whole_table() -> None:
    rows, most = 3000, 0
    labels = torch.arange(rows) // 3
    built = relation.leave_out_groups(relation.from_labels(labels), torch.arange(rows) // 2)

    def watched(anchor_rows: torch.Tensor, other_rows: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, len(anchor_rows) * len(other_rows))
        return built(anchor_rows, other_rows)

    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    assert TF.batch_triplet_loss(x, None, relation=watched) > 0
    assert 0 < most <= rows * rows // 2


INTEGERS = torch.tensor([0, 0, 1])
WRONG = [
    (lambda: relation.from_labels(torch.zeros(3)), "labels must be a vector of integers"),
    (lambda: relation.from_labels(torch.zeros(2, 2, dtype=torch.int64)), "labels must be a vector"),
    (lambda: relation.from_labels("abc"), "labels must be a vector of integers or a list, got str"),
    (lambda: relation.from_labels([[0], [1]]), "labels: entry 0 cannot be a label, it is a list"),
    (lambda: relation.from_labels(INTEGERS, others=["a"]), "others must be integers where labels is"),
    (lambda: relation.from_labels(INTEGERS, unlabelled="a"), "unlabelled must be an integer"),
    (lambda: relation.from_sets(torch.zeros(2, 2)), "sets must be a matrix of integers"),
    (lambda: relation.from_sets(torch.tensor([[2, 0]])), "sets must hold 0 and 1 only"),
    (lambda: relation.from_sets(torch.tensor([[2, 0]]).to_sparse()), "sets must hold 0 and 1 only"),
    (lambda: relation.from_sets(["ab", "cd"]), "sets: row 0 must be a set, got str"),
    (lambda: relation.from_sets([{1}, [[2]]]), "sets: row 1 holds a list"),
    (lambda: relation.from_sets([{1}], others=torch.tensor([[1]])), "others must be a matrix where sets is one"),
    (lambda: relation.from_sets(torch.eye(2).int(), others=torch.eye(3).int()), "others has 3 labels, sets has 2"),
    (lambda: relation.from_sets([{1}], share=0), "share must be a whole number of at least 1, got 0"),
    (lambda: relation.from_sets([{1}], jaccard=1.5), "jaccard must lie in 0..1, got 1.5"),
    (lambda: relation.from_pairs(INTEGERS, INTEGERS, rows=3), "positive must be an integer tensor [pairs, 2]"),
    (lambda: pairs([[0, 3]], []), "positive: the second rows must lie in 0..2"),
    (lambda: pairs([[1, 1]], []), "positive: row 1 is paired with itself"),
    (lambda: pairs([[0, 1]], [[1, 0]]), "negative: the pair (0, 1) is listed as positive too"),
    (lambda: pairs([], [], rows=-1), "rows must be a whole number of at least 0, got -1"),
    (lambda: relation.from_hierarchy(torch.zeros(3, 2)), "paths must be a matrix of integers"),
    (lambda: relation.from_hierarchy(["ab"]), "paths: row 0 must be a sequence, got str"),
    (lambda: relation.from_hierarchy([(), ()]), "paths must have at least one level"),
    (lambda: relation.from_hierarchy([(1, 2)], positive_from=3), "positive_from must lie in 1..2"),
    (lambda: relation.from_hierarchy([(1, 2)], ignore_from=0), "ignore_from must lie in 1..2"),
    (lambda: relation.from_hierarchy(torch.ones(1, 2).int(), others=torch.ones(1, 3).int()), "others has 3 levels"),
    (lambda: relation.leave_out_groups(3, INTEGERS), "relation must be callable, got int"),
    (lambda: relation.first_known(), "relations must be at least one"),
    (lambda: relation.first_known(None), "relations must be callable, got NoneType"),
]


def pairs(positive, negative, rows=3):
    return relation.from_pairs(
        *(torch.tensor(some, dtype=torch.int64).reshape(-1, 2) for some in (positive, negative)), rows=rows
    )


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_is_refused_when_it_is_built(make, said) -> None:
    with pytest.raises(InvalidInput) as refused:
        make()
    assert said in str(refused.value)


def test_an_unknown_choice_of_pairs_is_refused() -> None:
    with pytest.raises(InvalidOption, match="what='all' is not known; allowed: 'both', 'positive', 'negative'"):
        relation.leave_out_groups(relation.from_labels(INTEGERS), INTEGERS, what="all")


@pytest.mark.parametrize(
    "built",
    [
        relation.from_labels(INTEGERS),
        relation.from_sets([{1}, {1}, {2}]),
        relation.from_sets(torch.eye(3).int()),
        pairs([[0, 1]], []),
        relation.from_hierarchy(INTEGERS.unsqueeze(1)),
    ],
)
def test_a_relation_made_for_too_few_rows_says_so(built) -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInput, match="made for 3 rows and is asked for row 4; describe the reference rows"):
        TF.batch_triplet_loss(x, None, relation=built, reference=torch.zeros(5, 2))


def test_it_is_a_public_name() -> None:
    assert tercet.relation is relation
    for name in relation.__all__:
        assert ">>> " in getattr(relation, name).__doc__
