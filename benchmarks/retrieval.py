"""Exact retrieval in tiles against the plain product and top-k, time and memory.

    python benchmarks/retrieval.py [--rows 10000] [--width 512] [--rounds 5] [--threads 1]
    python benchmarks/retrieval.py --rows 60000 --rounds 1        the size of Stanford Online Products

The plain way is what one writes first: a float32 product of 1,024 queries at a time with the whole gallery, and
torch.topk. It breaks ties at random and leaves the query itself among its results. Both are timed interleaved in one
process, as processor time, so that other work on the machine does not count; memory is the growth of the resident set's
peak in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tercet.evaluate import retrieval

CLASS = 5


def samples(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(rows) // CLASS
    x = random.normal(size=(labels[-1] + 1, width)).astype(np.float32)[labels]
    x += 1.5 * random.normal(size=x.shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def plain(x_ND: np.ndarray, labels_N: np.ndarray, k: int = 11) -> float:
    x, labels = torch.from_numpy(x_ND), torch.from_numpy(labels_N)
    hits = 0
    for start in range(0, len(x), 1024):
        found = torch.topk(x[start : start + 1024] @ x.T, k).indices[:, 1:2]
        hits += int((labels[found[:, 0]] == labels[start : start + 1024]).sum())
    return hits / len(x)


def used(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peak() -> float:
    """The resident set's peak in MiB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def grown(way: str, rows: int, width: int, threads: int) -> float:
    """MiB by which a way's peak exceeds what the data alone take."""
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--rows", str(rows), "--width", str(width), "--threads", str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=["plain", "tercet"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x, labels = samples(given.rows, given.width)
    ways = {"plain": lambda: plain(x, labels), "tercet": lambda: retrieval(x, labels)}
    if given.way:
        retrieval(x[:4096], labels[:4096])  # what is loaded on first use is not counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
        before = peak()
        ways[given.way]()
        print(peak() - before)
        return
    plain(x[:2048], labels[:2048])
    retrieval(x[:4096], labels[:4096])
    times = [(used(ways["plain"]), used(ways["tercet"])) for _ in range(given.rounds)]
    ratio = statistics.median(own / other for other, own in times)
    for place, name in enumerate(ways):
        memory = grown(name, given.rows, given.width, given.threads)
        median = statistics.median(pair[place] for pair in times)
        print(f"{name:8s} {median:8.2f} s processor time, {memory:7.0f} MiB beyond the data")
    print(f"ratio {ratio:.2f} (median of {given.rounds}), {given.rows} x {given.width}, {given.threads} thread(s)")


if __name__ == "__main__":
    main()
