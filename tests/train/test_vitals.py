"""Vital signs against plain computations, and at the degenerate batches where they matter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tercet.functional as TF
from tercet.train.vitals import measure


def of(x_BD, labels_B, margin=0.2, distance="squared"):
    loss = TF.batch_triplet_loss(x_BD, labels_B, margin=margin if margin is not None else "soft", distance=distance)
    return measure(x_BD, labels_B, loss=loss, margin=margin, distance=distance)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 24),
    width=st.integers(1, 12),
    classes=st.integers(1, 6),
    distance=st.sampled_from(["squared", "euclidean", "cosine"]),
    margin=st.sampled_from([0.0, 0.1, 0.7, None]),
    scale=st.sampled_from([1.0, 30.0]),
)
def test_activity_is_that_of_the_census_and_spread_that_of_the_pairs(
    seed, rows, width, classes, distance, margin, scale
):
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(rows, width, generator=generator) * scale
    labels_B = torch.randint(0, classes, (rows,), generator=generator)
    vitals = of(x_BD, labels_B, margin, distance)
    census = TF.census(x_BD.double(), labels_B, margin=margin or 0.0, distance=distance)
    if census.total == 0:
        assert math.isnan(vitals.active)
    else:
        # hard and semihard triplets are those with a loss, up to rounding at the very border
        exact = (census.hard + census.semihard) / census.total
        if margin != 0.0:  # at margin 0 the census counts ties as hard, which lose nothing
            assert vitals.active == pytest.approx(exact, abs=1.01 / census.total + 1e-6)
    unit = torch.nn.functional.normalize(x_BD.double(), dim=1)
    pairs = torch.pdist(unit).square()
    assert vitals.distance == pytest.approx(float(pairs.mean()) / 2, abs=1e-5)
    assert vitals.spread == pytest.approx(float(pairs.std(correction=0)) * math.sqrt(width) / 2, abs=2e-3)
    centred = unit - unit.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    if eigenvalues.sum() > 1e-3:
        assert vitals.rank == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()), rel=1e-3)
    assert vitals.norm == pytest.approx(float(x_BD.norm(dim=1).mean()), rel=1e-5)


def test_random_vectors_on_the_sphere_are_as_spread_as_chance():
    x_BD = torch.nn.functional.normalize(torch.randn(256, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    vitals = of(x_BD, torch.arange(256) // 4)
    assert vitals.distance == pytest.approx(1, abs=0.01) and vitals.spread == pytest.approx(1, abs=0.05)
    assert 40 < vitals.rank <= 64 and vitals.conflicts == 0 and vitals.without_positive == 0


def test_a_collapsed_batch_stands_exactly_at_the_margin():
    vitals = of(torch.ones(8, 4), torch.arange(8) // 2)
    assert (vitals.distance, vitals.spread, vitals.rank, vitals.active) == (0, 0, 0, 1)
    assert vitals.to_margin == pytest.approx(0, abs=1e-6) and vitals.conflicts == 8


def test_one_class_all_unique_and_negative_only_rows():
    x_BD = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    one = of(x_BD, torch.zeros(6, dtype=torch.int64))
    assert one.without_negative == 1 and one.without_positive == 0 and math.isnan(one.active)
    unique = of(x_BD, torch.arange(6))
    assert unique.without_positive == 1 and math.isnan(unique.active)
    some = of(x_BD, torch.tensor([0, 0, 1, -1, -1, -1]))
    assert some.without_positive == pytest.approx(1 / 3) and some.without_negative == 0
    none = of(x_BD, torch.full((6,), -1))
    assert math.isnan(none.active) and none.without_positive == 0


def test_the_same_picture_under_two_identities_is_a_conflict_but_not_within_one():
    x_BD = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    x_BD[1] = x_BD[0]
    assert of(x_BD, torch.tensor([0, 0, 1, 1, 2, 2])).conflicts == 0
    assert of(x_BD, torch.tensor([0, 1, 0, 1, 2, 2])).conflicts == 2
    assert of(x_BD, torch.tensor([0, -1, 0, 1, 1, 2])).conflicts == 0


def test_numbers_that_are_none_are_measured_without_an_error():
    x_BD = torch.full((4, 3), math.nan)
    vitals = measure(x_BD, torch.tensor([0, 0, 1, 1]), loss=torch.tensor(math.nan), margin=0.2, distance="squared")
    assert math.isnan(vitals.loss) and math.isnan(vitals.distance)


def test_of_a_large_batch_a_sample_of_anchors_tells_nearly_the_same():
    x_BD = torch.randn(1000, 16, generator=torch.Generator().manual_seed(3))
    labels_B = torch.arange(1000) // 4
    vitals = of(torch.nn.functional.normalize(x_BD, dim=1), labels_B)
    census = TF.census(torch.nn.functional.normalize(x_BD, dim=1), labels_B, margin=0.2)
    assert vitals.active == pytest.approx(1 - census.easy / census.total, abs=0.03)
    assert vitals.distance == pytest.approx(1, abs=0.02) and vitals.spread == pytest.approx(1, abs=0.05)
    assert 13 < vitals.rank <= 16


def test_who_has_no_positive_is_counted_over_all_of_a_large_batch():
    labels_B = torch.cat([torch.arange(900) // 2, torch.arange(1000, 1100), torch.full((24,), -1)])
    vitals = of(torch.randn(1024, 4, generator=torch.Generator().manual_seed(4)), labels_B)
    assert vitals.without_positive == pytest.approx(0.1) and vitals.without_negative == 0
    # an identity that comes once, at a row that is no anchor of the sample, is in no other number
    assert of(torch.randn(900, 4), torch.arange(900) // 2).without_positive == 0


def test_the_embeddings_are_not_changed():
    for distance in ("squared", "euclidean", "cosine"):
        x_BD = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
        kept = x_BD.clone()
        of(x_BD, torch.arange(12) // 3, distance=distance)
        assert torch.equal(x_BD, kept)
