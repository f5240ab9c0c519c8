"""The batch losses against one matrix product, and against a peer where one is installed.

    make bench                        or: python benchmarks/losses.py [--rows 8192] [--width 128] [--rounds 9]

The unit is one `torch.mm(x, x.T, out=buffer)` into a ready buffer, float32. Everything runs in one process, unit and
loss by turns, forward and backward together; medians of the ratios are printed, with the fastest of each. Values are
checked against the definition, or against the peer, before any time is printed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

import tercet
import tercet.functional as TF

CASES = [
    ("all", 4),
    ("all", 32),
    ("all", 256),
    ("hard", 4),
    ("semihard", 4),
    ("hard_negative", 4),
    ("easy_positive", 4),
]


def unit_rows(rows: int, width: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=1)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def step(x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
    rows = x.clone().requires_grad_()

    def work() -> None:
        rows.grad = None
        loss(rows).backward()

    return work


def check(mining: str, classes: int) -> None:
    """The fast loss is the definition on a small batch in float64, and the engines agree in float32 on a larger one."""
    x, labels = unit_rows(40, 8).double(), torch.arange(40) % min(classes, 10)
    fast = TF.batch_triplet_loss(x, labels, mining=mining)
    torch.testing.assert_close(fast, TF.reference.batch_triplet_loss(x, labels, mining=mining), rtol=1e-10, atol=1e-12)
    x, labels = unit_rows(1024, 32), torch.arange(1024) % classes
    exact = TF.batch_triplet_loss(x.double(), labels, mining=mining)
    torch.testing.assert_close(TF.batch_triplet_loss(x, labels, mining=mining).double(), exact, rtol=1e-4, atol=1e-6)


def batch_loss(x: torch.Tensor, mining: str, labels: torch.Tensor) -> torch.Tensor:
    return TF.batch_triplet_loss(x, labels, mining=mining)


def against_the_unit(rows: int, width: int, rounds: int) -> None:
    x = unit_rows(rows, width)
    buffer = torch.empty(rows, rows)
    print(f"\nratio to one product {rows} x {rows} x {width}: loss with gradient, float32")
    print(f"{'mining':<16}{'K':>5}{'median':>9}{'fastest':>9}{'unit ms':>9}")
    losses = [(mining, k, partial(batch_loss, mining=mining, labels=torch.arange(rows) // k)) for mining, k in CASES]
    losses.append(("formula 2", 4, partial(TF.multi_sample_triplet_loss, labels=torch.arange(rows) // 4)))
    for mining, k, loss in losses:
        if mining != "formula 2":
            check(mining, max(2, 1024 // k))
        work = step(x, loss)
        work()
        units, ratios = [], []
        for _ in range(rounds):
            units.append(seconds(lambda: torch.mm(x, x.T, out=buffer)))
            ratios.append(seconds(work) / units[-1])
        unit = 1e3 * statistics.median(units)
        print(f"{mining:<16}{k:>5}{statistics.median(ratios):>9.2f}{min(ratios):>9.2f}{unit:>9.1f}")


def against_a_peer(rounds: int) -> None:
    try:
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.reducers import MeanReducer
    except ImportError:
        print("\npytorch-metric-learning is not installed: no comparison with it")
        return
    print("\nall triplets, against pytorch-metric-learning without a miner, D = 128, forward and backward")
    print(f"{'B':>6}{'K':>5}{'ours ms':>10}{'theirs ms':>11}{'theirs / ours':>15}")
    peer = TripletMarginLoss(0.2, distance=LpDistance(normalize_embeddings=False, power=2), reducer=MeanReducer())
    for rows, k in ((128, 4), (256, 4), (512, 4), (1024, 4)):
        x, labels = unit_rows(rows, 128), torch.arange(rows) // k
        ours = step(x, lambda v, n=labels: TF.batch_triplet_loss(v, n))
        theirs = step(x, lambda v, n=labels: peer(v, n))
        torch.testing.assert_close(TF.batch_triplet_loss(x, labels), peer(x, labels), rtol=1e-5, atol=1e-6)
        ours(), theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        mine, other = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{rows:>6}{k:>5}{mine:>10.2f}{other:>11.2f}{ratio:>15.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    print(
        f"tercet {tercet.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    against_the_unit(chosen.rows, chosen.width, chosen.rounds)
    against_a_peer(chosen.rounds)


if __name__ == "__main__":
    main()
