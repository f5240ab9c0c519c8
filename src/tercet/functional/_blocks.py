"""A batch sorted by class, and its dot products block by block: what the compiled passes work on.

A strip is some neighbouring rows against themselves and all later rows, so each pair of rows is visited once. It is cut
into blocks so small that they stay in a core's own cache from the product through the pass to the products of the
gradient. A thread takes whole strips, and is alone with them: nothing is waited for between two products.

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a block, H threads.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.functional import _kernels
from tercet.functional._threads import ALONE, in_threads, share
from tercet.functional._tiles import Problem

__all__ = ["LARGE_CLASS", "Array", "Block", "SortedBatch"]

Array = npt.NDArray[Any]
# Rows and columns of a block, multiples of what the products' inner kernels take at a time: 460 KB, or twice as much
# where larger classes bring so many thresholds along that they should serve more rows.
_ROWS, _COLUMNS = 240, _kernels.WIDTH
_FEW_POSITIVES = 8
_PADDED = _COLUMNS + 16  # numbers from one line to the next: a power of two would halve the speed of products
LARGE_CLASS = 32  # positives from which a product by class is faster than pair by pair
_THREADS_NUMBERS = 1 << 24  # most numbers that the threads together hold for themselves per row: 64 MB
_LARGEST = 1e30  # margin or distance
_KINDS = {"squared": _kernels.SQUARED, "euclidean": _kernels.EUCLIDEAN, "cosine": _kernels.COSINE}


class Block(NamedTuple):
    """Strip number `strip` of the rows against slice number `place` of the columns.

    The lines have a fixed length; `numbers_RC` is the part of them that is filled: columns before the strip itself, at
    the beginning of its first block, are not.
    """

    strip: int
    place: int
    x_RD: Tensor
    x_CD: Tensor
    lines: Array
    numbers_RC: Tensor


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
        most: int = _kernels.sort_by_class(labels_B.contiguous().numpy(), order_B, first_B, last_B, positive_B)
        largest, far = _kernels.prepare_rows(given_BD, order_B, kind, sorted_BD, size_B, norm_B)
        return cls(
            kind, order_B, sorted_BD, size_B, norm_B, first_B, last_B, positive_B, most, float(largest), bool(far)
        )

    @property
    def reach(self) -> float:
        """No distance is larger."""
        if self.kind == _kernels.COSINE:
            return 2.0
        return 4 * self.largest if self.kind == _kernels.SQUARED else 2 * self.largest**0.5

    def overflows(self, problem: Problem) -> bool:
        """Whether sums of thresholds or distances may leave float32."""
        margin = problem.margin
        if isinstance(margin, Tensor):
            margin = float(margin.max())
        return max(margin or 0.0, self.reach) > _LARGEST

    def is_plain(self, problem: Problem) -> bool:
        """Whether thresholds in float32, and one product for all negatives, are as good as the tiles' way.

        Not where rows lie far from the origin, nor where the margin is small beside the distances. What only the passes
        find is the matter of `is_lossy`.
        """
        margin = problem.margin
        if self.far:
            return False
        if isinstance(margin, Tensor):
            positive = margin[margin > 0]
            margin = float(positive.min()) if len(positive) else 0.0
        if margin is None or margin == 0:
            return True
        return self.reach * torch.finfo(torch.float32).eps <= 1e-4 * margin

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
        if self.positives >= LARGE_CLASS:
            x_BD = torch.from_numpy(self.x_BD)

            def of_class(first: int, last: int) -> None:
                dot_NN = torch.mm(x_BD[first:last], x_BD[first:last].T).numpy()
                _kernels.positives_from_products(dot_NN, first, self.x_BD, self.size_B, self.kind, d_BK)

            self.each_class(of_class)
            return d_BK
        share(
            lambda lo, hi, _: _kernels.positive_distances(
                self.x_BD, self.first_B, self.positive_B, self.kind, lo, hi, d_BK
            ),
            len(self.x_BD),
            self.x_BD.size * self.positives,
        )
        return d_BK

    def each_class(self, work: Callable[[int, int], None]) -> None:
        """Call work(first, last) for every class, shared among threads; a row that is no anchor is a class alone."""
        bounds = np.flatnonzero(np.diff(self.first_B, prepend=-1, append=-1)).tolist()
        classes = list(itertools.pairwise(bounds))
        threads = min(torch.get_num_threads(), len(classes))

        def of_thread(thread: int) -> None:
            for first, last in classes[thread::threads]:
                work(first, last)

        in_threads(of_thread, threads)

    def threads(self, numbers_per_row: int) -> int:
        """How many threads are worth it, where each of them keeps so many numbers per row for itself."""
        rows, width = self.x_BD.shape
        if rows * rows * (width + 4 * self.positives) < ALONE:
            return 1
        strips, most = -(-rows // self.strip_rows), _THREADS_NUMBERS // (rows * numbers_per_row)
        return int(max(1, min(torch.get_num_threads(), strips, most)))

    @property
    def strip_rows(self) -> int:
        """Rows of a strip."""
        return _ROWS if self.positives <= _FEW_POSITIVES else 2 * _ROWS

    @property
    def places(self) -> int:
        """Into how many slices the columns are cut."""
        return -(-len(self.x_BD) // _COLUMNS)

    def in_strips(self, rows_BD: Tensor) -> Sequence[Tensor]:
        """Rows, strip by strip."""
        return rows_BD.tensor_split(tuple(range(self.strip_rows, len(rows_BD), self.strip_rows)))

    def in_places(self, rows_BD: Tensor) -> Sequence[Tensor]:
        """Rows as slices of the columns."""
        return rows_BD.tensor_split(tuple(range(_COLUMNS, len(rows_BD), _COLUMNS)))

    def sweep(self, visit: Callable[[int, Block], bool], threads: int) -> bool:
        """Call visit(thread, block) for every block; False as soon as one visit says so.

        The strips of a thread are a function of the numbers alone, so that sums come out the same at every call.
        """
        x_BD = torch.from_numpy(self.x_BD)
        strips, places = self.in_strips(x_BD), self.in_places(x_BD)
        going = [True]

        def of_thread(thread: int) -> None:
            lines_array = _scratch(self.strip_rows)
            lines = torch.from_numpy(lines_array)
            for strip, x_RD in enumerate(strips):
                turn = strip % (2 * threads)  # there and back, as later strips are shorter
                if thread != min(turn, 2 * threads - 1 - turn):
                    continue
                for place in range(strip * self.strip_rows // _COLUMNS, len(places)):
                    x_CD, before = places[place], max(0, strip * self.strip_rows - place * _COLUMNS)
                    numbers_RC = lines[: len(x_RD), before : len(x_CD)]
                    x_CD = x_CD[before:]
                    torch.mm(x_RD, x_CD.T, out=numbers_RC)
                    block = Block(strip, place, x_RD, x_CD, lines_array, numbers_RC)
                    going[0] = going[0] and visit(thread, block)
                    if not going[0]:
                        return

        in_threads(of_thread, threads)
        return going[0]

    def look(self, compiled_pass: Callable[..., int], block: Block, *arguments: object) -> int:
        """Run one of the compiled passes over a block; what it found (bits)."""
        left = block.place * _COLUMNS
        found: int = compiled_pass(
            *(block.lines, block.strip * self.strip_rows, len(block.x_RD), left, min(_COLUMNS, len(self.x_BD) - left)),
            *(self.x_BD, self.size_B, self.last_B, self.kind, *arguments),
        )
        return found

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


def _scratch(rows: int) -> Array:
    """The thread's own lines for one block (at most 1 MB), kept from call to call.

    An array: a tensor that is made inside `torch.inference_mode` could not be written to outside it.
    """
    if len(getattr(_own, "lines", ())) < rows:
        _own.lines = np.zeros((-(-rows // 4) * 4, _PADDED), np.float32)  # the passes take up to four lines at a time
    lines: Array = _own.lines
    return lines


_own = threading.local()
