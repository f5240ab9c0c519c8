"""No tensor and no array grows with the square of the batch, whatever the option; peak memory at full size."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tercet.functional as TF
from tercet.functional import _tiles, margin
from tercet.functional.options import MINING

B, D = 640, 4
LIMIT = B * B // 4  # far above everything that is linear in B here, far below B x B


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any torch operation makes, views of small storage apart."""

    def __init__(self):
        super().__init__()
        self.numbers, self.name = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                numbers = leaf.untyped_storage().nbytes() // leaf.element_size()
                if numbers > self.numbers:
                    self.numbers, self.name = numbers, str(func)
        return result


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and blocks as small beside this batch as the real ones are beside a large one."""
    monkeypatch.setattr(_tiles, "TILE_NUMBERS", LIMIT // 8)
    monkeypatch.setattr(margin, "TILE_NUMBERS", LIMIT // 8)
    for function in (_tiles.tiles, _tiles.reduce_triplets):
        defaults = tuple(LIMIT // 8 if value == 1 << 21 else value for value in function.__defaults__ or ())
        monkeypatch.setattr(function, "__defaults__", defaults)
        changed = {k: LIMIT // 8 if v == 1 << 21 else v for k, v in (function.__kwdefaults__ or {}).items()}
        monkeypatch.setattr(function, "__kwdefaults__", changed)
    monkeypatch.setattr(_tiles._pieces, "__defaults__", (LIMIT // 8,))
    monkeypatch.setattr("tercet.functional.distances._DIRECT_NUMBERS", LIMIT // 8)
    blocks = pytest.importorskip("tercet.functional._blocks")
    monkeypatch.setattr(blocks, "_ROWS", max(4, LIMIT // 8 // blocks._PADDED))
    monkeypatch.setattr(blocks, "_own", threading.local())


def rows(dtype=torch.float32, width=D):
    x = torch.randn(B, width, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(x, dim=1), torch.arange(B) // 4


def same_class(anchor_rows, other_rows):
    same = (anchor_rows // 4).unsqueeze(1) == other_rows // 4
    return torch.where(same, 1, -1).to(torch.int8)


def loss_options():
    for mining in MINING:
        yield {"mining": mining}
        yield {"mining": mining, "margin": "soft"}
        yield {"mining": mining, "swap": True}
        yield {"mining": mining, "relation": same_class}
        yield {"mining": mining, "reference": True}
    for distance in ("euclidean", "cosine"):
        yield {"distance": distance}
    for reduction in ("none", "anchor", "active"):
        yield {"reduction": reduction}


def option_id(options):
    return "-".join(f"{k}={getattr(v, '__name__', v)}" for k, v in options.items())


@pytest.mark.parametrize("options", list(loss_options()), ids=option_id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient(options, dtype, small_tiles):
    x, labels = rows(dtype)
    options = dict(options)
    if options.pop("reference", False):
        options |= {"reference": x.clone().requires_grad_(), "reference_labels": labels}
    x = x.requires_grad_()
    with Largest() as seen:
        TF.batch_triplet_loss(x, labels, **options).sum().backward()
    assert 0 < seen.numbers < LIMIT, seen.name


@pytest.mark.parametrize("classes", [2, 5, 160])
def test_large_and_small_classes(classes, small_tiles, monkeypatch):
    """B K is allowed where K is the size of a class; B x B is not, nor arrays of numpy of that size."""
    pytest.importorskip("numba")
    made = []
    for name in ("empty", "zeros", "full", "empty_like", "zeros_like", "where", "repeat"):
        real = getattr(np, name)

        def noted(*args, real=real, **kwargs):
            array = real(*args, **kwargs)
            made.append(array.size)
            return array

        monkeypatch.setattr(np, name, noted)
    monkeypatch.setattr("tercet.functional._fused._KEPT_NUMBERS", 8 * B)
    x, labels = rows()[0].requires_grad_(), torch.arange(B) % classes
    for mining in ("all", "semihard", "hard"):
        with Largest() as seen:
            TF.batch_triplet_loss(x, labels, mining=mining).backward()
        if classes == 160:
            assert 0 < max(made) < LIMIT
            assert seen.numbers < LIMIT, seen.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
def test_the_other_functions(distance, dtype, small_tiles):
    x, labels = rows(dtype)
    x.requires_grad_()
    with Largest() as seen:
        TF.multi_sample_triplet_loss(x, labels, distance=distance).backward()
        TF.census(x, labels, distance=distance)
        TF.margin_curve(x, labels, [0.0, 0.2, 1.0], distance=distance)
    assert 0 < seen.numbers < LIMIT, seen.name


@pytest.mark.parametrize("mining", [m for m in MINING if m != "all"])
def test_mine_needs_its_lists_and_a_tile(mining, small_tiles):
    x, labels = rows()
    with Largest() as seen:
        TF.mine(x, labels, mining=mining)
    assert 0 < seen.numbers < LIMIT, seen.name


PEAK = """
import resource, sys, torch
import tercet.functional as TF
torch.set_num_threads(2)
def run(rows):
    x = torch.nn.functional.normalize(torch.randn(rows, 64), dim=1).requires_grad_()
    labels = torch.arange(rows) // 8
    options = eval(sys.argv[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TF.batch_triplet_loss(x, labels, **options).sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
run(512)
print(run(32768))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
@pytest.mark.parametrize(
    "options",
    [{"mining": m} for m in ("all", "hard", "semihard", "hard_negative", "easy_positive", "random")]
    + [{"mining": "hard", "swap": True}, {"distance": "euclidean"}],
    ids=str,
)
def test_full_size_stays_within_128_mb(options):
    done = subprocess.run([sys.executable, "-c", PEAK, repr(options)], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 128, f"{done.stdout.strip()} MB"
