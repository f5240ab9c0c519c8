"""The batch loss on a GPU against one bfloat16 product, recorded as JSON.

    python benchmarks/gpu.py [--device cuda] [--rounds 20] [--out benchmarks/results]

The unit is `torch.mm(x, x.T, out=buffer)` in bfloat16 at B = 32768, D = 128. Measured: loss with gradient, K = 8, in
bfloat16 and float32, several selections; and B = 262144, whose product alone would need 137 GB. Unit and loss run by
turns; medians. Each file holds device, torch, triton, commit, date, times in milliseconds, ratios, and the extra peak
memory in bytes. Values are checked against the tiles in float64 before any time is taken.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import tercet
import tercet.functional as TF
from tercet.run.files import write_json

WIDTH = 128
CLASS_SIZE = 8
ROWS = 32_768
MANY_ROWS = 262_144
CASES = [
    ("all", torch.bfloat16),
    ("all", torch.float32),
    ("hard", torch.bfloat16),
    ("semihard", torch.bfloat16),
    ("hard_negative", torch.bfloat16),
]


def batch(rows: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows around one centre per class, as an embedding in training has them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) // CLASS_SIZE
    centres = torch.randn(rows // CLASS_SIZE, WIDTH, generator=generator)
    x = torch.nn.functional.normalize(centres[labels] + torch.randn(rows, WIDTH, generator=generator), dim=1)
    return x.to(device, dtype).requires_grad_(), labels.to(device)


def milliseconds(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def step(x: torch.Tensor, labels: torch.Tensor, mining: str) -> Callable[[], object]:
    def work() -> None:
        x.grad = None
        TF.batch_triplet_loss(x, labels, mining=mining).backward()

    return work


def check(mining: str, dtype: torch.dtype, device: str) -> None:
    x, labels = batch(2048, dtype, device)
    with TF.use_engine("triton"):
        got = TF.batch_triplet_loss(x, labels, mining=mining)
    with TF.use_engine("tiles"):
        exact = TF.batch_triplet_loss(x.double(), labels, mining=mining)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-6)


def measure(rows: int, mining: str, dtype: torch.dtype, device: str, rounds: int) -> dict[str, object]:
    """Medians of one case; the unit only where its product fits."""
    x, labels = batch(rows, dtype, device)
    work = step(x, labels, mining)
    work()  # compiles the kernels
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    half = x.detach().to(torch.bfloat16)
    buffer = torch.empty(rows, rows, dtype=torch.bfloat16, device=device) if rows <= ROWS else None
    units, times = [], []
    for _ in range(rounds):
        if buffer is not None:
            units.append(milliseconds(lambda: torch.mm(half, half.T, out=buffer)))
        times.append(milliseconds(work))
    median = statistics.median(times)
    unit = statistics.median(units) if units else None
    name = f"{mining} {str(dtype).removeprefix('torch.')}"
    return {
        "case": name,
        "rows": rows,
        "width": WIDTH,
        "class_size": CLASS_SIZE,
        "median_ms": median,
        "unit_ms": unit,
        "ratio": None if unit is None else median / unit,
        "extra_bytes": extra,
    }


def described(device: str) -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    return {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "triton": triton,
        "tercet": tercet.__version__,
        "commit": commit.stdout.strip() or None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not (chosen.device.startswith("cuda") and torch.cuda.is_available()):
        print(f"no CUDA device ({chosen.device!r}): nothing measured, nothing written", file=sys.stderr)
        return 1
    torch.cuda.set_device(chosen.device)
    record = described(chosen.device)
    results = []
    for rows, cases in ((ROWS, CASES), (MANY_ROWS, CASES[:1])):
        for mining, dtype in cases:
            check(mining, dtype, chosen.device)
            results.append(measure(rows, mining, dtype, chosen.device, chosen.rounds if rows == ROWS else 3))
            print(json.dumps(results[-1]))
            torch.cuda.empty_cache()
    name = "-".join(str(record["device"]).lower().split())
    path = chosen.out / f"gpu-{name}-{record['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "results": results})
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
