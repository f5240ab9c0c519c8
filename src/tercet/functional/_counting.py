"""Compiled passes over a block of dot products that count, for every threshold, the negatives below it.

One visit of a pair serves both sides: row i as anchor of column j and column j as anchor of row i. Only pairs of
different classes with i before j are visited, the rest of the block becomes 0.

Per threshold t only the number of distances below it is kept, and per anchor the sum over them, once for every
threshold they are below ("spent"): the hinges add up to sum of count * t - spent. What is said of a row goes to arrays
of the thread's own. Rows that are no anchors have thresholds of -infinity.

Legend: B rows, D width, R rows and C columns of a block (see `_kernels`), W columns at a time, K positives of the
largest class, L buckets (K + 1), G cells of a grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.functional._kernels import (
    EUCLIDEAN,
    FAR,
    HALF,
    NOTHING,
    ONE,
    PART,
    WIDTH,
    ZERO,
    compiled,
    distances_of_row,
    fill_sizes,
)

__all__ = [
    "FEW",
    "add_counts",
    "bucket_block",
    "empty_table",
    "fill_cells",
    "fill_table",
    "settle_buckets",
    "threshold_block",
]

FEW = 3  # thresholds that one pass takes
# The parts of a scratch line after distances and sizes; constants, so that the compiler knows them apart and makes
# vector code.
_P = PART
_PARTS, _WEIGHT, _SPENT, _SUM = 5, 2 * PART, 3 * PART, 4 * PART


@compiled
def _three_thresholds(lines, r, i, end_BK, count_BK, weight, columns, line):
    """Three thresholds of the row and three of every column against its distances; coefficients into the block.

    Returns what the row has spent, and the sum of its coefficients.
    """
    c_0, c_1, c_2, spent, total = ZERO, ZERO, ZERO, ZERO, ZERO
    end_0, end_1, end_2 = end_BK[i, 0], end_BK[i, 1], end_BK[i, 2]
    for j in range(WIDTH):
        value = line[j]
        on_0, on_1, on_2 = _on(value, end_0), _on(value, end_1), _on(value, end_2)
        c_0, c_1, c_2 = c_0 + on_0, c_1 + on_1, c_2 + on_2
        own = on_0 + on_1 + on_2
        spent += own * value
        on_0, on_1, on_2 = _on(value, columns[j]), _on(value, columns[_P + j]), _on(value, columns[2 * _P + j])
        columns[3 * _P + j] += on_0
        columns[4 * _P + j] += on_1
        columns[5 * _P + j] += on_2
        other = on_0 + on_1 + on_2
        line[_SPENT + j] += other * value
        g = weight * own + line[_WEIGHT + j] * other
        lines[r, j] = g
        line[_SUM + j] += g
        total += g
    count_BK[i, 0] += c_0
    count_BK[i, 1] += c_1
    count_BK[i, 2] += c_2
    return spent, total


@compiled
def _on(value, end):
    return ONE if value < end else ZERO


@compiled
def _four_rows(four, end_RK, count_RK, columns):
    """Three thresholds of four rows and of every column, where there are more than three.

    Four rows at a time, so that the thresholds and counts of a column are fetched once for all of them. `four` holds
    four lines of distances, for each how many thresholds of the row lie above a distance, and how many of the column;
    `columns` three thresholds and three counts of every column. Each of the two is one array, or the compiler would
    give up telling their parts apart.
    """
    a_0, a_1, a_2, b_0, b_1, b_2 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    c_0, c_1, c_2, d_0, d_1, d_2 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    end_a0, end_a1, end_a2 = end_RK[0, 0], end_RK[0, 1], end_RK[0, 2]
    end_b0, end_b1, end_b2 = end_RK[1, 0], end_RK[1, 1], end_RK[1, 2]
    end_c0, end_c1, end_c2 = end_RK[2, 0], end_RK[2, 1], end_RK[2, 2]
    end_d0, end_d1, end_d2 = end_RK[3, 0], end_RK[3, 1], end_RK[3, 2]
    for j in range(WIDTH):
        value = four[j]
        on_0, on_1, on_2 = _on(value, end_a0), _on(value, end_a1), _on(value, end_a2)
        a_0, a_1, a_2 = a_0 + on_0, a_1 + on_1, a_2 + on_2
        four[4 * _P + j] += on_0 + on_1 + on_2
        value = four[_P + j]
        on_0, on_1, on_2 = _on(value, end_b0), _on(value, end_b1), _on(value, end_b2)
        b_0, b_1, b_2 = b_0 + on_0, b_1 + on_1, b_2 + on_2
        four[5 * _P + j] += on_0 + on_1 + on_2
        value = four[2 * _P + j]
        on_0, on_1, on_2 = _on(value, end_c0), _on(value, end_c1), _on(value, end_c2)
        c_0, c_1, c_2 = c_0 + on_0, c_1 + on_1, c_2 + on_2
        four[6 * _P + j] += on_0 + on_1 + on_2
        value = four[3 * _P + j]
        on_0, on_1, on_2 = _on(value, end_d0), _on(value, end_d1), _on(value, end_d2)
        d_0, d_1, d_2 = d_0 + on_0, d_1 + on_1, d_2 + on_2
        four[7 * _P + j] += on_0 + on_1 + on_2
    for j in range(WIDTH):
        end_0, end_1, end_2 = columns[j], columns[_P + j], columns[2 * _P + j]
        value = four[j]
        n_0, n_1, n_2 = _on(value, end_0), _on(value, end_1), _on(value, end_2)
        four[8 * _P + j] += n_0 + n_1 + n_2
        value = four[_P + j]
        on_0, on_1, on_2 = _on(value, end_0), _on(value, end_1), _on(value, end_2)
        four[9 * _P + j] += on_0 + on_1 + on_2
        n_0, n_1, n_2 = n_0 + on_0, n_1 + on_1, n_2 + on_2
        value = four[2 * _P + j]
        on_0, on_1, on_2 = _on(value, end_0), _on(value, end_1), _on(value, end_2)
        four[10 * _P + j] += on_0 + on_1 + on_2
        n_0, n_1, n_2 = n_0 + on_0, n_1 + on_1, n_2 + on_2
        value = four[3 * _P + j]
        on_0, on_1, on_2 = _on(value, end_0), _on(value, end_1), _on(value, end_2)
        four[11 * _P + j] += on_0 + on_1 + on_2
        columns[3 * _P + j] += n_0 + on_0
        columns[4 * _P + j] += n_1 + on_1
        columns[5 * _P + j] += n_2 + on_2
    for k, n in enumerate((a_0, a_1, a_2)):
        count_RK[0, k] += n
    for k, n in enumerate((b_0, b_1, b_2)):
        count_RK[1, k] += n
    for k, n in enumerate((c_0, c_1, c_2)):
        count_RK[2, k] += n
    for k, n in enumerate((d_0, d_1, d_2)):
        count_RK[3, k] += n


@compiled
def _join(lines, r, weight, kind, four, line):
    """From active thresholds of both sides to spent, coefficients and their sum, as `_three_thresholds`."""
    spent, total = ZERO, ZERO
    for j in range(WIDTH):
        value, own, other = four[j], four[4 * _P + j], four[8 * _P + j]
        spent += own * value
        line[_SPENT + j] += other * value
        g = weight * own + line[_WEIGHT + j] * other
        if kind == EUCLIDEAN:
            g = HALF * g / value if value > ZERO else ZERO
        lines[r, j] = g
        line[_SUM + j] += g
        total += g
    return spent, total


def empty_table(places: int, threes: int) -> npt.NDArray[np.float32]:
    """For every slice of columns, and three thresholds at a time: the thresholds and their counts, line by line."""
    table = np.zeros((places, threes, 6 * PART), np.float32)
    table[:, :, : 3 * PART] = -np.inf
    return table


@compiled
def fill_table(end_BK, table):
    """Thresholds of each row to where it stands as a column."""
    for i in range(end_BK.shape[0]):
        for k in range(end_BK.shape[1]):
            table[i // WIDTH, k // 3, k % 3 * PART + i % WIDTH] = end_BK[i, k]


@compiled
def add_counts(table, count_BK):
    """Counts of each row as a column to what it has as a row."""
    for i in range(count_BK.shape[0]):
        for k in range(count_BK.shape[1]):
            count_BK[i, k] += table[i // WIDTH, k // 3, (3 + k % 3) * PART + i % WIDTH]


@compiled
def threshold_block(
    lines, top, rows, left, columns, x_BD, size_B, last_B, kind,
    end_BK, weight_B,
    table, count_BK, spent_B, sum_B,
):  # fmt: skip
    """Thresholds three at a time (their number is a multiple of three); the block becomes the coefficients.

    Returns what `distances_of_row` found.
    """
    line = np.zeros(_PARTS * PART, np.float32)
    found = NOTHING
    fill_sizes(size_B, left, columns, line)
    for j in range(columns):
        line[_WEIGHT + j] = weight_B[left + j]
    of_columns = table[left // WIDTH]
    few = of_columns.shape[0] == 1 and kind != EUCLIDEAN
    four = np.zeros(PART if few else 12 * PART, np.float32)
    for first in range(0, rows, 1 if few else 4):
        if few:
            i = top + first
            skip = min(max(last_B[i] - left, 0), columns)
            if skip == columns:
                lines[first] = ZERO
                continue
            found |= distances_of_row(lines, np.uint64(first), i, left, skip, columns, x_BD, size_B, kind, line)
            spent, total = _three_thresholds(
                lines, np.uint64(first), i, end_BK, count_BK, weight_B[i], of_columns[0], line
            )
            spent_B[i] += spent
            sum_B[i] += total
            continue
        four[:] = ZERO
        for q in range(4):
            r, i = first + q, top + first + q
            skip = min(max(last_B[i] - left, 0), columns) if r < rows else columns
            if skip < columns:
                found |= distances_of_row(lines, np.uint64(r), i, left, skip, columns, x_BD, size_B, kind, line)
            row = four[q * PART :]
            for j in range(WIDTH):
                row[j] = line[j] if skip < columns else FAR
        i = top + first
        for three in range(of_columns.shape[0]):
            _four_rows(four, end_BK[i : i + 4, 3 * three :], count_BK[i : i + 4, 3 * three :], of_columns[three])
        for q in range(min(4, rows - first)):
            spent, total = _join(lines, np.uint64(first + q), weight_B[i + q], kind, four[q * PART :], line)
            spent_B[i + q] += spent
            sum_B[i + q] += total
    for j in range(columns):
        spent_B[left + j] += line[_SPENT + j]
        sum_B[left + j] += line[_SUM + j]
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
def settle_buckets(end_BL, many_B, place_BK, count_BL, spent_B, lo, hi, loss_B, count_BK):
    """From counts per bucket to the loss of each anchor, and to counts per positive in the order given."""
    for i in range(lo, hi):
        below, total = 0, 0.0
        for k in range(many_B[i]):
            below += count_BL[i, k]
            total += np.float64(end_BL[i, k]) * below
            count_BK[i, place_BK[i, k]] = below
        loss_B[i] = total - spent_B[i]


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
def _coefficients(lines, r, columns, active_C, kind, sum_B, left):
    """Coefficients on squared distances (cosine: on dot products) into a line that holds distances; their sum."""
    total = ZERO
    for j in range(columns):
        value = active_C[j]
        if kind == EUCLIDEAN:
            value = HALF * value / lines[r, j] if lines[r, j] > ZERO else ZERO
        lines[r, j] = value
        total += value
        sum_B[left + j] += value
    return total


@compiled
def bucket_block(
    lines, top, rows, left, columns, x_BD, size_B, last_B, kind,
    first_B, end_BL, many_B, low_B, scale_B, cell_BG, weight_B,
    count_BL, spent_B, sum_B,
):  # fmt: skip
    """The same for larger classes: each distance is put into the bucket between two sorted thresholds.

    `end_BL[i]` are the thresholds of row i in rising order, then infinity; `many` is how many there are. Counts are per
    bucket: how many distances are below a threshold is a running sum of them. First the rows, then the columns one by
    one, so that an anchor's thresholds stay in the first cache.
    """
    line, most = np.empty(_PARTS * _P, np.float32), max(rows, columns)
    active_RC, active, gathered = (
        np.empty((rows, columns), np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32),
    )
    cells = np.empty(most, np.int32)
    found = NOTHING
    fill_sizes(size_B, left, columns, line)
    for r in range(rows):
        i = top + r
        skip = min(max(last_B[i] - left, 0), columns)
        lines[r, :skip] = ZERO
        active_RC[r, :skip] = ZERO
        if skip == columns:
            continue
        found |= distances_of_row(lines, np.uint64(r), i, left, skip, columns, x_BD, size_B, kind, line)
        for j in range(skip, columns):
            lines[r, j] = line[j]
        spent_B[i] += _bucket_line(
            lines[r, skip:columns], end_BL[i], many_B[i], low_B[i], scale_B[i], cell_BG[i],
            cells, count_BL[i], active_RC[r, skip:],
        )  # fmt: skip
        for j in range(skip, columns):
            active_RC[r, j] *= weight_B[i]
    for j in range(columns):
        c = left + j
        seen = min(rows, first_B[c] - top)
        if seen <= 0:
            continue
        for r in range(seen):
            gathered[r] = lines[r, j]
        spent_B[c] += _bucket_line(
            gathered[:seen], end_BL[c], many_B[c], low_B[c], scale_B[c], cell_BG[c],
            cells, count_BL[c], active,
        )  # fmt: skip
        for r in range(seen):
            active_RC[r, j] += weight_B[c] * active[r]
    for r in range(rows):
        sum_B[top + r] += _coefficients(lines, r, columns, active_RC[r], kind, sum_B, left)
    return found
