"""The GPU kernels against the definition and against the tiles: on a GPU where there is one, else interpreted.

Without a GPU, `tests/conftest.py` sets TRITON_INTERPRET=1 and every kernel runs on the CPU, tile by tile in numpy. The
same file run on a machine with CUDA compiles the kernels and runs them there.
"""

import dataclasses
import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches

import tercet
import tercet.functional as TF
from tercet.functional.options import DISTANCES, REDUCTIONS

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")
from tercet.functional import _triton, _triton_kernels, triplets

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODES = ("all", "hard", "semihard", "hard_negative", "easy_positive")
SMALL = _triton.Blocks(rows=16, columns=16, width=16, part=32, positives=2, warps=4)  # several blocks along every axis
WIDE = dataclasses.replace(SMALL, width=64, part=64, positives=8)


@pytest.fixture(autouse=True, scope="module")
def faster_interpreter():
    """The interpreter patches triton.language at each call of a helper; once per launch is enough."""
    patch = pytest.MonkeyPatch()
    if _triton_kernels.INTERPRETED:
        from triton.runtime import interpreter

        patched = set()
        slow_call, launch = interpreter.InterpretedFunction.__call__, interpreter.GridExecutor.__call__

        def call(self, *args, **options):
            if self.fn in patched:
                return self.rewrite()(*args, **options)
            patched.add(self.fn)
            return slow_call(self, *args, **options)

        def fresh_launch(self, *args, **options):
            patched.clear()
            return launch(self, *args, **options)

        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(interpreter.GridExecutor, "__call__", fresh_launch)
    yield
    patch.undo()


@pytest.fixture
def blocks(monkeypatch):
    def use(sizes):
        monkeypatch.setattr(_triton.Blocks, "of", lambda dtype: sizes)

    use(WIDE)
    return use


def run(engine, x, labels, weight=None, reference=None, **options):
    """Loss and gradients, as float64 on the CPU."""
    rows = [t.to(DEVICE).clone().requires_grad_() for t in (x, reference) if t is not None]
    options = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    if reference is not None:
        options["reference"] = rows[1]
    with TF.use_engine(engine):
        loss = TF.batch_triplet_loss(rows[0], labels.to(DEVICE), **options)
        (loss if loss.ndim == 0 else (loss * weight.to(DEVICE)).sum()).backward()
    return [t.detach().double().cpu() for t in (loss, *(r.grad for r in rows))]


def same(got, wanted, tolerance=2e-5):
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max()) if b.numel() else a.numel() == 0


def spread_rows(count, width, seed):
    """Rows with squared distances that float32, and bfloat16 products, hold exactly: ties are ties in every engine."""
    return torch.randint(-20, 21, (count, width), generator=torch.Generator().manual_seed(seed)) / 4


def labels_of(count, classes, seed):
    return torch.randint(-1, classes, (count,), generator=torch.Generator().manual_seed(seed))


def cases():
    """Every mode with every distance, hinge and soft; kinds of margin, reductions, widths and references by turns."""
    widths, reductions, turn = itertools.cycle([1, 3, 5, 33]), itertools.cycle(REDUCTIONS), itertools.cycle([0, 1, 1])
    hinges = itertools.cycle(["number", "rows"])
    for mining, distance, soft in itertools.product(MODES, DISTANCES, [False, True]):
        margin = "soft" if soft else next(hinges)
        yield mining, distance, margin, next(reductions), next(widths), bool(next(turn))


@pytest.mark.parametrize(("mining", "distance", "margin", "reduction", "width", "with_reference"), list(cases()))
def test_equals_the_tiles(mining, distance, margin, reduction, width, with_reference, blocks):
    seed = len(mining) + width
    x, labels, weight = spread_rows(19, width, seed), labels_of(19, 4, seed), torch.randn(19)
    scale = {"squared": 10.0 * width, "euclidean": 3.0, "cosine": 0.3}[distance]
    if distance == "cosine":  # away from ties, which rounding would decide either way
        x = x + torch.randn(19, width, generator=torch.Generator().manual_seed(1))
        scale, width = 0.3, max(width, 3)
        x = torch.randn(19, width, generator=torch.Generator().manual_seed(seed))
    options = {"mining": mining, "distance": distance, "reduction": reduction}
    options["margin"] = {"number": scale, "rows": scale * torch.rand(19), "soft": "soft"}[margin]
    if with_reference:
        options["reference"] = spread_rows(23, width, 9) if distance != "cosine" else torch.randn(23, width)
        options["reference_labels"] = labels_of(23, 4, 8)
        options["anchor_rows"] = torch.randint(-1, 23, (19,), generator=torch.Generator().manual_seed(7))
    same(run("triton", x, labels, weight, **options), run("tiles", x, labels, weight, **options))


@given(
    batch=batches(references=True),
    distance=st.sampled_from(DISTANCES),
    mining=st.sampled_from(MODES),
    margin=st.sampled_from([0.0, 0.5, "soft"]),
)
@settings(max_examples=15, deadline=None)
def test_equals_the_definition(batch, distance, mining, margin):
    """On whole numbers, where float32 is exact for squared distances and its ties are those of float64."""
    distance = distance if batch.kind == "random" else "squared"
    x = batch.x.round() if batch.kind != "random" else (batch.x * 64).round() / 64
    others = batch.others()
    if others["reference"] is not None:
        others["reference"] = (others["reference"] * 64).round() / 64 if batch.kind == "random" else x[:0]
        if batch.kind != "random":
            others = {}
    others = {k: v for k, v in others.items() if v is not None}
    options = {"distance": distance, "mining": mining, "margin": margin}
    exact_x = x.clone().requires_grad_()
    exact = TF.reference.batch_triplet_loss(exact_x, batch.labels, **options, **others)
    exact.backward()
    if "reference" in others:
        others["reference"] = others["reference"].float()
    got = run("triton", x.float(), batch.labels, **options, **others)[:2]
    same(got, [exact.detach(), exact_x.grad], 1e-4)


@pytest.mark.parametrize(("distance", "reduction"), [("squared", "mean"), ("euclidean", "none"), ("cosine", "anchor")])
def test_several_parts_of_the_width_and_of_the_positives(distance, reduction, blocks):
    blocks(SMALL)
    x = torch.randn(17, 35, generator=torch.Generator().manual_seed(0))
    labels, weight = torch.tensor([0] * 6 + [1] * 2 + [2] * 8 + [-1]), torch.rand(17)
    options = {"distance": distance, "reduction": reduction, "margin": 0.5}
    same(run("triton", x, labels, weight, **options), run("tiles", x, labels, weight, **options))


@pytest.mark.parametrize("width", [130, 1024])
def test_wide_rows(width, blocks):
    blocks(dataclasses.replace(SMALL, width=128, part=512))
    x, labels = torch.randn(9, width, generator=torch.Generator().manual_seed(0)), torch.arange(9) // 3
    same(run("triton", x, labels, margin=9.0), run("tiles", x, labels, margin=9.0))


@pytest.mark.parametrize("mining", ["all", "semihard"])
def test_one_large_class_and_singletons(mining, blocks):
    x, labels = spread_rows(24, 3, 0), torch.tensor([5] * 21 + [7, 8, -1])
    options = {"mining": mining, "margin": 20.0, "reduction": "anchor"}
    same(run("triton", x, labels, **options), run("tiles", x, labels, **options))


@pytest.mark.parametrize(
    ("rows", "labels"), [(0, []), (1, [0]), (3, [0, 0, 0]), (3, [0, 1, 2]), (4, [-1, -1, -1, -1]), (3, [0, 0, -1])]
)
@pytest.mark.parametrize("mining", ["all", "hard"])
def test_small_and_empty_problems(rows, labels, mining, blocks):
    x, labels = spread_rows(rows, 3, 1), torch.tensor(labels, dtype=torch.int64)
    same(run("triton", x, labels, mining=mining, margin=30.0), run("tiles", x, labels, mining=mining, margin=30.0))
    with_reference = {"reference": spread_rows(2, 3, 2), "reference_labels": torch.tensor([0, 1]), "margin": 30.0}
    same(run("triton", x, labels, **with_reference), run("tiles", x, labels, **with_reference))


@pytest.mark.parametrize(
    ("mining", "distance", "dtype"),
    [("all", d, t) for d in DISTANCES for t in (torch.float32, torch.bfloat16, torch.float16)]
    + [(m, "squared", torch.bfloat16) for m in MODES[1:]],
)
def test_no_worse_than_the_eager_formula_in_the_same_precision(dtype, mining, distance, blocks):
    """The truth is the definition in float64 on the rows as they are after rounding to `dtype`."""
    x = torch.nn.functional.normalize(torch.randn(11, 17, generator=torch.Generator().manual_seed(7)), dim=1).to(dtype)
    labels, weight = torch.arange(11) % 3, torch.rand(11)
    options = {"mining": mining, "distance": distance, "margin": 0.3}

    def definition(rows):
        rows = rows.clone().requires_grad_()
        loss = TF.reference.batch_triplet_loss(rows, labels, **options)
        loss.backward()
        return loss.detach().double(), rows.grad.double()

    exact, eager, fast = definition(x.double()), definition(x), run("triton", x, labels, **options)
    for got, plain, truth in zip(fast, eager, exact, strict=True):
        assert (got - truth).abs().max() <= (plain - truth).abs().max() + 1e-6
    # All but the rounding of the result to `dtype`: half rows lose nothing on the way.
    assert abs(fast[0] - exact[0]) <= 2e-6 * (1 + abs(exact[0]))
    rounding = {torch.float32: 2e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
    weighted = {**options, "reduction": "none"}
    same(run("triton", x, labels, weight, **weighted), run("tiles", x, labels, weight, **weighted), rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_half_rows_far_from_the_origin(dtype, offset, blocks):
    x = (torch.randn(18, 6, generator=torch.Generator().manual_seed(3)) + offset).to(dtype)
    labels, weight = torch.arange(18) // 3, torch.ones(18)
    got, exact = (
        run(e, r, labels, weight, reduction="none", margin=3.0) for e, r in (("triton", x), ("tiles", x.double()))
    )
    same(got[:1], exact[:1], 1e-5)
    same(got[1:], exact[1:], {torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype])


def test_large_and_small_half_rows_keep_their_cosine(blocks):
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) * (10.0 ** torch.arange(-24, 24, 4)).unsqueeze(1)
    x, labels = x.to(torch.bfloat16), torch.arange(12) // 2
    got, exact = (run(e, r, labels, distance="cosine") for e, r in (("triton", x), ("tiles", x.double())))
    same(got[:1], exact[:1], 1e-5)


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_negative_that_coincides_with_a_positive_ties_exactly(mining, margin, blocks):
    for seed in range(3):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        x, labels = torch.cat([x[:2], x[1:2]]), torch.tensor([0, 0, 1])
        exact = x.clone().requires_grad_()
        loss = TF.reference.batch_triplet_loss(exact, labels, mining=mining, margin=margin)
        loss.backward()
        same(run("triton", x, labels, mining=mining, margin=margin), [loss.detach(), exact.grad], 1e-5)


@pytest.mark.parametrize("scale", [10.0, 1e4])
@pytest.mark.parametrize("mining", ["all", "semihard"])
def test_a_margin_small_beside_the_distances_is_not_lost(scale, mining, blocks):
    x, labels = torch.eye(6) * scale, torch.arange(6) // 2
    exact = x.clone().requires_grad_()
    loss = TF.reference.batch_triplet_loss(exact, labels, mining=mining)
    loss.backward()
    for got, wanted in zip(run("triton", x, labels, mining=mining), (loss.detach(), exact.grad), strict=True):
        assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7])
def test_euclidean_gradient_beside_a_pair_that_nearly_coincides(gap, blocks):
    x = torch.nn.functional.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).double())
    x[5] = x[0]
    x[5, 0] += gap
    x, labels = x.float(), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    exact = x.double().requires_grad_()
    TF.reference.batch_triplet_loss(exact, labels, distance="euclidean").backward()
    got = run("triton", x, labels, distance="euclidean")[1]
    assert (got - exact.grad).abs().max() <= 1e-4 * exact.grad.abs().max()


def test_a_row_near_the_origin_does_not_suffer_from_far_rows(blocks):
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)) + 1e4
    x[:4] = torch.randn(4, 8, generator=torch.Generator().manual_seed(2)) * 1e-3
    labels = torch.tensor([0, 0, 1, 1] + [2] * 16)
    options = {"distance": "euclidean", "margin": 0.0, "mining": "hard_negative", "reduction": "none"}
    fast = run("triton", x, labels, torch.ones(20), **options)[0][:4]
    exact = TF.reference.batch_triplet_loss(x.double(), labels, **options)[:4]
    torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-9)


def test_soft_losses_stay_positive_far_below_the_margin(blocks):
    x = torch.tensor([[0.0], [0.0], [7.0]])  # softplus(-49) = 5e-22: nothing beside 1, and still an active triplet
    options = {"margin": "soft", "reduction": "active"}
    same(run("triton", x, torch.tensor([0, 0, 1]), **options), run("tiles", x, torch.tensor([0, 0, 1]), **options))
    value = run("triton", x, torch.tensor([0, 0, 1]), **options)[0]
    assert 5.2e-22 < value < 5.3e-22


def test_the_same_call_gives_the_same_bits(blocks):
    x, labels = torch.randn(18, 20, generator=torch.Generator().manual_seed(0)), labels_of(18, 4, 0)
    for mining in ("all", "semihard"):
        first, second = (run("triton", x, labels, mining=mining, margin=5.0) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        ({}, torch.float64, "not in float64"),
        ({"mining": "random"}, torch.float32, "does not draw"),
        ({"swap": True}, torch.float32, "no swap"),
        ({"relation": lambda a, o: (a[:, None] % 2 - o % 2).to(torch.int8)}, torch.float32, "not a relation"),
    ],
)
def test_what_it_cannot_do_it_refuses_when_named(change, dtype, reason):
    x, labels = torch.randn(4, 3, dtype=dtype), torch.tensor([0, 0, 1, 1])
    TF.batch_triplet_loss(x, labels, **change)
    with TF.use_engine("triton"), pytest.raises(tercet.InvalidOption, match=f'engine="triton" .*{reason}'):
        TF.batch_triplet_loss(x, labels, **change)


def test_a_class_too_large_for_its_table_goes_to_the_tiles(monkeypatch):
    monkeypatch.setattr(_triton, "_TABLE_NUMBERS", 10)
    with TF.use_engine("triton"), pytest.raises(tercet.InvalidOption, match="too large for a class of this size"):
        TF.batch_triplet_loss(torch.randn(8, 3), torch.tensor([0] * 6 + [1, 2]))


def test_without_triton_the_tiles_take_over(monkeypatch):
    monkeypatch.setattr(triplets, "_triton_engine", lambda: None)
    x, labels = spread_rows(8, 3, 1).to(DEVICE), (torch.arange(8) // 2).to(DEVICE)
    assert TF.batch_triplet_loss(x, labels) >= 0
    with TF.use_engine("triton"), pytest.raises(tercet.InvalidOption, match="triton is not installed"):
        TF.batch_triplet_loss(x, labels)


def fresh_python(code):
    """Run code where triton has not been imported and nobody asked for the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)


def test_on_a_cpu_without_the_interpreter_it_says_what_is_missing():
    done = fresh_python(
        "import torch, tercet, tercet.functional as TF\n"
        "with TF.use_engine('triton'):\n"
        "    try: TF.batch_triplet_loss(torch.zeros(3, 2), torch.tensor([0, 0, 1]))\n"
        "    except tercet.InvalidOption as error: print(error)\n"
    )
    assert "it needs a GPU, the embeddings are on cpu (TRITON_INTERPRET=1" in done.stdout, done.stderr
