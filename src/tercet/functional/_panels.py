"""A batch sorted by class, and its distances panel by panel: what the compiled passes work on.

A panel is a block of rows against itself and all later rows, so each pair of rows is visited once.

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a panel, H threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.functional import _kernels
from tercet.functional._tiles import Problem, Sums
from tercet.functional.distances import Geometry

__all__ = ["SortedBatch", "share"]

# Numbers in one panel: 8 MB, which stays in the last cache between the product, the pass and the two products after it.
_PANEL_NUMBERS = 1 << 21
_KINDS = {"squared": _kernels.SQUARED, "euclidean": _kernels.EUCLIDEAN, "cosine": _kernels.COSINE}


@dataclass(frozen=True)
class SortedBatch:
    """Rows sorted by class, and where each class begins and ends."""

    geometry: Geometry
    kind: int
    order_B: Tensor
    x_BD: Tensor
    size_B: Tensor
    first_B: Tensor
    last_B: Tensor
    anchor_B: Tensor
    positives: int

    @classmethod
    def of(cls, x_BD: Tensor, problem: Problem) -> SortedBatch:
        labels_B = problem.relation.labels_B
        assert labels_B is not None
        geometry = Geometry(x_BD.detach(), None, problem.distance)
        sorted_B, order_B = labels_B.sort(stable=True)
        place_B = torch.arange(len(labels_B))
        begins_B = torch.ones_like(sorted_B, dtype=torch.bool)
        begins_B[1:] = (sorted_B[1:] != sorted_B[:-1]) | (sorted_B[1:] < 0)  # negative-only rows: each a class alone
        first_B = torch.where(begins_B, place_B, 0).cummax(0).values
        starts = torch.nonzero(begins_B).squeeze(1)
        ends = torch.cat([starts[1:], torch.tensor([len(labels_B)])])
        last_B = ends[begins_B.cumsum(0) - 1]
        positive_B = last_B - first_B - 1
        anchor_B = (positive_B > 0) & (positive_B + 1 < len(labels_B)) & (sorted_B >= 0)
        return cls(
            geometry=geometry,
            kind=_KINDS[problem.distance],
            order_B=order_B,
            x_BD=geometry.x_BD[order_B],
            size_B=geometry.y_square_M[order_B],
            first_B=first_B,
            last_B=last_B,
            anchor_B=anchor_B,
            positives=int((positive_B * anchor_B).max()) if len(labels_B) else 0,
        )

    def is_plain(self, problem: Problem) -> bool:
        """Whether thresholds in float32, and one product for all negatives, are as good as the tiles' way.

        Not where rows lie far from the origin, where the margin is small beside the distances, where rows of different
        classes coincide (an exact tie, of which one side would be rounded), nor for euclidean gradients of all
        triplets, where 1 / d enlarges the rounding of pairs that nearly coincide.
        """
        if self.geometry.centre_D is not None or (self.kind == _kernels.EUCLIDEAN and problem.mining == "all"):
            return False
        if problem.margin is not None:
            margin = torch.as_tensor(problem.margin)
            positive = margin[margin > 0]
            largest = float(self.size_B.max())
            reach = {_kernels.SQUARED: 4 * largest, _kernels.EUCLIDEAN: 2 * largest**0.5, _kernels.COSINE: 2.0}
            if positive.numel() and reach[self.kind] * torch.finfo(torch.float32).eps > 1e-4 * float(positive.min()):
                return False
        mixed_D = torch.linspace(1.0, 2.0, self.x_BD.shape[1], dtype=torch.float64).sin()
        key_B, order_B = (self.x_BD.to(torch.float64) * mixed_D).sum(1).sort()
        class_B = self.first_B[order_B]
        return not bool(((key_B[1:] == key_B[:-1]) & (class_B[1:] != class_B[:-1])).any())

    def positive_distances(self) -> Tensor:
        """Distances of each anchor to its positives [B, K]; -infinity where there is none."""
        d_BK = torch.full((len(self.x_BD), self.positives), -torch.inf)
        arrays = [t.numpy() for t in (self.x_BD, self.first_B, self.last_B)]
        last = torch.where(self.anchor_B, self.last_B, self.first_B + 1).numpy()
        share(
            lambda lo, hi, _: _kernels.positive_distances(arrays[0], arrays[1], last, self.kind, lo, hi, d_BK.numpy()),
            len(self.x_BD),
            self.x_BD.numel() * self.positives,
        )
        return d_BK

    def real_positives(self) -> Tensor:
        """Which entries of [B, K] stand for a positive of an anchor."""
        count_B = torch.where(self.anchor_B, self.last_B - self.first_B - 1, 0)
        return torch.arange(self.positives) < count_B.unsqueeze(1)

    def panels(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, dot products) of each block of rows with itself and all later rows."""
        rows_in_all = len(self.x_BD)
        buffer = torch.empty(max(min(_PANEL_NUMBERS, rows_in_all * rows_in_all), rows_in_all))
        start = 0
        while start < rows_in_all:
            columns = rows_in_all - start
            step = min(max(1, len(buffer) // columns), columns)
            rows = slice(start, start + step)
            panel_RC = buffer[: step * columns].view(step, columns)
            torch.mm(self.x_BD[rows], self.x_BD[start:].T, out=panel_RC)
            yield rows, slice(start, rows_in_all), panel_RC
            start += step

    def pass_over(
        self,
        panel: Callable[..., None],
        rows: slice,
        panel_RC: Tensor,
        columns_at_once: int,
        whole: Sequence[Tensor],
        of_rows: Sequence[Tensor],
        of_columns: Sequence[Tensor],
        cost: int,
    ) -> None:
        """Run one of the compiled passes over a panel, its columns shared among threads.

        `whole` are read; `of_rows` [H, ...] hold what each thread says of rows, `of_columns` what is said of columns.
        """
        arguments = (self.x_BD, self.size_B, self.first_B, self.last_B)
        head = (panel_RC.numpy(), rows.start, *(t.numpy() for t in arguments), self.kind)
        tail = [t.numpy() for t in of_columns]
        read, own = [t.numpy() for t in whole], [t.numpy() for t in of_rows]

        def part(lo: int, hi: int, thread: int) -> None:
            panel(*head, lo, hi, columns_at_once, *read, *(array[thread] for array in own), *tail)

        share(part, panel_RC.shape[1], panel_RC.numel() * cost)

    def finish(self, sums: Sums) -> Sums:
        """From sorted order to the order given, and from prepared rows to the rows as they were given."""
        back_B = torch.empty_like(self.order_B)
        back_B[self.order_B] = torch.arange(len(self.order_B))
        dx_BD = None if sums.dx_BD is None else self.geometry.back_rows(sums.dx_BD[back_B])
        return Sums(sums.loss_B[back_B], sums.kept_B[back_B], sums.active_B[back_B], dx_BD, None)


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
