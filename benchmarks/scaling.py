"""What a divided step costs: bytes sent by real processes against the model, and memory and time of chunks.

    python benchmarks/scaling.py bytes [--processes 1 2 4] [--rows 512] [--width 128]
    python benchmarks/scaling.py chunks [--rows 2048] [--chunk 64]

`bytes` starts W processes over gloo and reads from each of their TCP connections what the system has counted (Linux).
The same step is taken twice as often the second time, so that what is sent once at the start drops out. `chunks` takes
one step of the encoder for 64 x 64 pictures, whole and in chunks, each in a fresh process: its peak memory above that
before the step, and the processor time of a second step. docs/scaling.md has the model and a measurement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed

from tercet.encoders import ConvEncoderConfig
from tercet.losses import TripletLoss
from tercet.train.ranks import Ranks, share
from tercet.train.step import DividedStep

SENT = 200  # offset of tcpi_bytes_sent in Linux's struct tcp_info


def sent() -> int:
    """Bytes that this process has sent over its TCP connections."""
    total = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += int.from_bytes(info[SENT : SENT + 8], "little")
        except OSError:
            continue  # no socket, or one that listens
    return total


def counting(rank: int, size: int, rows: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    encoder = torch.nn.Linear(200, width)
    step = DividedStep(encoder, encoder, Ranks())
    inputs, labels = torch.randn(rows, 200), torch.arange(rows) // 4

    def take(steps: int) -> int:
        before = sent()
        for _ in range(steps):
            step.backward(lambda part: inputs[part], rows, lambda x: TripletLoss()(x, labels), seed=lambda row: row)
        distributed.barrier()
        return sent() - before

    take(1)
    once, twice = take(5), take(10)
    with Path(folder, f"{rank}.json").open("w") as file:
        json.dump((twice - once) / 5, file)
    distributed.barrier()
    distributed.destroy_process_group()


def count_bytes(sizes: list[int], rows: int, width: int) -> None:
    parameters = 200 * width + width
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            words = [(rank, size, rows, width, folder) for rank in range(size)]
            run([multiprocessing.get_context("spawn").Process(target=counting, args=each) for each in words])
            measured = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
        most = share(rows, 0, size).stop
        gather, summed = 4 * (size - 1) * most * width, 8 * (size - 1) / size * parameters
        print(
            f"W {size}  B {rows}  D {width}  P {parameters}: model {gather:,.0f} + {summed:,.0f} = "
            f"{gather + summed:,.0f} bytes a process and step, measured {min(measured):,.0f} to {max(measured):,.0f}"
        )


def stepping(rows: int, chunk: int | None, pipe) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = ConvEncoderConfig(3, 64, 64).build()
    step = DividedStep(encoder, encoder, Ranks(), chunk=chunk)
    labels = torch.arange(rows) // 4

    def inputs(part: slice) -> torch.Tensor:
        return torch.randn(part.stop - part.start, 3, 64, 64, generator=torch.Generator().manual_seed(part.start))

    def take(some: int) -> float:
        before = time.process_time()
        step.backward(inputs, some, lambda x: TripletLoss()(x, labels[:some]), seed=lambda row: row)
        return time.process_time() - before

    take(8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    take(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    pipe.send((peak / 1024, take(rows)))


def compare_chunks(rows: int, chunk: int) -> None:
    context = multiprocessing.get_context("spawn")
    found = {}
    for each in (None, chunk):
        ours, theirs = context.Pipe()
        run([context.Process(target=stepping, args=(rows, each, theirs))])
        found[each] = ours.recv()
        print(f"{rows} rows, chunk {each}: {found[each][0]:,.0f} MiB, {found[each][1]:.1f} s of processor time")
    print(f"ratio of time {found[chunk][1] / found[None][1]:.2f}")


def run(processes: list[multiprocessing.Process]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bytes", "chunks"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64)
    given = parser.parse_args()
    if given.what == "bytes":
        count_bytes(given.processes, given.rows or 512, given.width)
    else:
        compare_chunks(given.rows or 2048, given.chunk)


if __name__ == "__main__":
    main()
