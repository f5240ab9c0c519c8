"""Compiled steps over the rows of a batch, for the CPU (numba; float32): sorting, preparing, finishing.

The passes over panels of distances are in `_counting` (all triplets) and `_nearest` (chosen triplets). No function here
or there holds the interpreter lock, so that threads can share the work: each call does the rows or columns lo..hi.

Rows are sorted by class, so a class is a run first..last, the negatives of row i that come later begin at last[i], and
no mask is needed to leave its positives out. Rows that are no anchors have 0 positives.

Legend: B rows, D width, K positives of the largest class.
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


ZERO, ONE, TWO, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
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
def _line(dot_W, size, size_W, cosine, d_W):
    """Distances (not yet rooted) from dot products; how many are so close that the product form has lost digits."""
    close = ZERO
    if cosine:
        for j in range(d_W.shape[0]):
            d_W[j] = ONE - dot_W[j]
        return close
    for j in range(d_W.shape[0]):
        both = size + size_W[j]
        value = both - TWO * dot_W[j]
        close += ONE if value < CLOSE * both else ZERO
        d_W[j] = value if value > ZERO else ZERO
    return close


@compiled
def panel_row(dot_W, i, start, x_BD, size_B, kind, d_W):
    """Distances of row i to the rows from `start` on, all of other classes.

    Returns NOTHING, or NEAR where one was so close that it was repeated directly, or COINCIDES where one is the same.
    """
    n = d_W.shape[0]
    size_W = size_B[start : start + n]
    found = NOTHING
    if _line(dot_W, size_B[i], size_W, kind == COSINE, d_W) > ZERO:
        for j in range(n):
            if d_W[j] < CLOSE * (size_B[i] + size_W[j]):
                d_W[j] = distance(x_BD[i], x_BD[start + j], SQUARED)
                found |= COINCIDES if d_W[j] == ZERO else NEAR
    if kind == EUCLIDEAN:
        for j in range(n):
            d_W[j] = np.sqrt(d_W[j])
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
                for c in range(width):
                    part = x_D[c] / scale
                    squares += part * part
                    out_D[c] = part
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
        factor = ONE / norm_B[i] if norm_B[i] > ZERO else ZERO
        for c in range(x_BD.shape[1]):
            out_D[c] = (dx_BD[i, c] - along * x_BD[i, c]) * factor
