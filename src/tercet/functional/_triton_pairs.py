"""The Triton kernels that add the gradient of pairs row by row: positives in their runs, and listed pairs.

Each pair is subtracted by itself, in float32, so that rows that nearly coincide lose nothing. A program owns one row of
the result (and a part of its width) and adds in a fixed order: no atomics. Offsets are int64.

Legend: K positives of the largest class, L listed pairs, S of them at a time, W width at a time.
"""

# Triton compiles these functions and infers their types itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from tercet.functional._triton_kernels import COSINE, _block, _load_rows


@triton.jit(do_not_specialize=["positives"])
def positive_pairs(
    x, first, last, self_place, other_x, other_first, other_self_place, c_table, other_c_table, dz, positives,
    KIND: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, WIDTH: tl.constexpr, S: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Add the gradient by positives to `dz`: one program per row, over the run first..last of its class.

    `c_table` holds the coefficient of each anchor-positive pair; OWN where the row is the anchor, OTHER where it is the
    positive.
    """
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * W
    at_W = start + tl.arange(0, W)
    self_row = tl.load(self_place + row)
    begin = tl.load(first + row)
    end = tl.load(last + row)
    x_W = tl.load(x + (row * WIDTH + at_W), mask=at_W < WIDTH, other=0.0).to(tl.float32)
    sum_W = tl.full([W], 0.0, tl.float32)
    for at in range(begin, end, S):
        other_S = _block(at, end, S)
        real_S = other_S >= 0
        c_S = tl.full([S], 0.0, tl.float32)
        if OWN:
            place_S = other_S - begin - ((self_row >= begin) & (self_row < other_S)).to(tl.int64)
            c_S += tl.load(c_table + (row * positives + place_S), mask=real_S & (other_S != self_row), other=0.0)
        if OTHER:
            other_self_S = tl.load(other_self_place + other_S, mask=real_S, other=-1)
            begin_S = tl.load(other_first + other_S, mask=real_S, other=0)
            place_S = row - begin_S - ((other_self_S >= begin_S) & (other_self_S < row)).to(tl.int64)
            c_S += tl.load(
                other_c_table + (other_S * positives + place_S),
                mask=real_S & (other_self_S != row) & (place_S >= 0),  # rows that are no anchors have no places
                other=0.0,
            )
        other_SW = _load_rows(other_x, other_S, real_S, start, WIDTH, W).to(tl.float32)
        if KIND == COSINE:
            sum_W -= tl.sum(c_S[:, None] * other_SW, axis=0)
        else:
            sum_W += 2.0 * tl.sum(c_S[:, None] * (x_W[None, :] - other_SW), axis=0)
    here = dz + (row * WIDTH + at_W)
    tl.store(here, tl.load(here, mask=at_W < WIDTH, other=0.0) + sum_W, mask=at_W < WIDTH)


@triton.jit
def listed_pairs(
    x, other_x, begins, other_L, c_L, dz, KIND: tl.constexpr, WIDTH: tl.constexpr, S: tl.constexpr, W: tl.constexpr
):
    """Add the gradient of listed pairs to `dz`: row r has the pairs begins[r]..begins[r + 1] of the list."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * W
    at_W = start + tl.arange(0, W)
    end = tl.load(begins + (row + 1))
    x_W = tl.load(x + (row * WIDTH + at_W), mask=at_W < WIDTH, other=0.0).to(tl.float32)
    sum_W = tl.full([W], 0.0, tl.float32)
    for at in range(tl.load(begins + row), end, S):
        pair_S = _block(at, end, S)
        real_S = pair_S >= 0
        other_S = tl.load(other_L + pair_S, mask=real_S, other=0)
        c_S = tl.load(c_L + pair_S, mask=real_S, other=0.0)
        other_SW = _load_rows(other_x, other_S, real_S, start, WIDTH, W).to(tl.float32)
        if KIND == COSINE:
            sum_W -= tl.sum(c_S[:, None] * other_SW, axis=0)
        else:
            sum_W += 2.0 * tl.sum(c_S[:, None] * (x_W[None, :] - other_SW), axis=0)
    here = dz + (row * WIDTH + at_W)
    tl.store(here, tl.load(here, mask=at_W < WIDTH, other=0.0) + sum_W, mask=at_W < WIDTH)
