"""Formula 2 against the definition, gradcheck, degenerate batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches
from test_triplets import DEGENERATE, close

import tercet.functional as TF
from tercet.functional.options import DISTANCES, REDUCTIONS


@given(
    batch=batches(references=True),
    distance=st.sampled_from(DISTANCES),
    reduction=st.sampled_from(REDUCTIONS),
    margin=st.sampled_from([0.0, 0.5, "soft", "rows"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_definition(batch, distance, reduction, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    # On whole numbers a gap can lie on the hinge, where rounding decides the (one-sided) gradient: move off it.
    batch.x = batch.x + 0.01 * torch.randn(batch.x.shape, dtype=torch.float64, generator=generator)
    if batch.reference is not None:
        noise = torch.randn(batch.reference.shape, dtype=torch.float64, generator=generator)
        batch.reference = batch.reference + 0.01 * noise
    if margin == "rows":
        margin = torch.rand(len(batch.x), dtype=torch.float64, generator=generator)
    weight = torch.randn(len(batch.x), dtype=torch.float64, generator=generator)

    def run(function):
        x = batch.x.clone().requires_grad_()
        y = None if batch.reference is None else batch.reference.clone().requires_grad_()
        loss = function(
            x,
            batch.labels,
            margin=margin,
            distance=distance,
            reduction=reduction,
            reference=y,
            reference_labels=batch.reference_labels,
        )
        (loss if loss.ndim == 0 else (loss * weight).sum()).backward()
        return loss.detach(), x.grad, None if y is None else y.grad

    for got, wanted in zip(run(TF.multi_sample_triplet_loss), run(TF.reference.multi_sample_triplet_loss), strict=True):
        close(got, wanted, scale=1e3)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.5, "soft"])
def test_gradcheck(distance, margin):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels, y_labels = torch.tensor([0, 0, 1, 1, 1, -1]), torch.tensor([0, 1, 0, 1, 5, -1, -2])
    options = {"distance": distance, "margin": margin, "reduction": "none"}
    assert torch.autograd.gradcheck(lambda v: TF.multi_sample_triplet_loss(v, labels, **options), x)
    assert torch.autograd.gradcheck(
        lambda v, w: TF.multi_sample_triplet_loss(v, labels, reference=w, reference_labels=y_labels, **options), (x, y)
    )


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_anchor_gives_zero_with_zero_gradient(name, distance, reduction):
    x, labels = DEGENERATE[name]
    x = x.clone().requires_grad_()
    for margin in (0.3, "soft"):
        x.grad = None
        loss = TF.multi_sample_triplet_loss(x, labels, margin=margin, distance=distance, reduction=reduction)
        loss.sum().backward()
        assert float(loss.detach().sum()) == 0.0
        assert x.grad is not None and not x.grad.any()


def test_hand_worked():
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    # Anchor 0: 1 - 9 + 5 < 0. Anchor 1: 1 - 4 + 5 = 2. Row 2 has no positive.
    loss = TF.multi_sample_triplet_loss(x, torch.tensor([0, 0, 1]), margin=5.0, reduction="none")
    assert loss.tolist() == [0.0, 2.0, 0.0]
