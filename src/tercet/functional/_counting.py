"""Compiled passes over a panel of distances that count, for every threshold, the negatives below it.

A panel holds the dot products of R rows with C later rows of a batch sorted by class. One visit of a pair serves both
sides: row i as anchor of column j and column j as anchor of row i. Row r and column c of a panel are rows begin + r and
begin + c of the batch; only pairs of different classes with i before j are visited, the rest of the panel becomes 0.

Per threshold t only the number of distances below it is kept, and per anchor the sum over them, once for every
threshold they are below ("spent"): the hinges add up to sum of count * t - spent. What a thread says of a row goes to
arrays of its own, or to the columns lo..hi that are its own. Rows that are no anchors have thresholds of -infinity.

Legend: B rows, D width, R rows and C columns of a panel, W columns at a time, K positives of the largest class,
L buckets (K + 1), G cells of a grid.
"""

from __future__ import annotations

import numpy as np

from tercet.functional._kernels import EUCLIDEAN, HALF, NOTHING, ONE, ZERO, compiled, panel_row

__all__ = ["FEW", "bucket_panel", "fill_cells", "threshold_panel"]

FEW = 3  # thresholds that one pass takes
FAR = np.float32(1e30)  # a distance beyond every threshold
# Constants, so that the compiler knows the parts of a scratch line apart and makes vector code. The parts do not lie a
# multiple of 4 KB apart, or loads would wait for stores of another part.
_W = 512
_S = _W + 16
_U1, _U2, _D, _OWN, _OTHER = np.uint64(1), np.uint64(2), np.uint64(9 * _S), np.uint64(10 * _S), np.uint64(4 * _S)
_NARROW = 64


@compiled
def _both_sides(e_0, e_1, e_2, weight, line):
    """Three thresholds of the row and three of every column against one line of distances.

    `line` holds, _W numbers each: weights, three thresholds, three counts, spent and sums of the columns; distances and
    coefficients of the row.
    """
    c_0, c_1, c_2, spent, total = ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(_W):
        value = line[9 * _S + j]
        on_0 = ONE if value < e_0 else ZERO
        on_1 = ONE if value < e_1 else ZERO
        on_2 = ONE if value < e_2 else ZERO
        c_0 += on_0
        c_1 += on_1
        c_2 += on_2
        own = on_0 + on_1 + on_2
        spent += own * value
        on_0 = ONE if value < line[_S + j] else ZERO
        on_1 = ONE if value < line[2 * _S + j] else ZERO
        on_2 = ONE if value < line[3 * _S + j] else ZERO
        line[4 * _S + j] += on_0
        line[5 * _S + j] += on_1
        line[6 * _S + j] += on_2
        other = on_0 + on_1 + on_2
        line[7 * _S + j] += other * value
        g = weight * own + line[j] * other
        line[10 * _S + j] = g
        line[8 * _S + j] += g
        total += g
    return c_0, c_1, c_2, spent, total


@compiled
def _three_more(line, n, k, row, start, end_KB, count_KB):
    """Thresholds k, k + 1, k + 2 where there are more: how many of each side lie above is added up in the line.

    Unsigned places: an index that might be negative would be looked at one by one, a slice would cost a reference.
    """
    c_0, c_1, c_2 = ZERO, ZERO, ZERO
    e_0, e_1, e_2 = end_KB[k, row], end_KB[k + _U1, row], end_KB[k + _U2, row]
    for j in range(n):
        value = line[_D + j]
        on_0 = ONE if value < e_0 else ZERO
        on_1 = ONE if value < e_1 else ZERO
        on_2 = ONE if value < e_2 else ZERO
        c_0 += on_0
        c_1 += on_1
        c_2 += on_2
        line[_OWN + j] += on_0 + on_1 + on_2
        on_0 = ONE if value < end_KB[k, start + j] else ZERO
        on_1 = ONE if value < end_KB[k + _U1, start + j] else ZERO
        on_2 = ONE if value < end_KB[k + _U2, start + j] else ZERO
        count_KB[k, start + j] += on_0
        count_KB[k + _U1, start + j] += on_1
        count_KB[k + _U2, start + j] += on_2
        line[_OTHER + j] += on_0 + on_1 + on_2
    count_KB[k, row] += c_0
    count_KB[k + _U1, row] += c_1
    count_KB[k + _U2, row] += c_2


@compiled
def _join(weight, kind, line):
    """From active thresholds of both sides (parts 10 and 4) to spent, coefficients and their sum, as `_both_sides`."""
    spent, total = ZERO, ZERO
    for j in range(_W):
        value = line[9 * _S + j]
        own, other = line[10 * _S + j], line[4 * _S + j]
        spent += own * value
        line[7 * _S + j] += other * value
        g = weight * own + line[j] * other
        if kind == EUCLIDEAN:
            g = HALF * g / value if value > ZERO else ZERO
        line[10 * _S + j] = g
        line[8 * _S + j] += g
        total += g
    return spent, total


@compiled
def threshold_panel(
    panel_RC, begin, x_BD, size_B, last_B, kind, lo, hi,
    end_KB, weight_B,
    count_KB, spent_B, sum_B,
):  # fmt: skip
    """Thresholds three at a time (their number is a multiple of three); the panel becomes the coefficients.

    Returns what `panel_row` found.
    """
    thresholds = end_KB.shape[0]
    few = thresholds == FEW and kind != EUCLIDEAN
    line = np.empty(11 * _S, np.float32)
    d_W, g_W, other_W = line[9 * _S : 9 * _S + _W], line[10 * _S :], line[4 * _S : 4 * _S + _W]
    found = NOTHING
    width = _W if few else min(_W, max(_NARROW, 16384 // thresholds // 64 * 64))
    for left in range(lo, hi, width):
        n = min(width, hi - left)
        start, stop = begin + left, begin + left + n
        line[: 9 * _S] = ZERO
        d_W[n:] = FAR
        line[:n] = weight_B[start:stop]
        if few:
            for k in range(FEW):
                line[(1 + k) * _S : (1 + k) * _S + n] = end_KB[k, start:stop]
        for r in range(panel_RC.shape[0]):
            i = begin + r
            out_W = panel_RC[r, left : left + n]
            skip = min(max(last_B[i] - start, 0), n)
            if skip == n:
                out_W[:] = ZERO
                continue
            d_W[:skip] = FAR
            found |= panel_row(out_W[skip:], i, start + skip, x_BD, size_B, kind, d_W[skip:n])
            if few:
                c_0, c_1, c_2, spent, total = _both_sides(end_KB[0, i], end_KB[1, i], end_KB[2, i], weight_B[i], line)
                count_KB[0, i] += c_0
                count_KB[1, i] += c_1
                count_KB[2, i] += c_2
            else:
                g_W[:] = ZERO
                other_W[:] = ZERO
                for k in range(0, thresholds, 3):
                    _three_more(line, np.uint64(n), np.uint64(k), np.uint64(i), np.uint64(start), end_KB, count_KB)
                spent, total = _join(weight_B[i], kind, line)
            spent_B[i] += spent
            sum_B[i] += total
            out_W[:] = g_W[:n]
        for j in range(n):
            if few:
                for k in range(FEW):
                    count_KB[k, start + j] += line[(4 + k) * _S + j]
            spent_B[start + j] += line[7 * _S + j]
            sum_B[start + j] += line[8 * _S + j]
    return found


@compiled
def fill_cells(end_BL, many_B, lo, hi, low_B, scale_B, cell_BG):
    """A grid over each row's sorted thresholds: how many lie in cells before this one; a search starts there."""
    for i in range(lo, hi):
        many = many_B[i]
        low_B[i], scale_B[i] = ZERO, ZERO
        if many > 0:
            low_B[i] = end_BL[i, 0]
            reach = end_BL[i, many - 1] - low_B[i]
            if reach > np.float32(1e-30):
                scale_B[i] = np.float32(cell_BG.shape[1] - 2) / reach
        place = 0
        for g in range(cell_BG.shape[1]):
            while place < many and np.int32((end_BL[i, place] - low_B[i]) * scale_B[i]) < g:
                place += 1
            cell_BG[i, g] = place


@compiled
def _bucket_line(d_N, end_L, many, low, scale, cell_G, cells_N, count_L, active_N):
    """One anchor's sorted thresholds against a line of distances: counts per bucket, thresholds above each distance.

    Returns the sum of active thresholds times distance. A grid of cells says where a search starts; two steps without a
    branch are nearly always enough.
    """
    top = np.float32(cell_G.shape[0] - 1)
    for j in range(d_N.shape[0]):
        cell = (d_N[j] - low) * scale
        cell = cell if cell > ZERO else ZERO
        cells_N[j] = np.int32(cell if cell < top else top)
    for j in range(d_N.shape[0]):
        value = d_N[j]
        place = np.uint32(cell_G[np.uint32(cells_N[j])])
        place += np.uint32(end_L[place] <= value)
        place += np.uint32(end_L[place] <= value)
        while end_L[place] <= value:
            place += np.uint32(1)
        count_L[place] += np.int32(1)
        active_N[j] = np.float32(np.int32(many) - np.int32(place))
    spent = ZERO
    for j in range(d_N.shape[0]):
        spent += active_N[j] * d_N[j]
    return spent


@compiled
def _finish_gradient(d_W, grad_W, kind, out_W, sum_W):
    """Coefficients on squared distances (cosine: on dot products) into the panel; their sum."""
    total = ZERO
    for j in range(d_W.shape[0]):
        value = grad_W[j]
        if kind == EUCLIDEAN:
            value = HALF * value / d_W[j] if d_W[j] > ZERO else ZERO
        out_W[j] = value
        total += value
        sum_W[j] += value
    return total


@compiled
def bucket_panel(
    panel_RC, begin, x_BD, size_B, last_B, kind, lo, hi,
    first_B, end_BL, many_B, low_B, scale_B, cell_BG, weight_B, width, block,
    count_BL, count_RL, spent_B, sum_B,
):  # fmt: skip
    """The same for larger classes: each distance is put into the bucket between two sorted thresholds.

    `end_BL[i]` are the thresholds of row i in rising order, then infinity; `many` is how many there are. Counts are per
    bucket: how many distances are below a threshold is a running sum of them. Columns are taken one by one over a block
    of rows, so that an anchor's thresholds stay in the first cache.
    """
    d, active = np.empty((block, width), np.float32), np.empty((block, width), np.float32)
    line, line_active = np.empty(block, np.float32), np.empty(block, np.float32)
    cells = np.empty(max(width, block), np.int32)
    rows = panel_RC.shape[0]
    found = NOTHING
    sum_W = np.zeros(width, np.float32)
    for left in range(lo, hi, width):
        n = min(width, hi - left)
        start = begin + left
        sum_W[:] = ZERO
        for top_row in range(0, rows, block):
            m = min(block, rows - top_row)
            for q in range(m):
                r = top_row + q
                i = begin + r
                skip = min(max(last_B[i] - start, 0), n)
                d[q, :skip] = ZERO
                active[q, :skip] = ZERO
                if skip < n:
                    found |= panel_row(
                        panel_RC[r, left + skip : left + n], i, start + skip, x_BD, size_B, kind, d[q, skip:n]
                    )
                    spent_B[i] += _bucket_line(
                        d[q, skip:n], end_BL[i], many_B[i], low_B[i], scale_B[i], cell_BG[i],
                        cells, count_RL[r], active[q, skip:n],
                    )  # fmt: skip
                    for j in range(skip, n):
                        active[q, j] *= weight_B[i]
            for j in range(n):
                c = start + j
                q_end = min(m, first_B[c] - begin - top_row)
                if q_end <= 0:
                    continue
                for q in range(q_end):
                    line[q] = d[q, j]
                spent_B[c] += _bucket_line(
                    line[:q_end], end_BL[c], many_B[c], low_B[c], scale_B[c], cell_BG[c],
                    cells, count_BL[c], line_active,
                )  # fmt: skip
                for q in range(q_end):
                    active[q, j] += weight_B[c] * line_active[q]
            for q in range(m):
                r = top_row + q
                sum_B[begin + r] += _finish_gradient(
                    d[q, :n], active[q, :n], kind, panel_RC[r, left : left + n], sum_W[:n]
                )
        for j in range(n):
            sum_B[start + j] += sum_W[j]
    return found
