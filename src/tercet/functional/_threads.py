"""Threads of the engine: torch's number of them, each kept to one core, and one core alone for what is small.

Legend: B rows, M other rows, D width.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["ALONE", "in_threads", "on_one_core", "share"]

ALONE = 1 << 25  # multiplications below which threads cost more than they bring
_SHARED = 1 << 17  # the same for passes over rows


@contextlib.contextmanager
def on_one_core(x_BD: Tensor, y_MD: Tensor | None) -> Iterator[None]:
    """Let torch work in the calling thread alone where the batch is small.

    To wake the others takes up to 0.5 ms an operation, several times as long as a product of 128 rows.
    torch's number is the process's: a thread that first uses torch in just that moment keeps to one core.
    """
    threads = torch.get_num_threads()
    rows = len(x_BD) if y_MD is None else len(y_MD)
    if threads == 1 or x_BD.device.type != "cpu" or x_BD.numel() * rows >= ALONE:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def share(work: Callable[[int, int, int], None], count: int, cost: int) -> None:
    """Call work(lo, hi, thread) over 0..count, shared among torch's number of threads where it is worth it."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2 or cost < _SHARED:
        work(0, count, 0)
        return
    bounds = [count * h // threads for h in range(threads + 1)]
    others = [_pool(torch.get_num_threads()).submit(work, bounds[h], bounds[h + 1], h) for h in range(1, threads)]
    work(bounds[0], bounds[1], 0)
    for other in others:
        other.result()


def in_threads(work: Callable[[int], object], threads: int) -> None:
    """Call work(thread) for each, in threads in which torch keeps to one core; a single one in the caller's."""
    if threads == 1:
        work(0)
        return
    for done in [_pool(torch.get_num_threads()).submit(work, thread) for thread in range(threads)]:
        done.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch keeps to one core each; the caller's own number stays as it is."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tercet-loss", initializer=_keep_to_one_core)
    ready = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(threads)  # else threads that are born later would take over what the pool's were told
    return pool


def _keep_to_one_core() -> None:
    torch.get_num_threads()  # the first question in a thread sets its number to the process's, so it is asked before
    torch.set_num_threads(1)


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
