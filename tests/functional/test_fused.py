"""The compiled engine against the tiles and against the definition; its limits; its threads."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
import tercet.functional as TF
from tercet.functional import _blocks, _fused, _threads
from tercet.functional.options import DISTANCES, REDUCTIONS

MODES = ("all", "hard", "semihard", "hard_negative", "easy_positive")


def run(engine, x, labels, weight, **options):
    x = x.clone().requires_grad_()
    with TF.use_engine(engine):
        loss = TF.batch_triplet_loss(x, labels, **options)
        (loss if loss.ndim == 0 else (loss * weight).sum()).backward()
    return loss.detach(), x.grad


def same(got, wanted, tolerance=2e-5):
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


def spread_rows(count: int, width: int, seed: int) -> torch.Tensor:
    """Rows whose float32 distances are far enough apart that rounding decides nothing: whole numbers over 8."""
    return torch.randint(-40, 41, (count, width), generator=torch.Generator().manual_seed(seed)) / 8


@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 9),
    classes=st.integers(1, 12),
    distance=st.sampled_from(["squared", "euclidean"]),
    mining=st.sampled_from(MODES),
    reduction=st.sampled_from(REDUCTIONS),
    margin=st.sampled_from([0.0, 0.5, 7.0, "rows"]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 999),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_tiles(rows, width, classes, distance, mining, reduction, margin, threads, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes, (rows,), generator=generator)
    if margin == "rows":
        margin = torch.randint(0, 9, (rows,), generator=generator) / 2
    weight = torch.randn(rows, generator=generator)
    x = spread_rows(rows, width, seed)  # squared distances are exact in float32, so ties are ties on both sides
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        options = {"distance": distance, "mining": mining, "reduction": reduction, "margin": margin}
        same(run("fused", x, labels, weight, **options), run("tiles", x, labels, weight, **options))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", MODES)
@pytest.mark.parametrize("rows_per_class", [2, 5, 60])
def test_several_blocks_threads_and_class_sizes(distance, mining, rows_per_class, small_blocks):
    """Blocks that do not fit the batch, two threads, classes on both sides of the search for buckets."""
    x, labels = mixed_rows(rows_per_class)
    weight = torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(2)
    try:
        for reduction in ("mean", "anchor", "none"):
            options = {"distance": distance, "mining": mining, "reduction": reduction, "margin": 3.0}
            if distance == "cosine":
                options["margin"] = 0.3
            fused, tiles = (run(e, x, labels, weight, **options) for e in ("fused", "tiles"))
            if distance == "cosine" and mining == "semihard":  # its gradients: the next test
                same(fused[:1], tiles[:1], 1e-3)
            else:
                same(fused, tiles, 1e-3 if distance == "cosine" else 2e-5)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rows_per_class", [2, 5, 20])
def test_semihard_is_the_nearest_up_to_the_rounding_of_a_distance(distance, rows_per_class, monkeypatch, small_blocks):
    """What is kept, looked at in float64; and the gradient is that of what was kept."""
    kept = []
    choose_and_sum = _fused._nearest.choose_and_sum

    def noted(*arguments):
        kept.append(arguments)
        choose_and_sum(*arguments)

    monkeypatch.setattr(_fused._nearest, "choose_and_sum", noted)
    x, labels = mixed_rows(rows_per_class)
    margin = 0.3 if distance == "cosine" else 3.0
    _, dx = run("fused", x, labels, None, distance=distance, mining="semihard", margin=margin)
    _, order_B, first_B, positive_B, _, _, name_FB, *_ = kept[0]

    exact = x.double()
    u = torch.nn.functional.normalize(exact, dim=1)
    d = 1 - u @ u.T if distance == "cosine" else torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")
    if distance == "squared":
        d = d.square()
    rounding = 8 * torch.finfo(torch.float32).eps * (1 if distance == "cosine" else float(d.max()))
    triplets = []
    for i in range(len(x)):
        a = int(order_B[i])
        far = d[a][labels != labels[a]] if labels[a] >= 0 else d[a][:0]
        for k in range(positive_B[i]):
            p, n = int(order_B[first_B[i] + k + (first_B[i] + k >= i)]), int(name_FB[k, i])
            inside = far[(far > d[a, p] + rounding) & (far < d[a, p] + margin - rounding)]
            if n < 0:
                assert len(inside) == 0
                continue
            assert labels[n] != labels[a]
            assert d[a, p] - rounding < d[a, n] < d[a, p] + margin + rounding
            assert len(inside) == 0 or d[a, n] <= inside.min() + rounding
            triplets.append((a, p, n))
    a, p, n = torch.tensor(triplets).T
    rows = exact.clone().requires_grad_()
    TF.triplet_loss(rows[a], rows[p], rows[n], distance=distance, margin=1e3).backward()  # every one active
    same([dx.double()], [rows.grad], 2e-6)


def mixed_rows(rows_per_class):
    """Rows for several slices of columns, in no order, of classes of one size; three rows are negative only."""
    count = 541
    labels = (torch.arange(count) // rows_per_class)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    labels[:3] = -1
    return spread_rows(count, 7, 5), labels


@pytest.fixture
def small_blocks(monkeypatch):
    """Strips that do not fit the slices of columns, and threads for the smallest of work."""
    monkeypatch.setattr(_blocks, "_ROWS", 113)
    monkeypatch.setattr(_blocks, "ALONE", 0)
    monkeypatch.setattr(_threads, "ALONE", 0)
    monkeypatch.setattr(_threads, "_SHARED", 0)


@pytest.mark.parametrize("mining", MODES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("many_positives", [2, 48])
def test_no_worse_than_the_eager_formula_in_float32(mining, distance, many_positives, monkeypatch):
    monkeypatch.setattr(_fused, "_MANY_POSITIVES", many_positives)  # both ways of counting
    generator = torch.Generator().manual_seed(7)
    x = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    labels = torch.arange(24) % 5

    def value(function, rows, **more):
        rows = rows.clone().requires_grad_()
        loss = function(rows, labels, mining=mining, distance=distance, margin=0.3, **more)
        loss.backward()
        return loss.detach().double(), rows.grad.double()

    exact, eager = (value(TF.reference.batch_triplet_loss, rows) for rows in (x.double(), x))
    with TF.use_engine("fused"):
        fused = value(TF.batch_triplet_loss, x)
    for got, plain, truth in zip(fused, eager, exact, strict=True):
        assert (got - truth).abs().max() <= (plain - truth).abs().max() + 1e-6


def test_large_classes_agree_with_the_definition():
    x = spread_rows(110, 5, 3)
    labels = torch.where(torch.arange(110) < 104, 0, torch.arange(110))
    exact = TF.reference.batch_triplet_loss(x.double(), labels, margin=2.0)
    with TF.use_engine("fused"):
        fused = TF.batch_triplet_loss(x, labels, margin=2.0)
    assert abs(fused.item() - exact.item()) <= 1e-6 * exact.item()


def test_coincident_rows_are_exactly_at_distance_zero():
    base = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    x, labels = base.repeat(2, 1), torch.arange(20).repeat(2)
    x = torch.cat([x, x[:1]])  # and an impostor that coincides with a genuine pair
    labels = torch.cat([labels, torch.tensor([99])])
    with TF.use_engine("fused"):
        loss = TF.batch_triplet_loss(x, labels, margin=0.5, distance="euclidean", mining="hard", reduction="none")
    assert loss[0] == loss[20] == 0.5
    assert not loss[1:20].any()


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ({}, torch.float64),
        ({"mining": "random"}, torch.float32),
        ({"swap": True}, torch.float32),
        ({"margin": "soft"}, torch.float32),
        ({"reference": torch.zeros(2, 3), "reference_labels": torch.tensor([0, 1])}, torch.float32),
    ],
)
def test_what_it_cannot_do_it_refuses_when_named_and_leaves_to_the_tiles_when_not(change, dtype):
    x, labels = torch.randn(4, 3, dtype=dtype), torch.tensor([0, 0, 1, 1])
    if "reference" in change:
        change = {**change, "reference": change["reference"].to(dtype)}
    TF.batch_triplet_loss(x, labels, **change)
    with TF.use_engine("fused"), pytest.raises(tercet.InvalidOption, match='engine="fused"'):
        TF.batch_triplet_loss(x, labels, **change)


def test_soft_margin_with_chosen_triplets():
    x, labels = spread_rows(30, 4, 2), torch.arange(30) // 3
    weight = torch.ones(30)
    for mining in MODES[1:]:
        same(
            run("fused", x, labels, weight, mining=mining, margin="soft"),
            run("tiles", x, labels, weight, mining=mining, margin="soft"),
        )


def test_unknown_engines_are_named(monkeypatch):
    known = "engine='gpu' is not known; allowed: 'auto', 'fused', 'triton', 'tiles'"
    with pytest.raises(tercet.InvalidOption, match=known):
        TF.use_engine("gpu").__enter__()
    monkeypatch.setenv("TERCET_ENGINE", "fast")
    with pytest.raises(tercet.InvalidOption, match="TERCET_ENGINE='fast' is not known"):
        TF.batch_triplet_loss(torch.zeros(2, 2), torch.tensor([0, 1]))


def test_without_numba_the_tiles_take_over(monkeypatch):
    from tercet.functional import triplets

    x, labels = spread_rows(12, 3, 1), torch.arange(12) // 3
    wanted = TF.batch_triplet_loss(x, labels)
    monkeypatch.setattr(triplets, "_fused_engine", lambda: None)
    torch.testing.assert_close(TF.batch_triplet_loss(x, labels), wanted)


def test_small_batches_leave_the_number_of_threads_as_it_was():
    torch.set_num_threads(2)
    try:
        for rows, labels in ((16, torch.arange(16) // 4), (16, torch.zeros(16, dtype=torch.int64))):
            x = spread_rows(rows, 4, 1).requires_grad_()
            TF.batch_triplet_loss(x, labels, reduction="none").sum().backward()
            TF.multi_sample_triplet_loss(x, labels).backward()
            assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError), _threads.on_one_core(x, None):
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_its_own_threads():
    torch.set_num_threads(2)
    try:
        x, labels = spread_rows(1500, 16, 1), torch.arange(1500) // 4
        with TF.use_engine("fused"):
            TF.batch_triplet_loss(x, labels)
        assert _threads._pool.cache_info().currsize
        child = os.fork()
        if child == 0:
            os._exit(0 if _threads._pool.cache_info().currsize == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
def test_a_margin_near_the_end_of_float32_is_left_to_the_tiles(mining):
    x, labels = spread_rows(600, 8, 1), torch.arange(600) // 4
    found = []
    for engine in ("auto", "tiles"):
        rows = x.clone().requires_grad_()
        with TF.use_engine(engine):
            loss = TF.batch_triplet_loss(rows, labels, margin=1e38, mining=mining)
        loss.backward()
        found.append((loss.item(), rows.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_sums_that_would_leave_float32_are_left_to_the_tiles():
    """Without a margin no distance is too large beside it; but its sums over a block are."""
    x, labels = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)) * 5e16, torch.arange(300) // 20
    weight = torch.ones(300)
    options = {"margin": 0.0, "reduction": "none"}
    for got, wanted in zip(*(run(e, x, labels, weight, **options) for e in ("auto", "tiles")), strict=True):
        assert wanted.isfinite().all()
        assert torch.equal(got, wanted)
    with pytest.raises(tercet.InvalidOption, match="beyond 1e30"):
        run("fused", x, labels, weight, **options)


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-38, 1e37])
@pytest.mark.parametrize("mining", ["all", "hard"])
def test_unit_rows_of_numbers_at_the_ends_of_float32(scale, mining):
    """1 / scale is beyond float32 where the scale is below 2.9e-39; the rows are as good as any others."""
    x, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) // 4
    x[::3] *= scale
    weight = torch.ones(60)
    fused, tiles = (run(e, x, labels, weight, distance="cosine", mining=mining) for e in ("fused", "tiles"))
    whole = torch.ones(60, dtype=torch.bool)
    whole[::3] = False  # the gradient of so small a row itself is beyond float32
    same((fused[0], fused[1][whole]), (tiles[0], tiles[1][whole]))
    assert tiles[1][whole].isfinite().all()


@pytest.mark.parametrize("rows_per_class", [4, 20, 60])
def test_a_first_call_in_inference_mode_does_not_spoil_the_next_step(rows_per_class):
    x, labels = spread_rows(300, 8, 1), torch.arange(300) // rows_per_class

    def first_look_then_step():
        with torch.inference_mode(), TF.use_engine("fused"):
            looked = TF.batch_triplet_loss(x, labels, margin=2.0)
        return looked.clone(), *run("fused", x, labels, None, margin=2.0)

    with ThreadPoolExecutor(1) as fresh:  # what the engine keeps it keeps per thread
        looked, loss, gradient = fresh.submit(first_look_then_step).result()
    assert looked == loss
    same([gradient], [run("tiles", x, labels, None, margin=2.0)[1]])


@pytest.mark.parametrize("default", ["dtype", "device"])
@pytest.mark.parametrize("engine", ["fused", "tiles"])
def test_torchs_defaults_for_new_tensors_do_not_matter(engine, default):
    x = spread_rows(120, 4, 1)
    wanted = [run(engine, x, torch.arange(120) // n, torch.ones(120), margin=2.0) for n in (4, 20, 60, 120)]

    def with_other_defaults():
        torch.set_default_dtype(torch.float64 if default == "dtype" else torch.float32)
        with torch.device("meta" if default == "device" else "cpu"):
            return [run(engine, x, labels, None, margin=2.0) for labels in all_labels]

    all_labels = [torch.arange(120) // n for n in (4, 20, 60, 120)]
    try:
        with ThreadPoolExecutor(1) as fresh:
            found = fresh.submit(with_other_defaults).result()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
