"""Compiled steps over the rows of a batch, for the CPU (numba; float32): sorting, preparing, finishing.

The passes over blocks of dot products are in `_counting` (all triplets) and `_nearest` (chosen triplets). No function
here or there holds the interpreter lock, so that threads can share the work: each call has rows lo..hi or a block.

Rows are sorted by class, so a class is a run first..last, the negatives of row i that come later begin at last[i], and
no mask is needed to leave its positives out. Rows that are no anchors have 0 positives.

A block is R lines of dot products: row r of a block is row top + r of the batch, column c is row left + c. Lines have
WIDTH places, whatever part of them is in use, so that loops over them are vector code; distances in places that are not
in use, or of rows of one class, are FAR. Places are unsigned: one that might be negative would be looked at one by one.

Legend: B rows, D width, K positives of the largest class, R rows and C columns of a block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Everything but the assumption that infinities do not occur: they mark what is to be skipped.
_MATH = {"contract", "nsz", "arcp", "reassoc", "nnan"}


def compiled(function):
    """Compile on first use; the code is kept for the next process where a place for it can be written."""
    try:
        return njit(fastmath=_MATH, nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache
        return njit(fastmath=_MATH, nogil=True)(function)


def exactly(function):
    """Compiled, with every operation as it is written; said, or it would be compiled as its caller is."""
    try:
        return njit(fastmath=False, nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(fastmath=False, nogil=True)(function)


ZERO, ONE, TWO, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
WIDTH = 480
PART = WIDTH + 16  # from one part of a scratch line to the next: not a multiple of 4 KB, or loads would wait for stores
FAR = np.finfo(np.float32).max  # a distance beyond every threshold
CLOSE = np.float32(0.01)  # as in `distances`: below this share the product form is repeated directly
SQUARED, EUCLIDEAN, COSINE = 0, 1, 2
NOTHING, NEAR, COINCIDES = 0, 1, 2  # bits


@compiled
def distance(u_D, v_D, kind):
    """Distance of two prepared rows, directly."""
    total = ZERO
    if kind == COSINE:
        for c in range(u_D.shape[0]):
            total += u_D[c] * v_D[c]
        return ONE - total
    for c in range(u_D.shape[0]):
        gap = u_D[c] - v_D[c]
        total += gap * gap
    return np.sqrt(total) if kind == EUCLIDEAN else total


@compiled
def fill_sizes(size_B, left, columns, line):
    """The squared sizes of a block's columns into part 1 of a scratch line; where there is no column a large one."""
    for j in range(WIDTH):
        line[PART + j] = np.float32(1e37)
    for j in range(columns):
        line[PART + j] = size_B[left + j]


@compiled
def _squared(lines, r, size, line):
    """Squared distances from dot products; how many are so close that the product form has lost digits."""
    close = ZERO
    for j in range(WIDTH):
        both = size + line[PART + j]
        value = both - TWO * lines[r, j]
        close += ONE if value < CLOSE * both else ZERO
        line[j] = value if value > ZERO else ZERO
    return close


@compiled
def _repeat_close(i, left, skip, columns, x_BD, size_B, line):
    """Close pairs once more, directly."""
    found = NOTHING
    for j in range(skip, columns):
        if line[np.uint64(j)] < CLOSE * (size_B[i] + size_B[left + j]):
            d = distance(x_BD[i], x_BD[left + j], SQUARED)
            line[np.uint64(j)] = d
            found |= COINCIDES if d == ZERO else NEAR
    return found


@compiled
def distances_of_row(lines, r, i, left, skip, columns, x_BD, size_B, kind, line):
    """Distances of row i to columns skip.. of its line, all of other classes, into part 0 of a scratch line.

    Part 1 holds the sizes of the columns. Returns NOTHING, or NEAR where one was so close that it was repeated
    directly, or COINCIDES where one is the same.
    """
    found = NOTHING
    if kind == COSINE:
        for j in range(WIDTH):
            line[j] = ONE - lines[r, j]
    elif _squared(lines, r, size_B[i], line) > ZERO:
        found = _repeat_close(i, left, skip, columns, x_BD, size_B, line)
    if kind == EUCLIDEAN:
        for j in range(WIDTH):
            line[j] = np.sqrt(line[j])
    for j in range(skip):
        line[np.uint64(j)] = FAR
    for j in range(columns, WIDTH):
        line[np.uint64(j)] = FAR
    return found


@compiled
def sort_by_class(labels_B, order_B, first_B, last_B, positive_B):
    """Stable order by label, each row's run, and its positives (0: no anchor); returns the most positives.

    A row with a negative label is a class alone.
    """
    rows = labels_B.shape[0]
    order_B[:] = np.argsort(labels_B, kind="mergesort")
    begin, most = 0, 0
    for i in range(1, rows + 1):
        label = labels_B[order_B[begin]]
        if i < rows and label >= 0 and labels_B[order_B[i]] == label:
            continue
        count = i - begin - 1
        if count + 1 == rows:
            count = 0
        most = max(most, count)
        for j in range(begin, i):
            first_B[j], last_B[j], positive_B[j] = begin, i, count
        begin = i
    return most


@exactly
def _divide(x_D, by, out_D):
    """Not by a product with 1 / by, which is beyond float32 where `by` is near the smallest of numbers."""
    for c in range(x_D.shape[0]):
        out_D[c] = x_D[c] / by


@compiled
def prepare_rows(x_BD, order_B, kind, sorted_BD, size_B, norm_B):
    """Rows in sorted order (cosine: over their norm, a zero row stays zero), their squared sizes and norms.

    Returns the largest size, and whether the rows lie far from the origin (as `distances._coarse_mean` decides).
    """
    rows, width = x_BD.shape
    mean_D = np.zeros(width, np.float64)
    largest, total = ZERO, 0.0
    for i in range(rows):
        x_D, out_D = x_BD[order_B[i]], sorted_BD[i]
        if kind == COSINE:
            scale, squares = ZERO, ZERO
            for c in range(width):
                scale = max(scale, abs(x_D[c]))
            if scale > ZERO:
                _divide(x_D, scale, out_D)
                for c in range(width):
                    squares += out_D[c] * out_D[c]
                root = np.sqrt(squares)
                for c in range(width):
                    out_D[c] /= root
                norm_B[i] = root * scale
            else:
                out_D[:] = ZERO
                norm_B[i] = ZERO
        else:
            for c in range(width):
                out_D[c] = x_D[c]
                mean_D[c] += np.float64(x_D[c])
        size = ZERO
        for c in range(width):
            size += out_D[c] * out_D[c]
        size_B[i] = size
        largest = max(largest, size)
        total += np.float64(size)
    centre = 0.0
    for c in range(width):
        centre += (mean_D[c] / rows) ** 2
    return largest, centre > 4 * (total / rows - centre)


@compiled
def positive_distances(x_BD, first_B, positive_B, kind, lo, hi, d_BK):
    """Distances of rows lo..hi to the other members of their class, in order; -infinity beyond them."""
    for i in range(lo, hi):
        for k in range(positive_B[i]):
            p = first_B[i] + k
            p += 1 if p >= i else 0
            d_BK[i, k] = distance(x_BD[i], x_BD[p], kind)
        d_BK[i, positive_B[i] :] = -np.inf


@compiled
def positives_from_products(dot_NN, first, x_BD, size_B, kind, d_BK):
    """The same for one large class, from the dot products of its members; close pairs once more, directly."""
    members = dot_NN.shape[0]
    for r in range(members):
        i = first + r
        for c in range(members):
            if c == r:
                continue
            if kind == COSINE:
                d = ONE - dot_NN[r, c]
            else:
                both = size_B[i] + size_B[first + c]
                d = both - TWO * dot_NN[r, c]
                if d < CLOSE * both:
                    d = distance(x_BD[i], x_BD[first + c], SQUARED)
                if kind == EUCLIDEAN:
                    d = np.sqrt(d)
            d_BK[i, c - (1 if c > r else 0)] = d
        d_BK[i, members - 1 :] = -np.inf


@compiled
def positive_coefficients(g_BK, first, kind, out_NN):
    """What the members of a class weigh in each other's gradient, and, on the diagonal, in their own."""
    members = out_NN.shape[0]
    for r in range(members):
        out_NN[r, r] = ZERO
    for r in range(members):
        for c in range(r):
            g = g_BK[first + r, c] + g_BK[first + c, r - 1]
            out_NN[r, c], out_NN[c, r] = -g, -g
            if kind != COSINE:
                out_NN[r, r] += g
                out_NN[c, c] += g


@compiled
def add_positive_pairs(x_BD, first_B, positive_B, g_BK, d_BK, kind, lo, hi, dx_BD):
    """Gradient of positive pairs on rows lo..hi; `g_BK[i, k]` is that of the distance from i to its k-th positive."""
    for i in range(lo, hi):
        for k in range(positive_B[i]):
            p = first_B[i] + k
            p += 1 if p >= i else 0
            back = i - first_B[i] - (1 if i > p else 0)
            g = g_BK[i, k] + g_BK[p, back]
            if kind == COSINE:
                for c in range(x_BD.shape[1]):
                    dx_BD[i, c] -= g * x_BD[p, c]
            else:
                if kind == EUCLIDEAN:
                    g = HALF * g / d_BK[i, k] if d_BK[i, k] > ZERO else ZERO
                for c in range(x_BD.shape[1]):
                    dx_BD[i, c] += TWO * g * (x_BD[i, c] - x_BD[p, c])


@compiled
def add_pair(x_BD, i, j, g, d, kind, dx_BD):
    """Gradient of one pair on both of its rows; `g` is that of its distance `d`."""
    if kind == COSINE:
        for c in range(x_BD.shape[1]):
            dx_BD[i, c] -= g * x_BD[j, c]
            dx_BD[j, c] -= g * x_BD[i, c]
        return
    if kind == EUCLIDEAN:
        g = HALF * g / d if d > ZERO else ZERO
    for c in range(x_BD.shape[1]):
        gap = TWO * g * (x_BD[i, c] - x_BD[j, c])
        dx_BD[i, c] += gap
        dx_BD[j, c] -= gap


@compiled
def add_turned(turned_HDB, sum_B, x_BD, kind, lo, hi, dx_BD):
    """Rows lo..hi of a gradient: what threads have of it as columns, and the part of each row itself."""
    block = 64  # rows at a time, so that they are in the first cache while they are gone through across
    for start in range(lo, hi, block):
        stop = min(start + block, hi)
        for h in range(turned_HDB.shape[0]):
            for c in range(x_BD.shape[1]):
                for i in range(start, stop):
                    dx_BD[i, c] += turned_HDB[h, c, i]
        if kind != COSINE:
            for i in range(start, stop):
                for c in range(x_BD.shape[1]):
                    dx_BD[i, c] -= TWO * sum_B[i] * x_BD[i, c]


@compiled
def finish_rows(dx_BD, x_BD, norm_B, order_B, kind, lo, hi, out_BD):
    """Sorted rows lo..hi of a gradient to the order given, through the normalisation where there is one."""
    for i in range(lo, hi):
        out_D = out_BD[order_B[i]]
        if kind != COSINE:
            for c in range(x_BD.shape[1]):
                out_D[c] = dx_BD[i, c]
            continue
        along = ZERO
        for c in range(x_BD.shape[1]):
            along += dx_BD[i, c] * x_BD[i, c]
        for c in range(x_BD.shape[1]):
            out_D[c] = dx_BD[i, c] - along * x_BD[i, c]
        if norm_B[i] > ZERO:
            _divide(out_D, norm_B[i], out_D)
        else:
            out_D[:] = ZERO
