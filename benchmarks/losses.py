"""The batch losses against one matrix product: the ratios that docs/log.md keeps.

    make bench                  or: python benchmarks/losses.py [--rows 8192] [--width 128] [--rounds 7] [--threads 2]

The unit is one `torch.mm(x, x.T, out=buffer)` into a ready buffer, float32. Unit and loss run by turns in one process,
forward and backward together; printed are the median and the least of the ratios. Before any time is taken, each
loss and its gradient are compared with the definition on a small batch in float64. A minute on two idle cores; peers,
memory and the largest batch are in `tercet bench losses`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

import tercet
import tercet.functional as TF

CASES = (
    ("all", 4),
    ("all", 32),
    ("all", 256),
    ("hard", 4),
    ("semihard", 4),
    ("hard_negative", 4),
    ("easy_positive", 4),
    ("formula 2", 4),
)


def loss_of(case: str, x_BD: torch.Tensor, labels_B: torch.Tensor, module: object = TF) -> torch.Tensor:
    if case == "formula 2":
        return module.multi_sample_triplet_loss(x_BD, labels_B)
    return module.batch_triplet_loss(x_BD, labels_B, mining=case)


def check(case: str) -> None:
    """Loss and gradient are the definition's."""
    x_BD = torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels_B = torch.arange(24) // 3
    gradients = []
    for module in (TF, TF.reference):
        rows_BD = x_BD.clone().requires_grad_()
        loss = loss_of(case, rows_BD, labels_B, module)
        loss.backward()
        gradients.append((loss.detach(), rows_BD.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"tercet {tercet.__version__}, torch {torch.__version__}, {platform.machine()}, {args.threads} threads{load}")
    print(f"B = {args.rows}, D = {args.width}, float32, loss and gradient; unit: one product\n")
    x_BD = torch.randn(args.rows, args.width, generator=torch.Generator().manual_seed(0))
    x_BD = torch.nn.functional.normalize(x_BD, dim=1)
    buffer_BB = torch.empty(args.rows, args.rows)
    rows_BD = x_BD.clone().requires_grad_()
    print(f"{'loss':16}{'K':>5}{'median':>9}{'least':>8}{'unit, ms':>10}")
    for case, samples in CASES:
        check(case)
        labels_B = torch.arange(args.rows) // samples

        def unit() -> None:
            torch.mm(x_BD, x_BD.T, out=buffer_BB)

        def step(case: str = case, labels_B: torch.Tensor = labels_B) -> None:
            rows_BD.grad = None
            loss_of(case, rows_BD, labels_B).backward()

        for work in (unit, step):
            work()
        units, ratios = [], []
        for _ in range(args.rounds):
            units.append(seconds(unit))
            ratios.append(seconds(step) / units[-1])
        unit_ms = 1000 * statistics.median(units)
        print(f"{case:16}{samples:5}{statistics.median(ratios):9.2f}{min(ratios):8.2f}{unit_ms:10.0f}", flush=True)


if __name__ == "__main__":
    main()
