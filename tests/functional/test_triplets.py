"""Formula 1: the fast path against the definition, properties, degenerate batches, errors."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Batch, batches

import tercet
import tercet.functional as TF
from tercet.functional import _tiles
from tercet.functional.options import DISTANCES, MINING, REDUCTIONS
from tercet.functional.triplets import check_problem


def seed_of(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def value_and_gradient(function, batch: Batch, weight: torch.Tensor | None = None, **options):
    x = batch.x.clone().requires_grad_()
    y = None if batch.reference is None else batch.reference.clone().requires_grad_()
    loss = function(x, batch.labels, **{**batch.others(), "reference": y}, **options)
    (loss if loss.ndim == 0 else (loss * weight).sum()).backward()
    return loss.detach(), x.grad, None if y is None else y.grad


def close(got: torch.Tensor | None, wanted: torch.Tensor | None, scale: float = 1.0) -> None:
    if wanted is None:
        assert got is None
        return
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10 * scale)


@given(
    batch=batches(references=True),
    distance=st.sampled_from(DISTANCES),
    mining=st.sampled_from([m for m in MINING if m != "distance_weighted"]),
    reduction=st.sampled_from(REDUCTIONS),
    margin=st.sampled_from([0.0, 0.2, 1.0, "soft", "rows"]),
    swap=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_equals_the_definition(batch, distance, mining, reduction, margin, swap, seed):
    rows = len(batch.x)
    if batch.kind == "whole" and distance == "cosine":
        # Whole numbers tie under cosine up to rounding, which then decides: move off the ties.
        batch.x = batch.x + 0.01 * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(seed)).double()
    if margin == "rows":
        margin = torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weight = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    options = {"margin": margin, "distance": distance, "mining": mining, "reduction": reduction, "swap": swap}
    generator = torch.Generator().manual_seed(seed)
    fast = value_and_gradient(TF.batch_triplet_loss, batch, weight, generator=generator, **options)
    drawn = seed_of(torch.Generator().manual_seed(seed))
    slow = value_and_gradient(TF.reference.batch_triplet_loss, batch, weight, seed=drawn, **options)
    for got, wanted in zip(fast, slow, strict=True):
        close(got, wanted, scale=100.0)
        assert got is None or torch.isfinite(got).all()


@given(batch=batches(references=True), distance=st.sampled_from(DISTANCES), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_distance_weighted_equals_the_definition(batch, distance, seed):
    batch.x = torch.nn.functional.normalize(batch.x + 1e-3, dim=1)
    if batch.reference is not None:
        batch.reference = torch.nn.functional.normalize(batch.reference + 1e-3, dim=1)
    options = {"distance": distance, "mining": "distance_weighted", "margin": 0.5}
    fast = value_and_gradient(TF.batch_triplet_loss, batch, generator=torch.Generator().manual_seed(seed), **options)
    drawn = seed_of(torch.Generator().manual_seed(seed))
    slow = value_and_gradient(TF.reference.batch_triplet_loss, batch, seed=drawn, **options)
    for got, wanted in zip(fast, slow, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("mining", ["all", "semihard"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_many_positives_take_the_sorted_path_and_agree(mining, distance, monkeypatch):
    """Classes larger than MANY_POSITIVES are sorted instead of looped over: both ways give the same."""
    generator = torch.Generator().manual_seed(3)
    batch = Batch(
        torch.randn(70, 6, dtype=torch.float64, generator=generator),
        torch.randint(0, 2, (70,), generator=generator),
    )
    by_sorting = value_and_gradient(TF.batch_triplet_loss, batch, mining=mining, distance=distance)
    monkeypatch.setattr(_tiles, "MANY_POSITIVES", 1000)
    monkeypatch.setattr("tercet.functional.selection.MANY_POSITIVES", 1000)
    by_loop = value_and_gradient(TF.batch_triplet_loss, batch, mining=mining, distance=distance)
    for got, wanted in zip(by_sorting, by_loop, strict=True):
        close(got, wanted)


@given(
    batch=batches(references=True),
    mining=st.sampled_from(MINING[:5]),
    distance=st.sampled_from(DISTANCES),
    swap=st.booleans(),
    tile=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_sum_over_tiles_is_the_whole(batch, mining, distance, swap, tile):
    problem = check_problem(batch.x, batch.labels, 0.3, distance, mining, *batch.others().values(), swap=swap)
    whole = _tiles.reduce_triplets(batch.x, batch.reference, problem, gradient=True)
    tiled = _tiles.reduce_triplets(batch.x, batch.reference, problem, gradient=True, tile_numbers=tile)
    for name in ("loss_B", "dx_BD", "dy_MD"):
        close(getattr(tiled, name), getattr(whole, name), scale=100.0)
    assert torch.equal(tiled.kept_B, whole.kept_B)
    assert torch.equal(tiled.active_B, whole.active_B)


@given(batch=batches(), mining=st.sampled_from(MINING[:5]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_order_of_rows_and_names_of_classes_do_not_matter(batch, mining, seed):
    # Whole-number rows tie, and ties go to the lowest row, which a permutation changes: spread them a little.
    noise = torch.randn(batch.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    batch.x = batch.x + 0.01 * noise
    plain, gradient, _ = value_and_gradient(TF.batch_triplet_loss, batch, mining=mining)
    order = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(batch.labels >= 0, batch.labels * 13 + 5, batch.labels - 3)
    moved, moved_gradient, _ = value_and_gradient(
        TF.batch_triplet_loss, Batch(batch.x[order], renamed[order]), mining=mining
    )
    close(moved, plain, scale=1e3)
    close(moved_gradient, gradient[order], scale=1e3)


@given(batch=batches(), margins=st.lists(st.floats(0, 5), min_size=3, max_size=3, unique=True))
@settings(max_examples=60, deadline=None)
def test_monotone_and_convex_in_the_margin(batch, margins):
    low, middle, high = sorted(margins)
    loss = [float(TF.batch_triplet_loss(batch.x, batch.labels, margin=m, reduction="sum")) for m in (low, middle, high)]
    slack = 1e-7 * (1 + abs(loss[2]))
    assert loss[0] <= loss[1] + slack and loss[1] <= loss[2] + slack
    share = (middle - low) / (high - low)
    assert loss[1] <= (1 - share) * loss[0] + share * loss[2] + slack


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", MINING[:5])
@pytest.mark.parametrize("margin", [0.7, "soft"])
@pytest.mark.parametrize("swap", [False, True])
def test_gradcheck(distance, mining, margin, swap):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels, y_labels = torch.tensor([0, 0, 1, 1, 2, 2, -1]), torch.tensor([0, 1, 2, 0, 1, 2, -1, 5, 0])
    for reduction in ("anchor", "none"):
        loss = partial(
            TF.batch_triplet_loss, distance=distance, mining=mining, margin=margin, swap=swap, reduction=reduction
        )
        assert torch.autograd.gradcheck(partial(loss, labels=labels), x)
        assert torch.autograd.gradcheck(
            lambda v, w, loss=loss: loss(v, labels, reference=w, reference_labels=y_labels), (x, y)
        )


DEGENERATE = {
    "empty": (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
    "one row": (torch.ones(1, 3), torch.tensor([0])),
    "two rows, one class": (torch.randn(2, 3), torch.tensor([4, 4])),
    "two rows, two classes": (torch.randn(2, 3), torch.tensor([0, 1])),
    "no positive": (torch.randn(5, 3), torch.arange(5)),
    "no negative": (torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)),
    "negative-only rows": (torch.randn(5, 3), torch.full((5,), -1)),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_valid_triplet_gives_zero_with_zero_gradient(name, mining, reduction):
    x, labels = DEGENERATE[name]
    x = torch.nn.functional.normalize(x, dim=1).requires_grad_()
    for margin, distance in itertools.product((0.2, "soft"), DISTANCES):
        x.grad = None
        loss = TF.batch_triplet_loss(x, labels, mining=mining, reduction=reduction, margin=margin, distance=distance)
        assert loss.shape == ((len(x),) if reduction == "none" else ())
        loss.sum().backward()
        assert float(loss.detach().sum()) == 0.0
        assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_collapsed_batch_has_loss_margin_and_gradient_exactly_zero(distance):
    for rows in (torch.zeros(6, 4), torch.full((6, 4), 0.3), torch.randn(1, 4).repeat(6, 1)):
        x = rows.double().requires_grad_()
        loss = TF.batch_triplet_loss(x, torch.tensor([0, 0, 1, 1, 2, 2]), margin=0.25, distance=distance)
        loss.backward()
        assert loss.item() == pytest.approx(0.25, abs=1e-15)
        assert float(x.grad.abs().max()) <= 1e-15


def test_the_hinge_point_has_gradient_zero():
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    # Anchor 0: 1 - 4 + 3 = 0, on the hinge. Anchor 1: 1 - 1 + 3 = 3.
    TF.batch_triplet_loss(x, labels, margin=3.0, reduction="none")[0].backward()
    assert not x.grad.any()


def test_a_tie_goes_to_the_lowest_row():
    x = torch.tensor([[0.0], [1.0], [-1.0], [2.0], [-2.0]], dtype=torch.float64)
    a, p, n = TF.mine(x, torch.tensor([0, 0, 0, 1, 1]), mining="hard")
    assert (a[0], p[0], n[0]) == (0, 1, 3)


def test_duplicates_cost_no_accuracy():
    """Coincident rows under a square root: |a|^2 + |b|^2 - 2ab would leave 1e-8 in float64 and 3e-4 in float32."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 64, dtype=torch.float64, generator=generator)
    labels = torch.arange(8).repeat(2)
    for dtype, limit in ((torch.float64, 1e-14), (torch.float32, 1e-5)):
        x = base.repeat(2, 1).to(dtype)
        loss = TF.batch_triplet_loss(x, labels, margin="soft", distance="euclidean")
        exact = TF.reference.batch_triplet_loss(base.repeat(2, 1), labels, margin="soft", distance="euclidean")
        assert abs(float(loss) - float(exact)) <= limit * float(exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
def test_lower_precision_is_no_worse_than_the_eager_formula(dtype, distance, mining):
    """Error against float64 of the same rounded rows <= error of plain torch in the same precision, plus slack."""
    generator = torch.Generator().manual_seed(7)
    x = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1).to(dtype)
    labels = torch.arange(24) // 3

    def run(function, rows):
        rows = rows.clone().requires_grad_()
        loss = function(rows, labels, mining=mining, distance=distance, margin=0.3)
        loss.backward()
        return loss.detach().double(), rows.grad.double()

    exact, exact_gradient = run(TF.reference.batch_triplet_loss, x.double())
    eager, eager_gradient = run(TF.reference.batch_triplet_loss, x)
    fast, fast_gradient = run(TF.batch_triplet_loss, x)
    slack = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert (fast - exact).abs() <= (eager - exact).abs() + slack
    assert (fast_gradient - exact_gradient).abs().max() <= (eager_gradient - exact_gradient).abs().max() + slack
    assert TF.batch_triplet_loss(x, labels).dtype == torch.float32


def test_autocast_does_not_reach_the_loss():
    x = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = torch.arange(16) // 4
    plain = TF.batch_triplet_loss(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TF.batch_triplet_loss(x, labels), plain)
        assert torch.equal(
            TF.multi_sample_triplet_loss(x, labels, distance="euclidean"),
            TF.multi_sample_triplet_loss(x, labels, distance="euclidean"),
        )


def test_half_precision_gradients_come_back_in_half():
    x = torch.randn(8, 4, dtype=torch.bfloat16, requires_grad=True)
    TF.batch_triplet_loss(x, torch.arange(8) // 2).backward()
    assert x.grad.dtype == torch.bfloat16


def test_second_derivative_is_refused():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for loss in (
        TF.batch_triplet_loss(x, labels, margin="soft"),
        TF.multi_sample_triplet_loss(x, labels, margin="soft"),
        TF.triplet_loss(x[:2], x[2:4], x[4:], margin="soft"),
    ):
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(tercet.InvalidOption, match="first derivative only"):
            gradient.square().sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where a graph is broken
def test_a_model_that_calls_it_compiles():
    model = torch.nn.Linear(4, 3).double()
    x, labels = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) // 2

    def step(rows):
        return TF.batch_triplet_loss(model(rows), labels)

    compiled = torch.compile(step, backend="eager")
    loss = compiled(x)
    loss.backward()
    torch.testing.assert_close(loss, step(x))
    assert model.weight.grad is not None and model.weight.grad.any()


def test_relation_takes_the_place_of_labels():
    labels = torch.tensor([0, 0, 1, 1, 2])
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def relation(anchor_rows, other_rows):
        same = labels[anchor_rows].unsqueeze(1) == labels[other_rows]
        sign = torch.where(same, 1, -1).to(torch.int8)
        sign[:, other_rows == 4] = 0  # row 4 is unknown to everybody
        return sign

    got = TF.batch_triplet_loss(x, None, relation=relation, reduction="none")
    assert got[4] == 0
    close(got[:4], TF.batch_triplet_loss(x[:4], labels[:4], reduction="none"))
    close(got, TF.reference.batch_triplet_loss(x, None, relation=relation, reduction="none"))


def test_anchor_rows_leave_the_anchor_itself_out():
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    bank = torch.cat([x, x + 5.0])
    bank_labels = torch.cat([labels, torch.full((6,), 9)])
    told = TF.batch_triplet_loss(
        x, labels, reference=bank, reference_labels=bank_labels, anchor_rows=torch.arange(6), mining="easy_positive"
    )
    untold = TF.batch_triplet_loss(x, labels, reference=bank, reference_labels=bank_labels, mining="easy_positive")
    assert told > 0
    assert untold == 0  # each anchor stands in the bank as its own nearest positive


def test_draws_repeat_with_the_generator_and_differ_without():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) // 4
    picks = [
        TF.mine(x, labels, mining="random", generator=torch.Generator().manual_seed(seed))[2] for seed in (1, 1, 2)
    ]
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[0], picks[2])


def test_draws_are_uniform_and_follow_the_reference():
    from tercet.functional.selection import draws

    anchor, other = torch.arange(200).repeat_interleave(50), torch.arange(50).repeat(200)
    u = draws(12345, anchor, other)
    assert float(u[777]) == TF.reference.draw(12345, int(anchor[777]), int(other[777]))
    counts = torch.histc(u, 10, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 30  # chi-square with 9 degrees of freedom, p < 1e-3 beyond 27.9


X, L = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mining": "seminard"}, r"mining='seminard' is not known; allowed: 'all', 'hard', 'semihard'"),
        ({"distance": "l2"}, "distance='l2' is not known"),
        ({"reduction": "avg"}, "reduction='avg' is not known"),
        ({"margin": "hard"}, "margin='hard' is not known"),
    ],
)
def test_unknown_options_name_the_option_and_the_allowed_values(change, message):
    with pytest.raises(tercet.InvalidOption, match=message):
        TF.batch_triplet_loss(X, L, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": X[0]}, "embeddings must be a matrix"),
        ({"embeddings": X.long()}, "embeddings must be floating point"),
        ({"embeddings": X[:, :0]}, "embeddings must have at least one column"),
        ({"embeddings": torch.full((4, 3), float("nan"))}, "embeddings must be finite"),
        ({"embeddings": torch.tensor([[float("inf")] * 3] * 4)}, "embeddings must be finite"),
        ({"labels": L.float()}, "labels must be integers"),
        ({"labels": L[:3]}, r"labels must have shape \[4\]"),
        ({"labels": None}, "labels may be None only when relation"),
        ({"margin": -0.1}, "margin must be finite and at least 0"),
        ({"margin": float("nan")}, "margin must be finite and at least 0"),
        ({"margin": torch.ones(3)}, r"margin must be one number or have shape \[4\]"),
        ({"margin": torch.tensor([0.1, 0.1, 0.1, -1.0])}, "margin must be finite and at least 0 in every row"),
        ({"reference": X[:, :2], "reference_labels": L}, "reference has width 2"),
        ({"reference": X}, "reference was given without reference_labels"),
        ({"reference_labels": L}, "reference_labels was given without reference"),
        ({"anchor_rows": L}, "anchor_rows was given without reference"),
        ({"reference": X, "reference_labels": L, "anchor_rows": L + 3}, "anchor_rows must lie in -1..3"),
        ({"relation": lambda a, o: torch.zeros(1)}, "relation must return an int8 tensor"),
        ({"mining": "distance_weighted"}, "embeddings must have rows of norm 1"),
    ],
)
def test_wrong_inputs_name_the_argument(change, message):
    arguments = {"embeddings": X, "labels": L} | change
    with pytest.raises(tercet.InvalidInput, match=message):
        TF.batch_triplet_loss(arguments.pop("embeddings"), arguments.pop("labels"), **arguments)


def test_embeddings_whose_sum_overflows_are_still_finite():
    x = torch.full((4, 3), 3e38)
    x[1] = 1.0
    from tercet.functional.options import check_embeddings

    check_embeddings("embeddings", x)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [0.4, "soft", "rows"])
def test_given_triplets_equal_the_definition(distance, swap, reduction, margin):
    generator = torch.Generator().manual_seed(11)
    points = [torch.randn(9, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    points[1][0] = points[0][0]  # distance 0
    points[2][1] = 0.0  # a zero row
    if margin == "rows":
        margin = torch.rand(9, dtype=torch.float64, generator=generator)
    weight = torch.randn(9, dtype=torch.float64, generator=generator)

    def run(function):
        a, p, n = (v.clone().requires_grad_() for v in points)
        loss = function(a, p, n, margin=margin, distance=distance, swap=swap, reduction=reduction)
        (loss if loss.ndim == 0 else (loss * weight).sum()).backward()
        return [loss.detach(), a.grad, p.grad, n.grad]

    for got, wanted in zip(run(TF.triplet_loss), run(TF.reference.triplet_loss), strict=True):
        close(got, wanted)


def test_given_triplets_none_at_all():
    a, p, n = (torch.zeros(0, 3, requires_grad=True) for _ in range(3))
    loss = TF.triplet_loss(a, p, n)
    loss.backward()
    assert loss.item() == 0.0 and a.grad is not None


def test_given_triplets_of_different_shapes_are_refused():
    with pytest.raises(tercet.InvalidInput, match="negative has shape"):
        TF.triplet_loss(X, X, X[:2])
