"""Compiled passes over one panel of distances, for the CPU (numba; float32; no Python inside).

A panel holds the dot products of R rows with C later rows of a batch that is sorted by class. One visit of a panel
serves both sides: row i as anchor of column j and column j as anchor of row i, so half of the distances is enough.
Each function works on the columns lo..hi of the panel and releases the interpreter lock, so that threads can share it;
what a thread writes about rows goes to arrays of its own, what it writes about columns is its own by position. Row r
and column c of a panel are rows begin + r and begin + c of the batch. Arrays over the batch are passed whole: a slice
of columns of a matrix would not be contiguous, and the inner loops would not become vector code.

Each class is a run of rows first..last; its members are skipped by setting their distance to infinity. Rows that are no
anchors have thresholds of -infinity and so never count.

Legend: B rows, D width, R rows and C columns of a panel, W columns at a time, K positives of the largest class,
L buckets (K + 1), G cells of a grid, F floors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Everything but the assumption that infinities do not occur: they mark what is to be skipped.
_MATH = {"contract", "nsz", "arcp", "reassoc", "nnan"}
_compiled = njit(fastmath=_MATH, nogil=True, cache=True)

_ZERO, _ONE, _TWO, _HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
_INFINITY = np.float32(np.inf)
_CLOSE = np.float32(0.01)  # as in `distances`: below this share the product form is repeated directly
SQUARED, EUCLIDEAN, COSINE = 0, 1, 2


@_compiled
def _distance(u_D, v_D, kind):
    """Distance of two prepared rows, directly."""
    total = _ZERO
    if kind == COSINE:
        for c in range(u_D.shape[0]):
            total += u_D[c] * v_D[c]
        return _ONE - total
    for c in range(u_D.shape[0]):
        gap = u_D[c] - v_D[c]
        total += gap * gap
    return np.sqrt(total) if kind == EUCLIDEAN else total


@_compiled
def _distances(dot_W, size, size_W, kind, d_W):
    """Distances from dot products; how many are so close that the product form has lost digits."""
    close = _ZERO
    if kind == COSINE:
        for j in range(d_W.shape[0]):
            d_W[j] = _ONE - dot_W[j]
        return close
    for j in range(d_W.shape[0]):
        both = size + size_W[j]
        value = both - _TWO * dot_W[j]
        close += _ONE if value < _CLOSE * both else _ZERO
        d_W[j] = value if value > _ZERO else _ZERO
    return close


@_compiled
def _panel_row(dot_W, i, start, x_BD, size_B, first_B, last_B, kind, d_W):
    """Distances of row i to the rows from `start` on, members of its own class at infinity."""
    n = d_W.shape[0]
    size_W = size_B[start : start + n]
    close = _distances(dot_W, size_B[i], size_W, kind, d_W)
    own = slice(max(first_B[i] - start, 0), max(min(last_B[i] - start, n), 0))
    d_W[own] = _INFINITY
    if close > _ZERO:
        for j in range(n):
            if d_W[j] < _CLOSE * (size_B[i] + size_W[j]):
                d_W[j] = _distance(x_BD[i], x_BD[start + j], SQUARED)
    if kind == EUCLIDEAN:
        for j in range(n):
            d_W[j] = np.sqrt(d_W[j])


@_compiled
def positive_distances(x_BD, first_B, last_B, kind, lo, hi, d_BK):
    """Distances of rows lo..hi to the other members of their class, in order; the rest of `d_BK` is left as it is."""
    for i in range(lo, hi):
        for k in range(last_B[i] - first_B[i] - 1):
            p = first_B[i] + k
            p += 1 if p >= i else 0
            d_BK[i, k] = _distance(x_BD[i], x_BD[p], kind)


@_compiled
def _row_side(d_W, end, active_W):
    """One threshold of the row against every column: how many are below it."""
    count = _ZERO
    for j in range(d_W.shape[0]):
        on = _ONE if d_W[j] < end else _ZERO
        count += on
        active_W[j] += on
    return count


@_compiled
def _row_side_3(d_W, end_0, end_1, end_2, active_W):
    """Three thresholds at once: one load of the distances for all."""
    count_0, count_1, count_2 = _ZERO, _ZERO, _ZERO
    for j in range(d_W.shape[0]):
        on_0 = _ONE if d_W[j] < end_0 else _ZERO
        on_1 = _ONE if d_W[j] < end_1 else _ZERO
        on_2 = _ONE if d_W[j] < end_2 else _ZERO
        count_0 += on_0
        count_1 += on_1
        count_2 += on_2
        active_W[j] += on_0 + on_1 + on_2
    return count_0, count_1, count_2


@_compiled
def _column_side(d_W, end_W, active_W, count_W):
    """One threshold of every column against the row."""
    for j in range(d_W.shape[0]):
        on = _ONE if d_W[j] < end_W[j] else _ZERO
        count_W[j] += on
        active_W[j] += on


@_compiled
def _column_side_3(d_W, end_0_W, end_1_W, end_2_W, active_W, count_0_W, count_1_W, count_2_W):
    """Three thresholds of every column at once."""
    for j in range(d_W.shape[0]):
        on_0 = _ONE if d_W[j] < end_0_W[j] else _ZERO
        on_1 = _ONE if d_W[j] < end_1_W[j] else _ZERO
        on_2 = _ONE if d_W[j] < end_2_W[j] else _ZERO
        count_0_W[j] += on_0
        count_1_W[j] += on_1
        count_2_W[j] += on_2
        active_W[j] += on_0 + on_1 + on_2


@_compiled
def _spent_by_row(d_W, active_W):
    """Sum of active thresholds times distance: what the thresholds' own sum exceeds the hinges by."""
    total = _ZERO
    for j in range(d_W.shape[0]):
        total += active_W[j] * d_W[j] if active_W[j] > _ZERO else _ZERO
    return total


@_compiled
def _spent_by_columns(d_W, active_W, spent_W):
    """The same for each column."""
    for j in range(d_W.shape[0]):
        spent_W[j] += active_W[j] * d_W[j] if active_W[j] > _ZERO else _ZERO


@_compiled
def _join(row_W, weight, column_W, weight_W):
    """Active thresholds of both sides, each side with its anchor's weight, into `row_W`."""
    for j in range(row_W.shape[0]):
        row_W[j] = weight * row_W[j] + weight_W[j] * column_W[j]


@_compiled
def _finish_gradient(d_W, grad_W, kind, out_W, sum_W):
    """Coefficients on squared distances (cosine: on dot products) into the panel; their sum."""
    total = _ZERO
    if kind == EUCLIDEAN:
        for j in range(d_W.shape[0]):
            value = _HALF * grad_W[j] / d_W[j] if d_W[j] > _ZERO else _ZERO
            out_W[j] = value
            total += value
            sum_W[j] += value
        return total
    for j in range(d_W.shape[0]):
        out_W[j] = grad_W[j]
        total += grad_W[j]
        sum_W[j] += grad_W[j]
    return total


@_compiled
def hinge_panel(
    panel_RC, begin, x_BD, size_B, first_B, last_B, kind, lo, hi, width,
    end_BK, end_KB, weight_B,
    count_RK, spent_R, sum_R, count_KB, spent_B, sum_B,
):  # fmt: skip
    """Formula 1 over all triplets, a short pass per threshold; the panel becomes the coefficients of its gradient.

    Per threshold t only the number of distances below it is kept, and per anchor the sum over them, once for every
    threshold they are below ("spent"): the hinges add up to sum of count * t - spent. The first R columns belong to the
    rows themselves: there only the row side counts, since both orders of a pair are in the panel.
    """
    d, row, column = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    rows, thresholds = panel_RC.shape[0], end_BK.shape[1]
    threes = thresholds // 3 * 3
    left = lo
    while left < hi:
        right = min(left + width, hi, rows) if left < rows else min(left + width, hi)
        d_W, row_W, column_W = d[: right - left], row[: right - left], column[: right - left]
        start, stop = begin + left, begin + right
        for r in range(rows):
            i = begin + r
            out_W = panel_RC[r, left:right]
            _panel_row(out_W, i, start, x_BD, size_B, first_B, last_B, kind, d_W)
            row_W[:] = _ZERO
            column_W[:] = _ZERO
            for k in range(0, threes, 3):
                c_0, c_1, c_2 = _row_side_3(d_W, end_BK[i, k], end_BK[i, k + 1], end_BK[i, k + 2], row_W)
                count_RK[r, k] += c_0
                count_RK[r, k + 1] += c_1
                count_RK[r, k + 2] += c_2
            for k in range(threes, thresholds):
                count_RK[r, k] += _row_side(d_W, end_BK[i, k], row_W)
            spent_R[r] += _spent_by_row(d_W, row_W)
            if left >= rows:
                for k in range(0, threes, 3):
                    _column_side_3(
                        d_W,
                        end_KB[k, start:stop], end_KB[k + 1, start:stop], end_KB[k + 2, start:stop],
                        column_W,
                        count_KB[k, start:stop], count_KB[k + 1, start:stop], count_KB[k + 2, start:stop],
                    )  # fmt: skip
                for k in range(threes, thresholds):
                    _column_side(d_W, end_KB[k, start:stop], column_W, count_KB[k, start:stop])
                _spent_by_columns(d_W, column_W, spent_B[start:stop])
            _join(row_W, weight_B[i], column_W, weight_B[start:stop])
            sum_R[r] += _finish_gradient(d_W, row_W, kind, out_W, sum_B[start:stop])
        left = right


@_compiled
def fill_cells(end_BL, real_B, low_B, scale_B, lo, hi, cell_BG):
    """A grid over each row's sorted thresholds: how many lie in cells before this one; a search starts there."""
    for i in range(lo, hi):
        place = 0
        for g in range(cell_BG.shape[1]):
            while place < real_B[i] and np.int32((end_BL[i, place] - low_B[i]) * scale_B[i]) < g:
                place += 1
            cell_BG[i, g] = place


@_compiled
def _bucket_line(d_N, end_L, real, low, top, scale, cell_G, cells_N, count_L, active_N):
    """One anchor's sorted thresholds against a line of distances: counts per bucket, thresholds above each distance.

    Returns the sum of active thresholds times distance. A grid of cells says where a search starts; it then moves on by
    a step or none.
    """
    for j in range(d_N.shape[0]):
        held = d_N[j] if d_N[j] < top else top
        held = held if held > low else low
        cells_N[j] = np.int32((held - low) * scale)
    for j in range(d_N.shape[0]):
        place = real
        if d_N[j] < top:
            place = np.int32(cell_G[cells_N[j]])
            while end_L[place] <= d_N[j]:
                place += np.int32(1)
            count_L[place] += _ONE
        active_N[j] = np.float32(real - place)
    return _spent_by_row(d_N, active_N)


@_compiled
def bucket_panel(
    panel_RC, begin, x_BD, size_B, first_B, last_B, kind, lo, hi, width,
    end_BL, real_B, low_B, top_B, scale_B, cell_BG, weight_B,
    count_RL, spent_R, sum_R, count_BL, spent_B, sum_B,
):  # fmt: skip
    """The same for large classes: each distance is put into the bucket between two sorted thresholds.

    `end_BL[i]` are the thresholds of row i in rising order, then infinity; `real` is how many there are, `low` and
    `top` the first and the last. Counts are per bucket: how many distances are below a threshold is a running sum of
    them. Columns are taken one by one over a block of rows, so that an anchor's thresholds stay in the first cache.
    """
    block = 64
    d, active = np.empty((block, width), np.float32), np.empty((block, width), np.float32)
    line, line_active = np.empty(block, np.float32), np.empty(block, np.float32)
    cells = np.empty(max(width, block), np.int32)
    rows = panel_RC.shape[0]
    left = lo
    while left < hi:
        right = min(left + width, hi, rows) if left < rows else min(left + width, hi)
        n = right - left
        start, stop = begin + left, begin + right
        for top_row in range(0, rows, block):
            m = min(block, rows - top_row)
            for q in range(m):
                r = top_row + q
                i = begin + r
                d_W, active_W = d[q, :n], active[q, :n]
                _panel_row(panel_RC[r, left:right], i, start, x_BD, size_B, first_B, last_B, kind, d_W)
                spent_R[r] += _bucket_line(
                    d_W, end_BL[i], real_B[i], low_B[i], top_B[i], scale_B[i], cell_BG[i], cells, count_RL[r], active_W
                )
                for j in range(n):
                    active_W[j] *= weight_B[i]
            if left >= rows:
                for j in range(n):
                    c = start + j
                    for q in range(m):
                        line[q] = d[q, j]
                    spent_B[c] += _bucket_line(
                        line[:m], end_BL[c], real_B[c], low_B[c], top_B[c], scale_B[c], cell_BG[c],
                        cells, count_BL[c], line_active[:m],
                    )  # fmt: skip
                    for q in range(m):
                        active[q, j] += weight_B[c] * line_active[q]
            for q in range(m):
                r = top_row + q
                sum_R[r] += _finish_gradient(d[q, :n], active[q, :n], kind, panel_RC[r, left:right], sum_B[start:stop])
        left = right


@_compiled
def _nearest_of_row(d_W, above, best, best_name, name_W):
    """The nearest column farther than `above` and nearer than `best`; at a tie the lowest name.

    Few chunks of columns hold one: a look that is vector code goes first.
    """
    candidates = _ZERO
    for j in range(d_W.shape[0]):
        candidates += _ONE if (d_W[j] <= best) & (d_W[j] > above) else _ZERO
    if candidates > _ZERO:
        for j in range(d_W.shape[0]):
            nearer = d_W[j] < best or (d_W[j] == best and name_W[j] < best_name)
            if nearer and d_W[j] > above:
                best, best_name = d_W[j], name_W[j]
    return best, best_name


@_compiled
def _nearest_of_columns(d_W, above_W, name, best_W, best_name_W):
    """The same with the row as candidate of every column."""
    for j in range(d_W.shape[0]):
        value = d_W[j] if d_W[j] > above_W[j] else _INFINITY
        best, best_name = best_W[j], best_name_W[j]
        tied = min(best_name, name) if value == best else best_name
        best_name_W[j] = name if value < best else tied
        best_W[j] = value if value < best else best


@_compiled
def nearest_panel(
    panel_RC, begin, x_BD, size_B, first_B, last_B, kind, lo, hi, width,
    above_BF, above_FB, name_B,
    best_RF, best_name_RF, best_FB, best_name_FB,
):  # fmt: skip
    """For each of F floors per row, the nearest negative above it, with its name (its place in the batch as given).

    `best` holds the exclusive upper end at first, with name -1; rows of one thread are merged afterwards.
    """
    d = np.empty(width, np.float32)
    rows, floors = panel_RC.shape[0], above_BF.shape[1]
    left = lo
    while left < hi:
        right = min(left + width, hi, rows) if left < rows else min(left + width, hi)
        d_W = d[: right - left]
        start, stop = begin + left, begin + right
        for r in range(rows):
            i = begin + r
            _panel_row(panel_RC[r, left:right], i, start, x_BD, size_B, first_B, last_B, kind, d_W)
            for k in range(floors):
                best_RF[r, k], best_name_RF[r, k] = _nearest_of_row(
                    d_W, above_BF[i, k], best_RF[r, k], best_name_RF[r, k], name_B[start:stop]
                )
                if left >= rows:
                    _nearest_of_columns(
                        d_W, above_FB[k, start:stop], name_B[i], best_FB[k, start:stop], best_name_FB[k, start:stop]
                    )
        left = right


@_compiled
def add_positive_pairs(x_BD, first_B, last_B, g_BK, d_BK, kind, lo, hi, dx_BD):
    """Gradient of positive pairs on rows lo..hi; `g_BK[i, k]` is that of the distance from i to its k-th positive."""
    for i in range(lo, hi):
        for k in range(last_B[i] - first_B[i] - 1):
            p = first_B[i] + k
            p += 1 if p >= i else 0
            back = i - first_B[i] - (1 if i > p else 0)
            g = g_BK[i, k] + g_BK[p, back]
            if kind == COSINE:
                for c in range(x_BD.shape[1]):
                    dx_BD[i, c] -= g * x_BD[p, c]
            else:
                if kind == EUCLIDEAN:
                    g = _HALF * g / d_BK[i, k] if d_BK[i, k] > _ZERO else _ZERO
                for c in range(x_BD.shape[1]):
                    dx_BD[i, c] += _TWO * g * (x_BD[i, c] - x_BD[p, c])


@_compiled
def add_pairs(x_BD, i_P, j_P, g_P, d_P, kind, dx_BD):
    """Gradient of listed pairs on both of their rows; `g_P` is that of their distances `d_P`."""
    for q in range(i_P.shape[0]):
        i, j, g = i_P[q], j_P[q], g_P[q]
        if g == _ZERO:
            continue
        if kind == COSINE:
            for c in range(x_BD.shape[1]):
                dx_BD[i, c] -= g * x_BD[j, c]
                dx_BD[j, c] -= g * x_BD[i, c]
        else:
            if kind == EUCLIDEAN:
                g = _HALF * g / d_P[q] if d_P[q] > _ZERO else _ZERO
            for c in range(x_BD.shape[1]):
                gap = _TWO * g * (x_BD[i, c] - x_BD[j, c])
                dx_BD[i, c] += gap
                dx_BD[j, c] -= gap
