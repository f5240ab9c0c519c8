"""The Triton kernels that pass over tiles of distances: positives, all triplets, nearest negatives.

Rows of both sides are sorted by class. A program owns a block of R rows and passes over all C others, N at a time; what
it adds up it alone writes, in a fixed order and without atomics, so the same call gives the same bits. A tile [R, N] of
distances lives in registers; nothing of size rows x others is stored. Offsets are int64 throughout.

With `OWN` the rows of the block are anchors; with `OTHER` the columns are. A batch against itself has both, so that the
gradient of a row is complete in its own program (the tile is symmetric: what a column says of this row as its negative
is a comparison with that column's thresholds). A reference has `OWN` for the batch and, in a second launch with the
sides exchanged, `OTHER` for the reference.

Legend: R rows of a block, N columns at a time, D width, W width at a time in
the distances and V in the gradient, K positives of the largest class, P of them
at a time.
"""

# Triton compiles these functions and infers their types itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

# Kinds of distance.
SQUARED: tl.constexpr = tl.constexpr(0)
EUCLIDEAN: tl.constexpr = tl.constexpr(1)
COSINE: tl.constexpr = tl.constexpr(2)
# How a tile of coefficients enters its product with the rows.
PLAIN: tl.constexpr = tl.constexpr(0)  # float32 rows
WHOLE: tl.constexpr = tl.constexpr(1)  # half rows; the coefficients are whole numbers that the half format holds
SPLIT: tl.constexpr = tl.constexpr(2)  # bfloat16 rows; coefficients as a sum of two bfloat16
WIDEN: tl.constexpr = tl.constexpr(3)  # float16 rows, whose range the coefficients may leave: made float32
# As in `distances`: below this share of |a|^2 + |b|^2 a pair is repeated directly; below its square (of d^2) so is its
# euclidean gradient.
CLOSE: tl.constexpr = tl.constexpr(0.01)
NO_NAME: tl.constexpr = tl.constexpr(2147483647)
# Counts that change from call to call are not specialized on: they get no compiled kernel of their own.


@triton.jit
def _load_rows(pointer, row_R, real_R, start, WIDTH: tl.constexpr, W: tl.constexpr):
    """Columns start.. of the listed rows [R, W]; 0 beyond them."""
    at_W = start + tl.arange(0, W)
    return tl.load(
        pointer + (row_R[:, None] * WIDTH + at_W[None, :]), mask=real_R[:, None] & (at_W < WIDTH)[None, :], other=0.0
    )


@triton.jit
def _product(a_RW, b_WN, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:  # the interpreter multiplies the bits of bfloat16
        a_RW = a_RW.to(tl.float32)
        b_WN = b_WN.to(tl.float32)
    return tl.dot(a_RW, b_WN, input_precision=PRECISION)


@triton.jit
def _distances(
    x, z, other_x, other_z, z_RW, z_NW, size_R, size_N, row_R, column_N, wanted_RN,
    KIND: tl.constexpr, WIDTH: tl.constexpr, W: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Distances [R, N], the same bits wherever a pair stands in its tile, and whichever of the two is the row.

    `z` are the rows that enter products, of which the first W columns are at hand; `x` those that are subtracted, for
    the close pairs among the wanted ones. `size` is |z|^2, or for cosine 1 / |z|.
    """
    dot_RN = _product(z_RW, tl.trans(z_NW), PRECISION, UPCAST)
    for start in range(W, WIDTH, W):
        a_RW = _load_rows(z, row_R, row_R >= 0, start, WIDTH, W)
        b_NW = _load_rows(other_z, column_N, column_N >= 0, start, WIDTH, W)
        dot_RN += _product(a_RW, tl.trans(b_NW), PRECISION, UPCAST)
    if KIND == COSINE:
        d_RN = 1.0 - dot_RN * (size_R[:, None] * size_N[None, :])
    else:
        both_RN = size_R[:, None] + size_N[None, :]
        d_RN = tl.maximum(both_RN - 2.0 * dot_RN, 0.0)
        close_RN = (wanted_RN & (d_RN < both_RN * CLOSE)).to(tl.int32)
        close_N = tl.max(close_RN, axis=0)
        if tl.max(close_N, axis=0) > 0:
            at_N = tl.arange(0, N)
            for n in range(N):
                here_N = at_N == n
                if tl.max(tl.where(here_N, close_N, 0), axis=0) > 0:
                    column_1 = tl.max(tl.where(here_N, column_N, -1), axis=0)
                    direct_R = tl.full(size_R.shape, 0.0, tl.float32)
                    for start in range(0, WIDTH, W):
                        at_W = start + tl.arange(0, W)
                        a_RW = _load_rows(x, row_R, row_R >= 0, start, WIDTH, W).to(tl.float32)
                        b_W = tl.load(other_x + (column_1 * WIDTH + at_W), mask=at_W < WIDTH, other=0.0).to(tl.float32)
                        gap_RW = a_RW - b_W[None, :]
                        direct_R += tl.sum(gap_RW * gap_RW, axis=1)
                    d_RN = tl.where((close_RN > 0) & here_N[None, :], direct_R[:, None], d_RN)
        if KIND == EUCLIDEAN:
            d_RN = tl.sqrt_rn(d_RN)
    return d_RN


@triton.jit
def _block(at, count, R: tl.constexpr):
    """Rows at.. of `count`, as int64, -1 beyond the end."""
    row_R = at + tl.arange(0, R).to(tl.int64)
    return tl.where(row_R < count, row_R, -1)


@triton.jit(do_not_specialize=["rows", "columns", "positives"])
def positive_distances(
    x, z, size, self_place, first, last, other_x, other_z, other_size,
    d_table, rows, columns, positives,
    KIND: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, N: tl.constexpr, W: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Distance of each anchor to its positives, in order, into [rows, K] (filled with -infinity where there is none).

    By the same tiles as the negatives' distances, so that rows that coincide tie exactly. first..last is the run of
    each anchor's class among the others, empty for rows that are no anchors.
    """
    row_R = _block(tl.program_id(0).to(tl.int64) * R, rows, R)
    real_R = row_R >= 0
    size_R = tl.load(size + row_R, mask=real_R, other=0.0)
    self_R = tl.load(self_place + row_R, mask=real_R, other=-1)
    first_R = tl.load(first + row_R, mask=real_R, other=0)
    last_R = tl.load(last + row_R, mask=real_R, other=0)
    begin = tl.min(tl.where(first_R < last_R, first_R, columns), axis=0)
    end = tl.max(tl.where(first_R < last_R, last_R, 0), axis=0)
    z_RW = _load_rows(z, row_R, real_R, 0, WIDTH, W)
    for at in range(begin, end, N):
        column_N = _block(at, columns, N)
        inside_RN = (column_N[None, :] >= first_R[:, None]) & (column_N[None, :] < last_R[:, None])
        wanted_RN = inside_RN & (column_N[None, :] != self_R[:, None])
        size_N = tl.load(other_size + column_N, mask=column_N >= 0, other=0.0)
        z_NW = _load_rows(other_z, column_N, column_N >= 0, 0, WIDTH, W)
        d_RN = _distances(x, z, other_x, other_z, z_RW, z_NW, size_R, size_N, row_R, column_N, wanted_RN,
                          KIND, WIDTH, W, N, PRECISION, UPCAST)  # fmt: skip
        after_RN = (self_R[:, None] >= first_R[:, None]) & (self_R[:, None] < column_N[None, :])
        place_RN = column_N[None, :] - first_R[:, None] - after_RN.to(tl.int64)
        tl.store(d_table + (row_R[:, None] * positives + place_RN), d_RN, mask=wanted_RN)


@triton.jit
def _log1p(e):
    """log(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e)): to the last digits also where e is tiny."""
    s = e / (2.0 + e)
    t = s * s
    series = 1.0 / 15 + t * (1.0 / 17)
    series = 1.0 / 13 + t * series
    series = 1.0 / 11 + t * series
    series = 1.0 / 9 + t * series
    series = 1.0 / 7 + t * series
    series = 1.0 / 5 + t * series
    series = 1.0 / 3 + t * series
    return 2.0 * s * (1.0 + t * series)


@triton.jit
def _loss_and_slope(gap, SOFT: tl.constexpr):
    """The loss of a gap and its derivative, 0 at the hinge point."""
    if SOFT:
        e = tl.exp(-tl.abs(gap))
        return tl.maximum(gap, 0.0) + _log1p(e), tl.where(gap > 0, 1.0, e) / (1.0 + e)
    else:
        return tl.maximum(gap, 0.0), (gap > 0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "columns", "positives", "first_positive"])
def all_triplets(
    x, z, size, name, self_place, d_table, margin, weight,
    other_x, other_z, other_size, other_name, other_self_place, other_d_table, other_margin, other_weight,
    loss, active, slope_table, dz, rows, columns, positives, first_positive,
    KIND: tl.constexpr, SOFT: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, GRADIENT: tl.constexpr,
    TIMES: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, N: tl.constexpr, W: tl.constexpr, V: tl.constexpr,
    P: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Every triplet with one of P positives of its anchor: losses, counts, slopes by positive, gradient by negatives.

    Adds to `loss` and `active` [rows], fills columns first_positive.. of `slope_table` [rows, K] (for the hinge: how
    many negatives lie below each threshold), adds to `dz` [rows, D]. The second axis of the grid cuts the width
    into parts of V, each of which goes over the distances again.
    """
    row_R = _block(tl.program_id(0).to(tl.int64) * R, rows, R)
    real_R = row_R >= 0
    part = tl.program_id(1)
    at_P = tl.arange(0, P)
    last_positive = tl.minimum(first_positive + P, positives)
    size_R = tl.load(size + row_R, mask=real_R, other=0.0)
    name_R = tl.load(name + row_R, mask=real_R, other=-1)
    self_R = tl.load(self_place + row_R, mask=real_R, other=-1)
    margin_R = tl.load(margin + row_R, mask=real_R & OWN, other=0.0)
    weight_R = tl.load(weight + row_R, mask=real_R & OWN, other=0.0)
    z_RW = _load_rows(z, row_R, real_R, 0, WIDTH, W)
    loss_R = tl.full([R], 0.0, tl.float64)
    active_R = tl.full([R], 0, tl.int64)
    slope_RP = tl.full([R, P], 0.0, tl.float32)
    sum_R = tl.full([R], 0.0, tl.float32)
    dz_RV = tl.full([R, V], 0.0, tl.float32)
    top_R = tl.full([R], float("-inf"), tl.float32)
    if OWN:
        for k in range(first_positive, last_positive):
            top_R = tl.maximum(top_R, tl.load(d_table + (row_R * positives + k), mask=real_R, other=float("-inf")))
    for at in range(0, columns, N):
        column_N = _block(at, columns, N)
        real_N = column_N >= 0
        size_N = tl.load(other_size + column_N, mask=real_N, other=0.0)
        name_N = tl.load(other_name + column_N, mask=real_N, other=-1)
        z_NW = _load_rows(other_z, column_N, real_N, 0, WIDTH, W)
        negative_RN = (name_R[:, None] != name_N[None, :]) & real_R[:, None] & real_N[None, :]
        if OWN:
            negative_RN = negative_RN & (self_R[:, None] != column_N[None, :])
        if OTHER:
            other_self_N = tl.load(other_self_place + column_N, mask=real_N, other=-1)
            negative_RN = negative_RN & (other_self_N[None, :] != row_R[:, None])
            margin_N = tl.load(other_margin + column_N, mask=real_N, other=0.0)
            weight_N = tl.load(other_weight + column_N, mask=real_N, other=0.0)
        d_RN = _distances(x, z, other_x, other_z, z_RW, z_NW, size_R, size_N, row_R, column_N, negative_RN,
                          KIND, WIDTH, W, N, PRECISION, UPCAST)  # fmt: skip
        far_RN = tl.where(negative_RN, d_RN, float("inf"))
        # Nothing to do where no negative of the tile comes within reach of the farthest positives.
        reach = 1.0
        if not SOFT:
            reach = 0.0
            if OWN:
                reach = tl.maximum(reach, tl.max(tl.max((top_R[:, None] - far_RN) + margin_R[:, None], axis=1), axis=0))
            if OTHER:
                top_N = tl.full([N], float("-inf"), tl.float32)
                for k in range(first_positive, last_positive):
                    t_N = tl.load(other_d_table + (column_N * positives + k), mask=real_N, other=float("-inf"))
                    top_N = tl.maximum(top_N, t_N)
                reach = tl.maximum(reach, tl.max(tl.max((top_N[None, :] - far_RN) + margin_N[None, :], axis=1), axis=0))
        if reach > 0:
            c_RN = tl.full([R, N], 0.0, tl.float32)
            if OWN:
                spent_RN = tl.full([R, N], 0.0, tl.float32)
                for k in range(first_positive, last_positive):
                    t_R = tl.load(d_table + (row_R * positives + k), mask=real_R, other=float("-inf"))
                    # The margin comes after the difference: one that is small beside the distances is not lost.
                    value_RN, g_RN = _loss_and_slope((t_R[:, None] - far_RN) + margin_R[:, None], SOFT)
                    spent_RN += value_RN
                    c_RN += g_RN
                    here_P = (at_P + first_positive == k).to(tl.float32)
                    slope_RP += here_P[None, :] * tl.sum(g_RN, axis=1)[:, None]
                loss_R += tl.sum(spent_RN, axis=1).to(tl.float64)
                if not SOFT:
                    active_R += tl.sum(c_RN, axis=1).to(tl.int64)
                c_RN = c_RN * weight_R[:, None]
            if GRADIENT:
                if OTHER:
                    theirs_RN = tl.full([R, N], 0.0, tl.float32)
                    for k in range(first_positive, last_positive):
                        t_N = tl.load(other_d_table + (column_N * positives + k), mask=real_N, other=float("-inf"))
                        gap_RN = (t_N[None, :] - far_RN) + margin_N[None, :]
                        if SOFT:
                            e_RN = tl.exp(-tl.abs(gap_RN))
                            theirs_RN += tl.where(gap_RN > 0, 1.0, e_RN) / (1.0 + e_RN)
                        else:
                            theirs_RN += (gap_RN > 0).to(tl.float32)
                    c_RN += theirs_RN * weight_N[None, :]
                if KIND == EUCLIDEAN:
                    c_RN = tl.where(d_RN > 0, c_RN / tl.where(d_RN > 0, 2.0 * d_RN, 1.0), 0.0)
                if KIND == COSINE:
                    c_RN = c_RN * size_N[None, :]
                from_V = part * V
                if KIND == EUCLIDEAN:
                    # 1 / d enlarges the rounding of a product: pairs that nearly coincide are subtracted one by one.
                    both_RN = size_R[:, None] + size_N[None, :]
                    near_RN = (d_RN * d_RN < both_RN * (CLOSE * CLOSE)) & (c_RN != 0)
                    near_N = tl.max(near_RN.to(tl.int32), axis=0)
                    if tl.max(near_N, axis=0) > 0:
                        dz_RV += _near_pairs(x, other_x, row_R, column_N, tl.where(near_RN, c_RN, 0.0), near_N, from_V,
                                             WIDTH, R, N, V)  # fmt: skip
                        c_RN = tl.where(near_RN, 0.0, c_RN)
                part_NV = z_NW
                if WIDTH > W or V != W:
                    part_NV = _load_rows(other_z, column_N, real_N, from_V, WIDTH, V)
                if TIMES == SPLIT:
                    high_RN = c_RN.to(tl.bfloat16)
                    low_RN = (c_RN - high_RN.to(tl.float32)).to(tl.bfloat16)
                    sum_R += tl.sum(high_RN.to(tl.float32) + low_RN.to(tl.float32), axis=1)
                    dz_RV += _product(high_RN, part_NV, PRECISION, UPCAST) + _product(
                        low_RN, part_NV, PRECISION, UPCAST
                    )
                else:
                    sum_R += tl.sum(c_RN, axis=1)
                    if TIMES == WHOLE:
                        dz_RV += _product(c_RN.to(part_NV.dtype), part_NV, PRECISION, UPCAST)
                    elif TIMES == WIDEN:
                        dz_RV += _product(c_RN, part_NV.to(tl.float32), PRECISION, UPCAST)
                    else:
                        dz_RV += _product(c_RN, part_NV, PRECISION, UPCAST)
    if OWN:
        if part == 0:
            tl.store(loss + row_R, tl.load(loss + row_R, mask=real_R, other=0.0) + loss_R, mask=real_R)
            tl.store(active + row_R, tl.load(active + row_R, mask=real_R, other=0) + active_R, mask=real_R)
            at_RP = row_R[:, None] * positives + (first_positive + at_P)[None, :]
            tl.store(slope_table + at_RP, slope_RP, mask=real_R[:, None] & (first_positive + at_P < positives)[None, :])
    if GRADIENT:
        if KIND != COSINE:
            z_RV = _load_rows(z, row_R, real_R, part * V, WIDTH, V)
            dz_RV = 2.0 * (dz_RV - sum_R[:, None] * z_RV.to(tl.float32))
        at_V = part * V + tl.arange(0, V)
        at_RV = row_R[:, None] * WIDTH + at_V[None, :]
        here_RV = real_R[:, None] & (at_V < WIDTH)[None, :]
        tl.store(dz + at_RV, tl.load(dz + at_RV, mask=here_RV, other=0.0) + dz_RV, mask=here_RV)


@triton.jit
def _near_pairs(
    x, other_x, row_R, column_N, c_RN, near_N, from_V, WIDTH: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
    V: tl.constexpr,
):  # fmt: skip
    """Sum over the near columns of c (other - row) [R, V], each difference by itself."""
    at_N = tl.arange(0, N)
    at_V = from_V + tl.arange(0, V)
    x_RV = _load_rows(x, row_R, row_R >= 0, from_V, WIDTH, V).to(tl.float32)
    sum_RV = tl.full([R, V], 0.0, tl.float32)
    for n in range(N):
        here_N = at_N == n
        if tl.max(tl.where(here_N, near_N, 0), axis=0) > 0:
            column_1 = tl.max(tl.where(here_N, column_N, -1), axis=0)
            y_V = tl.load(other_x + (column_1 * WIDTH + at_V), mask=at_V < WIDTH, other=0.0).to(tl.float32)
            c_R = tl.sum(tl.where(here_N[None, :], c_RN, 0.0), axis=1)
            sum_RV += c_R[:, None] * (y_V[None, :] - x_RV)
    return sum_RV


@triton.jit(do_not_specialize=["rows", "columns", "floors", "first_floor"])
def nearest_negatives(
    x, z, size, name, self_place,
    other_x, other_z, other_size, other_name, other_given,
    floor_table, d_table, given_table, rows, columns, floors, first_floor,
    KIND: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, N: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Per anchor and floor [rows, F] the nearest negative beyond the floor: distance, and place in the order given.

    P floors at a time, from `first_floor`; at ties the lowest place wins; NO_NAME where there is none.
    """
    row_R = _block(tl.program_id(0).to(tl.int64) * R, rows, R)
    real_R = row_R >= 0
    at_P = tl.arange(0, P)
    size_R = tl.load(size + row_R, mask=real_R, other=0.0)
    name_R = tl.load(name + row_R, mask=real_R, other=-1)
    self_R = tl.load(self_place + row_R, mask=real_R, other=-1)
    z_RW = _load_rows(z, row_R, real_R, 0, WIDTH, W)
    best_RP = tl.full([R, P], float("inf"), tl.float32)
    given_RP = tl.full([R, P], NO_NAME, tl.int32)
    for at in range(0, columns, N):
        column_N = _block(at, columns, N)
        real_N = column_N >= 0
        size_N = tl.load(other_size + column_N, mask=real_N, other=0.0)
        name_N = tl.load(other_name + column_N, mask=real_N, other=-1)
        given_N = tl.load(other_given + column_N, mask=real_N, other=NO_NAME)
        z_NW = _load_rows(other_z, column_N, real_N, 0, WIDTH, W)
        negative_RN = (name_R[:, None] != name_N[None, :]) & (self_R[:, None] != column_N[None, :])
        negative_RN = negative_RN & real_R[:, None] & real_N[None, :]
        d_RN = _distances(x, z, other_x, other_z, z_RW, z_NW, size_R, size_N, row_R, column_N, negative_RN,
                          KIND, WIDTH, W, N, PRECISION, UPCAST)  # fmt: skip
        far_RN = tl.where(negative_RN, d_RN, float("inf"))
        for k in range(first_floor, tl.minimum(first_floor + P, floors)):
            floor_R = tl.load(floor_table + (row_R * floors + k), mask=real_R, other=float("inf"))
            beyond_RN = tl.where(far_RN > floor_R[:, None], far_RN, float("inf"))
            d_R = tl.min(beyond_RN, axis=1)
            tie_RN = (beyond_RN == d_R[:, None]) & (beyond_RN < float("inf"))
            given_R = tl.min(tl.where(tie_RN, given_N[None, :], NO_NAME), axis=1)
            better_RP = (d_R[:, None] < best_RP) | ((d_R[:, None] == best_RP) & (given_R[:, None] < given_RP))
            better_RP = better_RP & (at_P + first_floor == k)[None, :]
            best_RP = tl.where(better_RP, d_R[:, None], best_RP)
            given_RP = tl.where(better_RP, given_R[:, None], given_RP)
    at_RP = row_R[:, None] * floors + (first_floor + at_P)[None, :]
    here_RP = real_R[:, None] & (first_floor + at_P < floors)[None, :]
    tl.store(d_table + at_RP, best_RP, mask=here_RP)
    tl.store(given_table + at_RP, given_RP, mask=here_RP)


INTERPRETED = not isinstance(all_triplets, triton.JITFunction)
