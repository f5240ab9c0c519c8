"""Compiled passes over one tile of distances, line by line, for the CPU (numba; float32 and float64).

They do what the tiles do in torch operations, with a line of distances at a time in the first cache: whoever the
positives and negatives are (labels, a reference, a relation), the tile says so by its masks. Each is called through
`run`, which shares the rows of a tile among threads.

Legend: T rows of a tile, M other rows, D width, K positives of the anchor that has the most, W columns at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from tercet.functional._kernels import COSINE, EUCLIDEAN, SQUARED, compiled, exactly
from tercet.functional._threads import share

__all__ = [
    "KINDS",
    "count_tile",
    "direct_distances",
    "label_masks",
    "nearest_beyond",
    "product_distances",
    "run",
    "soft_tile",
]

KINDS = {"squared": SQUARED, "euclidean": EUCLIDEAN, "cosine": COSINE}

_W = 1024
_REACH = 300.0  # of exponents, so that products of two exponentials stay in float64
_MANY = 256  # positives beyond which a search in sorted thresholds beats a pass for each


def run(work: Callable[..., None], rows: int, cost: int, *arguments: object) -> None:
    """Call a pass of this module on every row of a tile; tensors are handed over as arrays."""
    given = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]
    share(lambda lo, hi, _: work(lo, hi, *given), rows, cost)


@exactly
def _gap(d_ap, d_an, margin):
    """Not (d_ap + margin) - d_an, which loses a small margin."""
    return (d_ap - d_an) + margin


@compiled
def _count_line(d_ap, margin, none, one, d_W, g_W):
    """One positive against a line of negatives (others are at infinity): sum of hinges, how many are above 0.

    One less in the gradient for each of these.
    """
    total, count = none, none
    for j in range(d_W.shape[0]):
        gap = _gap(d_ap, d_W[j], margin)
        on = one if gap > none else none
        total += gap if gap > none else none
        count += on
        g_W[j] -= on
    return total, count


@exactly
def _sum(mask_W):
    count = 0
    for j in range(mask_W.shape[0]):
        count += mask_W[j]
    return count


@exactly
def _only(d_W, mask_W, far, out_W):
    """Distances where the mask is set, `far` elsewhere."""
    for j in range(d_W.shape[0]):
        out_W[j] = d_W[j] if mask_W[j] else far


@exactly
def _search(d_W, end_K, count_L, g_W):
    """A line against sorted thresholds: the bucket of each distance; the sum of active thresholds times distance."""
    many = end_K.shape[0]
    spent = 0.0
    for j in range(d_W.shape[0]):
        value = np.float64(d_W[j])
        if not value < end_K[many - 1]:
            continue
        lo, size = 0, many
        while size > 1:  # halves without a branch; end_K[lo - 1] <= value < end_K[lo + size - 1]
            half = size // 2
            lo = lo + half if end_K[lo + half - 1] <= value else lo
            size -= half
        count_L[lo] += 1
        spent += (many - lo) * value
        g_W[j] -= many - lo
    return spent


@exactly
def count_tile(lo, hi, d_TM, positive_TM, negative_TM, margin_T, loss_T, kept_T, active_T, g_TM):
    """All triplets of rows lo..hi: loss, kept and active per anchor, and the gradient on the distances.

    `g_TM` has no columns where no gradient is wanted.
    """
    others = d_TM.shape[1]
    wanted = g_TM.shape[1] > 0
    lines = np.empty((2, _W + 16), d_TM.dtype)  # not a multiple of 4 KB apart, or loads would wait for stores
    d_W, g_W = lines[0], lines[1]
    none, one, far = np.array([0.0, 1.0, np.inf]).astype(d_TM.dtype)
    column_K = np.empty(others, np.int32)
    for i in range(lo, hi):
        many, negatives = 0, 0
        for start in range(0, others, _W):
            stop = min(start + _W, others)
            negatives += _sum(negative_TM[i, start:stop])
            if _sum(positive_TM[i, start:stop]) > 0:
                for j in range(start, stop):
                    if positive_TM[i, j]:
                        column_K[many] = j
                        many += 1
        kept_T[i] = many * negatives
        if many * negatives == 0:
            loss_T[i], active_T[i] = 0, 0
            g_TM[i, :] = 0
            continue
        loss, spent = 0.0, 0.0
        count_K = np.zeros(many, np.int64)
        end_K, order_K = np.empty(0), np.empty(0, np.int64)
        if many > _MANY:
            ends = np.empty(many)
            for k in range(many):  # in float64 a threshold loses nothing of a margin small beside the distance
                ends[k] = np.float64(d_TM[i, column_K[k]]) + np.float64(margin_T[i])
            order_K = np.argsort(ends)
            end_K = ends[order_K]
        for start in range(0, others, _W):
            n = min(_W, others - start)
            g_W[:n] = 0
            _only(d_TM[i, start : start + n], negative_TM[i, start : start + n], far, d_W[:n])
            if many > _MANY:
                spent += _search(d_W[:n], end_K, count_K, g_W)
            else:
                for k in range(many):
                    total, count = _count_line(d_TM[i, column_K[k]], margin_T[i], none, one, d_W[:n], g_W[:n])
                    loss += np.float64(total)
                    count_K[k] += np.int64(count)
            if wanted:
                g_TM[i, start : start + n] = g_W[:n]
        active = 0
        if many > _MANY:
            below = 0
            for k in range(many):
                below += count_K[k]
                loss += below * end_K[k]
                active += below
                if wanted:
                    g_TM[i, column_K[order_K[k]]] += below
            loss = max(loss - spent, 0.0)
        else:
            for k in range(many):
                active += count_K[k]
                if wanted:
                    g_TM[i, column_K[k]] += count_K[k]
        loss_T[i], active_T[i] = loss, active


@compiled
def _soft_line(e_ap, e_W, product_W, g_W):
    """One positive against a line: e = exp(d_ap - d_an) into prod(1 + e) - 1, kept so that small ones stay exact.

    Less the slope e / (1 + e) in the gradient for each; their sum.
    """
    total = 0.0
    for j in range(e_W.shape[0]):
        e = e_ap * e_W[j]
        product_W[j] += e + product_W[j] * e
        slope = e / (1.0 + e)
        g_W[j] -= slope
        total += slope
    return total


@exactly
def soft_tile(lo, hi, d_TM, positive_TM, negative_TM, loss_T, kept_T, g_TM):
    """As `count_tile` with the soft margin: one exponential and one logarithm a pair instead of one a triplet.

    exp(d_ap - d_an) is a product, and a sum of log(1 + e) the logarithm of a product, in groups that do not overflow.
    Rows whose distances differ by more than 300, where an exponential could overflow, are done triplet by triplet.
    """
    others = d_TM.shape[1]
    wanted = g_TM.shape[1] > 0
    e_W, product_W, g_W = np.empty((3, others + 16))
    column_K = np.empty(others, np.int32)
    for i in range(lo, hi):
        many, negatives = 0, 0
        low, high, near, far = np.inf, -np.inf, np.inf, -np.inf  # of negatives and positives
        for j in range(others):
            value = np.float64(d_TM[i, j])
            if negative_TM[i, j]:
                negatives += 1
                near, high = min(near, value), max(high, value)
            elif positive_TM[i, j]:
                column_K[many] = j
                many += 1
                low, far = min(low, value), max(far, value)
        kept_T[i] = many * negatives
        g_W[:] = 0
        loss = 0.0
        slope_K = np.zeros(many)
        if many * negatives > 0 and max(high, far) - min(low, near) <= _REACH:
            centre = near
            for j in range(others):
                e_W[j] = np.exp(centre - np.float64(d_TM[i, j])) if negative_TM[i, j] else 0.0
            group = int(min(many, 600.0 / np.log1p(np.exp(far - near))))
            for first in range(0, many, group):
                product_W[:others] = 0
                for k in range(first, min(first + group, many)):
                    e_ap = np.exp(np.float64(d_TM[i, column_K[k]]) - centre)
                    slope_K[k] = _soft_line(e_ap, e_W[:others], product_W[:others], g_W[:others])
                for j in range(others):
                    loss += np.log1p(product_W[j])
        elif many * negatives > 0:
            for k in range(many):
                for j in range(others):
                    if negative_TM[i, j]:
                        z = np.float64(d_TM[i, column_K[k]] - d_TM[i, j])
                        fall = np.exp(-abs(z))
                        part = max(z, 0.0) + np.log1p(fall)
                        loss += part
                        slope = (1.0 if z >= 0 else fall) / (1.0 + fall)
                        slope_K[k] += slope
                        g_W[j] -= slope
        loss_T[i] = loss
        if wanted:
            g_TM[i, :] = g_W[:others]
            for k in range(many):
                g_TM[i, column_K[k]] += slope_K[k]


@compiled
def _candidates(d_ap, below, d_W, none, one):
    """How many of a line lie beyond d_ap by less than `below`."""
    count = none
    for j in range(d_W.shape[0]):
        beyond = d_W[j] - d_ap
        count += one if (beyond > none) & (beyond < below) else none
    return count


@exactly
def nearest_beyond(lo, hi, d_TM, negative_TM, column_TK, real_TK, width_T, nearest_TK, found_TK):
    """For each positive of rows lo..hi the nearest negative beyond it by less than `width`; the lowest column at ties.

    A look that is vector code goes first: few stretches of a line hold a nearer one.
    """
    others = d_TM.shape[1]
    line = np.empty(others, d_TM.dtype)
    none, one, far = np.array([0.0, 1.0, np.inf]).astype(d_TM.dtype)
    for i in range(lo, hi):
        found_TK[i, :] = False
        nearest_TK[i, :] = 0
        if not real_TK[i, 0]:
            continue
        _only(d_TM[i], negative_TM[i], far, line)
        for k in range(column_TK.shape[1]):
            if not real_TK[i, k]:
                continue
            d_ap, best = d_TM[i, column_TK[i, k]], width_T[i]
            for start in range(0, others, _W):
                stop = min(start + _W, others)
                if _candidates(d_ap, best, line[start:stop], none, one) > none:
                    for j in range(start, stop):
                        beyond = line[j] - d_ap
                        if beyond > none and beyond < best:
                            best, nearest_TK[i, k], found_TK[i, k] = beyond, j, True


@compiled
def direct_distances(lo, hi, x_TD, y_MD, kind, d_TM):
    """Distances pair by pair; the same operations for every pair, so equal rows get equal distances."""
    none = x_TD[0, 0] - x_TD[0, 0]
    for i in range(lo, hi):
        for j in range(y_MD.shape[0]):
            total = none
            if kind == COSINE:
                for c in range(x_TD.shape[1]):
                    total += x_TD[i, c] * y_MD[j, c]
                d_TM[i, j] = 1 - total
            else:
                for c in range(x_TD.shape[1]):
                    gap = x_TD[i, c] - y_MD[j, c]
                    total += gap * gap
                d_TM[i, j] = np.sqrt(total) if kind == EUCLIDEAN else total


@compiled
def _from_dots(dot_M, size, size_M, least):
    """Squared distances in place of dot products; how many have lost digits."""
    zero, two = least - least, np.float32(2)
    close = 0
    for j in range(dot_M.shape[0]):
        both = size + size_M[j]
        value = both - two * dot_M[j]
        close += value < least * both
        dot_M[j] = value if value > zero else zero
    return close


@compiled
def product_distances(lo, hi, d_TM, size_T, size_M, x_TD, y_MD, least, root):
    """From dot products (of shifted rows) to distances, in place; the close pairs anew, directly from the rows."""
    zero = np.float32(0)
    for i in range(lo, hi):
        if _from_dots(d_TM[i], size_T[i], size_M, least) > 0:
            for j in range(y_MD.shape[0]):
                if d_TM[i, j] < least * (size_T[i] + size_M[j]):
                    total = zero
                    for c in range(x_TD.shape[1]):
                        gap = x_TD[i, c] - y_MD[j, c]
                        total += gap * gap
                    d_TM[i, j] = total
        if root:
            for j in range(y_MD.shape[0]):
                d_TM[i, j] = np.sqrt(d_TM[i, j])


@exactly
def label_masks(lo, hi, labels_T, labels_M, self_T, positive_TM, negative_TM):
    """Who is positive and who is negative to each anchor, itself neither; rows that are no anchors have nobody."""
    others = labels_M.shape[0]
    for i in range(lo, hi):
        label, alike = labels_T[i], 0
        for j in range(others):
            same = labels_M[j] == label
            positive_TM[i, j] = same
            negative_TM[i, j] = not same
            alike += same
        unlike = others - alike
        if self_T[i] >= 0:
            alike -= positive_TM[i, self_T[i]]
            unlike -= negative_TM[i, self_T[i]]
            positive_TM[i, self_T[i]] = negative_TM[i, self_T[i]] = False
        if label < 0 or alike == 0 or unlike == 0:
            positive_TM[i, :] = False
            negative_TM[i, :] = False
