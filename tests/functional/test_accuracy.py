"""Where float32 or a fast path could lose what the definition keeps: each case was wrong once."""

import pytest
import torch

import tercet
import tercet.functional as TF

MODES = ("all", "semihard", "hard")


def value_and_gradient(function, x, labels, **options):
    x = x.clone().requires_grad_()
    loss = function(x, labels, **options)
    loss.sum().backward()
    return loss.detach().double(), x.grad.double()


@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
def test_counting_and_mining_are_not_touched_by_autocast(distance):
    x, labels = torch.randn(30, 16, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 5

    def all_of_them():
        counts = TF.census(x, labels, distance=distance)
        mined = TF.mine(x, labels, distance=distance)
        curve = TF.margin_curve(x, labels, [0.2], distance=distance)
        return (counts.hard, counts.semihard, [i.tolist() for i in mined], curve.loss.tolist())

    plain = all_of_them()
    with torch.autocast("cpu", torch.bfloat16):
        assert all_of_them() == plain


@pytest.mark.parametrize("mining", MODES)
def test_a_negative_that_coincides_with_a_positive_ties_exactly(mining):
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        x = torch.randn(3, 4, generator=generator)
        x = torch.cat([x[:2], x[1:2]])
        labels = torch.tensor([0, 0, 1])
        for margin in (0.0, 1.0):
            fast = value_and_gradient(TF.batch_triplet_loss, x, labels, mining=mining, margin=margin, reduction="none")
            slow = value_and_gradient(
                TF.reference.batch_triplet_loss, x, labels, mining=mining, margin=margin, reduction="none"
            )
            for got, wanted in zip(fast, slow, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("mining", MODES)
def test_a_margin_small_beside_the_distances_is_not_lost(scale, mining):
    x, labels = torch.eye(6) * scale, torch.arange(6) // 2
    got = value_and_gradient(TF.batch_triplet_loss, x, labels, mining=mining)
    wanted = value_and_gradient(TF.reference.batch_triplet_loss, x, labels, mining=mining)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()
    assert TF.margin_curve(x, labels, [0.2]).loss.item() == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7])
def test_euclidean_gradient_beside_a_pair_that_nearly_coincides(dtype, limit, gap):
    x = torch.nn.functional.normalize(
        torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    x[5] = x[0]
    x[5, 0] += gap
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    exact = value_and_gradient(TF.reference.batch_triplet_loss, x.to(dtype).double(), labels, distance="euclidean")
    fast = value_and_gradient(TF.batch_triplet_loss, x.to(dtype), labels, distance="euclidean")
    assert (fast[1] - exact[1]).abs().max() <= limit * exact[1].abs().max()


def test_a_row_does_not_depend_on_far_rows():
    a = torch.full((9, 2), 1e6)
    p, n = a.clone(), a.clone()
    a[0], p[0], n[0] = torch.tensor([0.1, 0.2]), torch.tensor([0.13, 0.27]), torch.tensor([0.3, 0.2])
    options = {"distance": "euclidean", "reduction": "none"}
    assert TF.triplet_loss(a, p, n, **options)[0] == TF.triplet_loss(a[:1], p[:1], n[:1], **options)[0]

    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) + 1e4
    x[:4] = torch.randn(4, 8, generator=torch.Generator().manual_seed(2)) * 1e-3
    labels = torch.tensor([0, 0, 1, 1] + [2] * 36)
    options = {"distance": "euclidean", "margin": 0.0, "mining": "hard_negative", "reduction": "none"}
    fast = TF.batch_triplet_loss(x, labels, **options)[:4]
    exact = TF.reference.batch_triplet_loss(x.double(), labels, **options)[:4]
    torch.testing.assert_close(fast.double(), exact, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("spread", [0.1, 0.02])
def test_formula_2_far_from_the_origin(spread):
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) * spread + 1e4
    labels = torch.arange(16) // 2
    exact = TF.reference.multi_sample_triplet_loss(x.double(), labels).item()
    assert TF.multi_sample_triplet_loss(x, labels).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("loss", [TF.batch_triplet_loss, TF.multi_sample_triplet_loss])
def test_labels_changed_before_backward_do_not_change_the_gradient(loss):
    x, labels = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    wanted = value_and_gradient(loss, x, labels, reduction="none")[1]
    rows, buffer = x.clone().requires_grad_(), labels.clone()
    value = loss(rows, buffer, reduction="none")
    buffer.copy_(torch.arange(12) % 4)
    value.sum().backward()
    torch.testing.assert_close(rows.grad.double(), wanted)


def test_triplet_indices_of_any_integer_type_are_indices():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    a, p, n = torch.arange(30), (torch.arange(30) + 1) % 30, (torch.arange(30) + 7) % 30
    loss = tercet.TripletLoss()
    wanted = loss(x, torch.arange(30), triplets=(a, p, n))
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert loss(x, torch.arange(30), triplets=tuple(i.to(dtype) for i in (a, p, n))) == wanted
    for wrong in ((a, p), (a, p, n.bool()), (a, p, n.tolist()), (a, p, n.float())):
        with pytest.raises(tercet.InvalidInput, match="triplets"):
            loss(x, torch.arange(30), triplets=wrong)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, y: TF.margin_curve(x, y, "soft"), "margins"),
        (lambda x, y: TF.margin_curve(x, y, [None]), "margins"),
        (lambda x, y: TF.batch_triplet_loss(x, y, margin=10**400), "margin"),
        (lambda x, y: TF.batch_triplet_loss(x, y, margin=1e39), "margin"),
        (lambda x, y: TF.batch_triplet_loss(x, y, mining="random", generator=5), "generator"),
        (lambda x, y: TF.triplet_loss(x, x, x, swap="no"), "swap"),
        (lambda x, y: TF.batch_triplet_loss(x, torch.tensor([2**63 + 5] * 4, dtype=torch.uint64)), "labels"),
        (lambda x, y: tercet.TripletLoss(margin=True), "margin"),
        (lambda x, y: tercet.TripletLoss(margin=torch.tensor(float("nan"))), "margin"),
    ],
)
def test_more_wrong_inputs_name_the_argument(call, name):
    with pytest.raises(tercet.InvalidInput, match=name):
        call(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("distance", ["squared", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formula_2_of_a_collapsed_batch_lies_on_the_hinge(distance, dtype):
    row = torch.randn(1, 37, dtype=dtype, generator=torch.Generator().manual_seed(5))
    loss, gradient = value_and_gradient(
        TF.multi_sample_triplet_loss, row.repeat(21, 1), torch.arange(21) % 4, margin=0.0, distance=distance
    )
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("loss", [TF.batch_triplet_loss, TF.multi_sample_triplet_loss])
def test_rows_whose_distances_overflow_are_refused(loss):
    x, labels = torch.randn(6, 4) * 1e20, torch.arange(6) // 2
    with pytest.raises(tercet.InvalidInput, match="embeddings must stay below"):
        loss(x, labels)
    assert torch.isfinite(loss(x, labels, distance="cosine"))


def test_the_definition_takes_a_margin_of_no_dimension():
    x, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) // 2
    wanted = TF.reference.batch_triplet_loss(x, labels, margin=0.5)
    assert TF.reference.batch_triplet_loss(x, labels, margin=torch.tensor(0.5)) == wanted
