"""A batch sorted by class, and its distances panel by panel: what the compiled passes work on.

A panel is a block of rows against itself and all later rows, so each pair of rows is visited once.

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a panel.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.functional import _kernels
from tercet.functional._tiles import Problem

__all__ = ["Array", "SortedBatch", "share"]

Array = npt.NDArray[Any]
# Numbers in one panel: 4 MB, which stays near between the product, the pass and the two products after it.
_PANEL_NUMBERS = 1 << 20
_KINDS = {"squared": _kernels.SQUARED, "euclidean": _kernels.EUCLIDEAN, "cosine": _kernels.COSINE}


@dataclass(frozen=True)
class SortedBatch:
    """Rows sorted by class and prepared for one distance, and where each class begins and ends."""

    kind: int
    order_B: Array
    x_BD: Array
    size_B: Array
    norm_B: Array
    first_B: Array
    last_B: Array
    positive_B: Array  # how many positives; 0: no anchor
    positives: int
    largest: float  # squared norm of the largest row
    far: bool  # from the origin, beside the spread of the rows

    @classmethod
    def of(cls, x_BD: Tensor, problem: Problem) -> SortedBatch:
        labels_B = problem.relation.labels_B
        assert labels_B is not None
        rows, width = x_BD.shape
        kind = _KINDS[problem.distance]
        order_B, first_B, last_B, positive_B = np.empty((4, rows), np.int64)
        sorted_BD = np.empty((rows, width), np.float32)
        size_B, norm_B = np.empty((2, rows), np.float32)
        given_BD = x_BD.detach().contiguous().numpy()
        most = _kernels.sort_by_class(labels_B.contiguous().numpy(), order_B, first_B, last_B, positive_B)
        largest, far = _kernels.prepare_rows(given_BD, order_B, kind, sorted_BD, size_B, norm_B)
        return cls(
            kind, order_B, sorted_BD, size_B, norm_B, first_B, last_B, positive_B, most, float(largest), bool(far)
        )

    def is_plain(self, problem: Problem) -> bool:
        """Whether thresholds in float32, and one product for all negatives, are as good as the tiles' way.

        Not where rows lie far from the origin, nor where the margin is small beside the distances. What only the passes
        find is the matter of `is_lossy`.
        """
        if self.far:
            return False
        margin = problem.margin
        if isinstance(margin, Tensor):
            positive = margin[margin > 0]
            margin = float(positive.min()) if len(positive) else 0.0
        if margin is None or margin == 0:
            return True
        reach = {_kernels.SQUARED: 4 * self.largest, _kernels.EUCLIDEAN: 2 * self.largest**0.5, _kernels.COSINE: 2.0}
        return bool(reach[self.kind] * torch.finfo(torch.float32).eps <= 1e-4 * margin)

    def is_lossy(self, found: int, problem: Problem) -> bool:
        """Whether what a pass found is better left to the tiles.

        Rows of different classes that coincide are an exact tie, of which one side is rounded. For euclidean gradients
        of all triplets 1 / d enlarges the rounding of pairs that nearly coincide.
        """
        lossy = _kernels.COINCIDES
        if self.kind == _kernels.EUCLIDEAN and problem.mining == "all":
            lossy |= _kernels.NEAR
        return bool(found & lossy)

    def sorted(self, values_B: Tensor | float) -> Array:
        """A number per row, or one for all, in sorted order (float32)."""
        if isinstance(values_B, Tensor):
            ordered: Array = values_B.detach().numpy().astype(np.float32, copy=False)[self.order_B]
            return ordered
        return np.full(len(self.order_B), values_B, np.float32)

    def positive_distances(self) -> Array:
        """Distances of each anchor to its positives [B, K]; -infinity where there is none."""
        d_BK = np.empty((len(self.x_BD), self.positives), np.float32)
        share(
            lambda lo, hi, _: _kernels.positive_distances(
                self.x_BD, self.first_B, self.positive_B, self.kind, lo, hi, d_BK
            ),
            len(self.x_BD),
            self.x_BD.size * self.positives,
        )
        return d_BK

    def panels(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, dot products) of each block of rows with itself and all later rows."""
        x_BD = torch.from_numpy(self.x_BD)
        rows_in_all = len(x_BD)
        buffer = torch.empty(max(min(_PANEL_NUMBERS, rows_in_all * rows_in_all), rows_in_all))
        start = 0
        while start < rows_in_all:
            columns = rows_in_all - start
            step = min(max(1, len(buffer) // columns), columns)
            rows = slice(start, start + step)
            panel_RC = buffer[: step * columns].view(step, columns)
            torch.mm(x_BD[rows], x_BD[start:].T, out=panel_RC)
            yield rows, slice(start, rows_in_all), panel_RC
            start += step

    def pass_over(self, panel: Callable[..., int], rows: slice, panel_RC: Tensor, cost: int, *arguments: object) -> int:
        """Run one of the compiled passes over a panel, its columns shared among threads; what it found (bits).

        An argument that is a list holds one for each thread.
        """
        head = (panel_RC.numpy(), rows.start, self.x_BD, self.size_B, self.last_B, self.kind)
        found: list[int] = []

        def part(lo: int, hi: int, thread: int) -> None:
            own = (a[thread] if isinstance(a, list) else a for a in arguments)
            found.append(panel(*head, lo, hi, *own))

        share(part, panel_RC.shape[1], panel_RC.numel() * cost)
        return functools.reduce(operator.or_, found)

    def finish(self, dx_BD: Array) -> Tensor:
        """A gradient on sorted, prepared rows as one on the rows as they were given."""
        out_BD = np.empty_like(dx_BD)
        share(
            lambda lo, hi, _: _kernels.finish_rows(
                dx_BD, self.x_BD, self.norm_B, self.order_B, self.kind, lo, hi, out_BD
            ),
            len(out_BD),
            out_BD.size,
        )
        return torch.from_numpy(out_BD)


def share(work: Callable[[int, int, int], None], count: int, cost: int) -> None:
    """Call work(lo, hi, thread) over 0..count, shared among torch's number of threads where it is worth it."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2 or cost < 1 << 17:
        work(0, count, 0)
        return
    bounds = [count * h // threads for h in range(threads + 1)]
    others = [_pool(threads - 1).submit(work, bounds[h], bounds[h + 1], h) for h in range(1, threads)]
    work(bounds[0], bounds[1], 0)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="tercet-loss")


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
