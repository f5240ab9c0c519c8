"""The compiled passes over tiles against the same tiles in torch operations."""

import pytest
import torch

import tercet.functional as TF
from tercet.functional import distances
from tercet.functional.options import DISTANCES

pytest.importorskip("numba")
ROWS = 700  # classes of 350 go beyond the number of positives that are passed over one by one


def loss_and_gradients(compiled, dtype, rows_per_class, with_reference, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(ROWS, 6, dtype=torch.float64, generator=generator), dim=1).to(dtype)
    labels = torch.arange(ROWS) // rows_per_class
    labels[:3] = -1
    x, y = x.clone().requires_grad_(), x.flip(0).clone().requires_grad_()
    if with_reference:
        where = torch.arange(ROWS).flip(0)
        where[5:9] = -1
        options |= {"reference": y, "reference_labels": labels.flip(0), "anchor_rows": where}
    with pytest.MonkeyPatch.context() as patch, TF.use_engine("tiles"):
        if not compiled:
            patch.setattr(distances, "_lines", lambda: None)
        loss = TF.batch_triplet_loss(x, labels, reduction="none", **options)
        (loss * torch.linspace(0, 1, ROWS, dtype=dtype)).sum().backward()
    return loss.detach(), x.grad, y.grad if with_reference else loss.detach()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rows_per_class", [1, 4, 350])
@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("with_reference", [False, True])
def test_equals_torch_operations(distance, rows_per_class, mining, with_reference):
    options = {"distance": distance, "mining": mining, "margin": 0.3}
    results = (loss_and_gradients(c, torch.float64, rows_per_class, with_reference, **options) for c in (True, False))
    for got, wanted in zip(*results, strict=True):
        assert (got - wanted).abs().max() <= 1e-12 * (1 + wanted.abs().max())


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rows_per_class", [4, 350])
def test_float32_is_near_float64(distance, rows_per_class):
    """As near as torch operations are, but for a little."""
    options = {"distance": distance, "margin": 0.3}
    exact = loss_and_gradients(True, torch.float64, rows_per_class, True, **options)
    fast, plain = (loss_and_gradients(c, torch.float32, rows_per_class, True, **options) for c in (True, False))
    for got, eager, truth in zip(fast, plain, exact, strict=True):
        slack = 1e-6 * (1 + truth.abs().max())
        assert (got - truth).abs().max() <= (eager - truth).abs().max() + slack


@pytest.mark.parametrize("scale", [0.05, 1.0, 9.0, 40.0])
@pytest.mark.parametrize("rows_per_class", [3, 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_margin(scale, rows_per_class, dtype):
    """Distances of a hundredth, where losses are log 2, to thousands, where exponentials overflow or vanish."""
    x = scale * torch.randn(44, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(44) // rows_per_class
    for reduction in ("sum", "active"):  # a loss that vanishes in float32 is active all the same
        results = []
        for function, rows in (
            (TF.batch_triplet_loss, x.to(dtype)),
            (TF.reference.batch_triplet_loss, x.to(dtype).double()),
        ):
            rows = rows.clone().requires_grad_()
            loss = function(rows, labels, margin="soft", reduction=reduction)
            loss.backward()
            results.append((loss.detach().double(), rows.grad.double()))
        tolerance = 1e-11 if dtype == torch.float64 else 1e-5
        for got, wanted in zip(*results, strict=True):
            assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_soft_loss_that_rounds_to_nothing_is_active(dtype):
    """log(1 + exp(gap)) is above 0 whatever the gap: "active" is "mean", in every form of the loss."""
    x = torch.tensor([[0.0], [0.0], [90.0], [90.0]], dtype=dtype)
    labels, a, p, n = torch.tensor([0, 0, 1, 1]), x[:3], x[[1, 0, 3]], x[[2, 1, 0]]
    for module in (TF, TF.reference):
        for mining in ("all", "hard"):
            for distance in ("squared", "euclidean"):
                options = {"margin": "soft", "mining": mining, "distance": distance}
                active, mean = (
                    module.batch_triplet_loss(x, labels, reduction=r, **options) for r in ("active", "mean")
                )
                assert active == mean
        active, mean = (module.triplet_loss(a, p, n, margin="soft", reduction=r) for r in ("active", "mean"))
        assert active == mean > 0
        active, mean = (
            module.multi_sample_triplet_loss(x, labels, margin="soft", reduction=r) for r in ("active", "mean")
        )
        assert active == mean


def test_the_definition_has_a_finite_gradient_with_the_soft_margin_in_float32():
    x = torch.tensor([[0.0], [10.0], [0.1]], requires_grad=True)
    TF.reference.batch_triplet_loss(x, torch.tensor([0, 0, 1]), margin="soft").backward()
    assert torch.isfinite(x.grad).all()


def test_without_a_gradient():
    x, labels = (
        torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        torch.arange(50) // 5,
    )
    wanted = TF.reference.batch_triplet_loss(x, labels, margin=1.0)
    torch.testing.assert_close(TF.batch_triplet_loss(x, labels, margin=1.0), wanted)
