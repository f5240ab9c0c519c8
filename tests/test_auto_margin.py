"""The margin that chooses itself: its units, its state, where it is accepted, and the spread it follows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tercet.functional as TF
from tercet import AutoMargin, InvalidInput, InvalidOption, MultiSampleTripletLoss, TripletLoss
from tercet.functional.options import MINING
from tercet.functional.spread import chance_spread, negative_spread


def rows(count=64, width=16, seed=0, scale=1.0):
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return scale * torch.nn.functional.normalize(x, dim=1), torch.arange(count) // 4


@given(
    seed=st.integers(0, 1000),
    count=st.integers(2, 40),
    classes=st.integers(1, 8),
    distance=st.sampled_from(["squared", "euclidean", "cosine"]),
    reference=st.booleans(),
)
def test_the_spread_is_the_standard_deviation_over_all_negative_pairs(seed, count, classes, distance, reference):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (count,), generator=generator)
    y, others = (torch.randn(7, 5, generator=generator, dtype=torch.float64), torch.arange(7) - 1)
    if not reference:
        y, others = x, labels
    of = {"reference": y, "reference_labels": others} if reference else {}
    found = negative_spread(x, labels, distance=distance, **of)
    d = []
    for a in range(count):
        for n in range(len(y)):
            if labels[a] >= 0 and labels[a] != others[n]:
                difference = x[a] - y[n]
                squared = float(difference @ difference)
                cosine = 1 - float(x[a] @ y[n]) / float(x[a].norm() * y[n].norm())
                d.append({"squared": squared, "euclidean": math.sqrt(squared), "cosine": cosine}[distance])
    if not d:
        assert found is None
    else:
        assert found == pytest.approx(float(torch.tensor(d, dtype=torch.float64).std(correction=0)), abs=1e-10)


def test_of_a_large_batch_a_sample_gives_nearly_the_same():
    x, labels = rows(5000, 32)
    exact = torch.pdist(x).square().std()
    assert negative_spread(x, labels) == pytest.approx(float(exact), rel=0.02)


@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
def test_the_margin_is_in_the_units_of_the_distance_and_scales_with_the_embedding(distance):
    values = []
    for scale in (1.0, 10.0):
        x, labels = rows(scale=scale)
        loss = TripletLoss(AutoMargin(share=0.5), distance=distance)
        loss(x, labels)
        spread = max(negative_spread(x, labels, distance=distance), chance_spread(x, distance=distance))
        assert loss.margin.value == pytest.approx(0.5 * spread)
        values.append(loss.margin.value)
    assert values[1] / values[0] == pytest.approx({"squared": 100, "euclidean": 10, "cosine": 1}[distance], rel=1e-4)


@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
def test_chance_is_what_random_vectors_of_any_length_have(distance):
    for scale in (1.0, 7.0):
        x, _ = rows(1024, 64, scale=scale)
        every = torch.arange(1024)
        assert chance_spread(x, distance=distance) == pytest.approx(
            negative_spread(x, every, distance=distance), rel=0.05
        )


def test_an_embedding_that_shrinks_to_a_cone_does_not_take_the_margin_with_it():
    x, labels = rows(64, 16)
    cone = torch.nn.functional.normalize(0.01 * x + torch.eye(16)[0], dim=1)
    loss = TripletLoss(AutoMargin(share=0.5))
    loss(cone, labels)
    assert loss.margin.value == pytest.approx(0.5 * 2 / 4) and negative_spread(cone, labels) < 1e-3


def test_random_unit_vectors_get_a_margin_that_shrinks_with_the_width():
    for width in (16, 64, 256):
        x, labels = rows(1024, width)
        loss = TripletLoss(AutoMargin(share=1.0))
        loss(x, labels)
        assert loss.margin.value == pytest.approx(2 / math.sqrt(width), rel=0.06)


@pytest.mark.parametrize("mining", MINING)
def test_the_loss_is_that_of_the_margin_it_shows_with_every_mining(mining):
    x, labels = rows()
    loss = TripletLoss(AutoMargin(), mining=mining)
    torch.manual_seed(0)
    value = loss(x.requires_grad_(), labels)
    torch.manual_seed(0)
    expected = TF.batch_triplet_loss(x, labels, margin=loss.margin.value, mining=mining)
    assert torch.equal(value, expected)
    value.backward()
    assert torch.isfinite(x.grad).all()


def test_with_a_reference_with_given_triplets_and_in_formula_2():
    x, labels = rows()
    y, others = rows(40, seed=1)
    loss = TripletLoss(AutoMargin())
    value = loss(x, labels, reference=y, reference_labels=others)
    spread = max(negative_spread(x, labels, reference=y, reference_labels=others), chance_spread(x))
    assert loss.margin.value == pytest.approx(0.5 * spread)
    assert float(value) == float(
        TF.batch_triplet_loss(x, labels, margin=loss.margin.value, reference=y, reference_labels=others)
    )
    chosen = TF.mine(x, labels, mining="hard")
    given_ones = TripletLoss(AutoMargin())
    a, p, n = chosen
    assert float(given_ones(x, labels, triplets=chosen)) == float(
        TF.triplet_loss(x[a], x[p], x[n], margin=given_ones.margin.value)
    )
    two = MultiSampleTripletLoss(AutoMargin())
    assert float(two(x, labels)) == float(TF.multi_sample_triplet_loss(x, labels, margin=two.margin.value))


def test_it_averages_over_the_span_and_stays_in_evaluation():
    margin = AutoMargin(share=1.0, span=2)
    loss = TripletLoss(margin)
    spreads = []
    for scale in (1.0, 2.0, 3.0):
        x, labels = rows(scale=scale)
        spreads.append(max(negative_spread(x, labels), chance_spread(x)))
        loss(x, labels)
    assert margin.value == pytest.approx(((spreads[0] + spreads[1]) / 2 + spreads[2]) / 2)
    kept = margin.value
    loss.eval()
    loss(*rows(scale=9.0))
    assert margin.value == kept


def test_its_state_is_saved_and_stays_in_full_precision():
    loss = TripletLoss(AutoMargin())
    for seed in range(3):
        loss(*rows(seed=seed))
    other = TripletLoss(AutoMargin())
    other.load_state_dict(loss.state_dict())
    assert other.margin.value == loss.margin.value
    kept = loss.margin.value
    assert loss.half().margin.value == kept and loss.bfloat16().margin.value == kept
    x, labels = rows(seed=9)
    assert float(loss(x, labels)) == float(other(x, labels))
    assert "value=" in repr(loss)


def test_without_a_negative_pair_it_does_not_move_and_nothing_breaks():
    x, _ = rows(8)
    loss = TripletLoss(AutoMargin())
    assert float(loss(x, torch.zeros(8, dtype=torch.int64))) == 0 and loss.margin.value == 0
    loss(*rows())
    kept = loss.margin.value
    loss(x, torch.zeros(8, dtype=torch.int64))
    assert loss.margin.value == kept


def test_wrong_values_are_refused_by_name():
    for share in (0, -1.0, math.inf, math.nan, True, "a"):
        with pytest.raises(InvalidInput, match="share"):
            AutoMargin(share=share)
    for span in (0, 1.5, True):
        with pytest.raises(InvalidInput, match="span"):
            AutoMargin(span=span)
    with pytest.raises(InvalidOption, match="AutoMargin"):
        TripletLoss("automatic")
    with pytest.raises(InvalidInput, match="labels"):
        TripletLoss(AutoMargin())(torch.randn(4, 2), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_a_cosine_spread_does_not_depend_on_the_length_of_the_rows(scale):
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) // 3
    assert negative_spread(x * scale, labels, distance="cosine") == pytest.approx(
        negative_spread(x, labels, distance="cosine"), rel=1e-9
    )


def test_a_batch_beyond_the_range_of_numbers_spoils_nothing_for_good():
    labels = torch.arange(12) // 3
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    margin = AutoMargin()
    margin.observe(x * 1e152, labels, distance="squared")
    assert margin.value == 0
    before = margin.observe(x, labels, distance="squared")
    assert 0 < before < 10
