"""Census, margin curve and batch statistics against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches

import tercet
import tercet.functional as TF
from tercet.functional.options import DISTANCES


@given(
    batch=batches(max_rows=12),
    distance=st.sampled_from(["squared", "euclidean"]),
    margin=st.sampled_from([0.0, 1.0, "rows"]),
)
@settings(max_examples=150, deadline=None)
def test_census_equals_the_definition(batch, distance, margin):
    if margin == "rows":
        margin = torch.linspace(0, 2, len(batch.x), dtype=torch.float64)
    got = TF.census(batch.x, batch.labels, margin=margin, distance=distance)
    wanted = TF.reference.census(batch.x, batch.labels, margin=margin, distance=distance)
    for name in ("total", "easy", "semihard", "hard"):
        assert getattr(got.per_anchor, name).tolist() == wanted[name]
        assert getattr(got, name) == sum(wanted[name])
    assert got.total == got.easy + got.semihard + got.hard


def test_census_of_a_collapsed_batch_is_all_hard():
    for distance in DISTANCES:
        counts = TF.census(torch.ones(6, 3), torch.arange(6) // 2, margin=0.0, distance=distance)
        assert (counts.total, counts.hard) == (24, 24)


def test_census_refuses_the_soft_margin():
    with pytest.raises(tercet.InvalidOption, match="no upper end"):
        TF.census(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), margin="soft")


@given(
    batch=batches(max_rows=12),
    distance=st.sampled_from(DISTANCES),
    margins=st.lists(st.just(0.0) | st.floats(0.01, 10), max_size=5),
)
@settings(max_examples=80, deadline=None)
def test_margin_curve_equals_the_definition(batch, distance, margins):
    noise = torch.randn(batch.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch.x = batch.x + 0.01 * noise
    curve = TF.margin_curve(batch.x, batch.labels, margins, distance=distance)
    loss, active = TF.reference.margin_curve(batch.x, batch.labels, margins, distance=distance)
    assert curve.margins.tolist() == margins
    assert curve.loss.tolist() == pytest.approx(loss, rel=1e-9, abs=1e-7)
    assert curve.active_fraction.tolist() == pytest.approx(active, abs=1e-12)


def test_margin_curve_agrees_with_the_loss_at_each_margin():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 7
    curve = TF.margin_curve(x, labels, torch.tensor([5.0, 0.1]))
    for margin, value in zip((5.0, 0.1), curve.loss.tolist(), strict=True):
        assert value == pytest.approx(float(TF.batch_triplet_loss(x, labels, margin=margin)), rel=1e-5)


@pytest.mark.parametrize("margins", [[-1.0], [float("nan")], torch.ones(2, 2)])
def test_margin_curve_refuses_bad_margins(margins):
    with pytest.raises(tercet.InvalidInput, match="margins must be"):
        TF.margin_curve(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), margins)


def test_batch_statistics_are_the_means_over_pairs():
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    got = TF.batch_statistics(x, torch.tensor([0, 0, 1]), margin=4.0)
    assert got.mean_positive == 1.0
    assert got.mean_negative == (9 + 4) / 2
    assert got.active_fraction == 0.5  # 1 - 9 + 4 < 0, 1 - 4 + 4 > 0
    nothing = TF.batch_statistics(x, torch.tensor([0, 1, 2]))
    assert (nothing.active_fraction, nothing.mean_positive, nothing.mean_negative) == (0.0, 0.0, 0.0)
