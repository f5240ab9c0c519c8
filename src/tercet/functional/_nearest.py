"""Compiled passes for selections that keep one negative per anchor or per pair: the nearest one above a floor.

Distances are looked at, nothing is left in the block.

Legend: B rows, D width, R rows and C columns of a block (see `_kernels`), K positives of the largest class, F floors
per row, H threads.
"""

from __future__ import annotations

import numpy as np

from tercet.functional._kernels import (
    FAR,
    NOTHING,
    ONE,
    PART,
    WIDTH,
    ZERO,
    add_pair,
    compiled,
    distances_of_row,
    fill_sizes,
)

__all__ = ["ALL_POSITIVES", "FARTHEST", "NEAREST", "choose_and_sum", "merge_threads", "nearest_block"]

_INFINITY = np.float32(np.inf)
ALL_POSITIVES, FARTHEST, NEAREST = 0, 1, 2  # which positives of an anchor are kept


@compiled
def _nearest_of_row(line, left, above, best, best_name, name_B):
    """The nearest column farther than `above` and nearer than `best`; at a tie the lowest name.

    Few lines hold one: a look that is vector code goes first.
    """
    candidates = ZERO
    for j in range(WIDTH):
        candidates += ONE if (line[j] <= best) & (line[j] > above) & (line[j] < FAR) else ZERO
    if candidates > ZERO:
        for j in range(WIDTH):
            value = line[np.uint64(j)]
            if value <= best and value > above and value < FAR:
                name = name_B[left + j]
                if value < best or name < best_name:
                    best, best_name = value, name
    return best, best_name


@compiled
def _nearest_of_columns(line, n, k, start, above_FB, name, best_FB, best_name_FB):
    """The same with the row as candidate of every column."""
    for j in range(n):
        value = line[j] if (line[j] > above_FB[k, start + j]) & (line[j] < FAR) else _INFINITY
        best, best_name = best_FB[k, start + j], best_name_FB[k, start + j]
        tied = min(best_name, name) if value == best else best_name
        best_name_FB[k, start + j] = name if value < best else tied
        best_FB[k, start + j] = value if value < best else best


@compiled
def nearest_block(
    lines, top, rows, left, columns, x_BD, size_B, last_B, kind,
    above_FB, name_B, best_FB, best_name_FB,
):  # fmt: skip
    """For each of F floors per row, the nearest negative above it, with its name (its place in the batch as given).

    `best` holds the exclusive upper end at first, with name -1. Returns what `distances_of_row` found.
    """
    line = np.zeros(2 * PART, np.float32)
    found = NOTHING
    fill_sizes(size_B, left, columns, line)
    for r in range(rows):
        i = top + r
        skip = min(max(last_B[i] - left, 0), columns)
        if skip == columns:
            continue
        found |= distances_of_row(lines, np.uint64(r), i, left, skip, columns, x_BD, size_B, kind, line)
        for k in range(above_FB.shape[0]):
            best_FB[k, i], best_name_FB[k, i] = _nearest_of_row(
                line, left, above_FB[k, i], best_FB[k, i], best_name_FB[k, i], name_B
            )
            _nearest_of_columns(
                line, np.uint64(columns), np.uint64(k), np.uint64(left), above_FB, name_B[i], best_FB, best_name_FB
            )
    return found


@compiled
def merge_threads(best_HFB, name_HFB):
    """What the threads found, into the first of them; at a tie the lowest name."""
    for h in range(1, best_HFB.shape[0]):
        for k in range(best_HFB.shape[1]):
            for i in range(best_HFB.shape[2]):
                best, name = best_HFB[h, k, i], name_HFB[h, k, i]
                if name < 0:
                    continue
                held = name_HFB[0, k, i]
                if best < best_HFB[0, k, i] or held < 0 or (best == best_HFB[0, k, i] and name < held):
                    best_HFB[0, k, i], name_HFB[0, k, i] = best, name


@compiled
def choose_and_sum(
    x_BD, order_B, first_B, positive_B, d_BK, best_FB, name_FB, margin_B, soft, which, kind,
    weight_B, mean_per_anchor, gradient,
    loss_B, kept_B, active_B, dx_BD,
):  # fmt: skip
    """Losses and counts per anchor (in the order given), and the gradient on sorted rows, of the pairs that are kept.

    A row of `best` and `name` per pair, or one for all pairs of an anchor.
    """
    rows = x_BD.shape[0]
    place_B = np.empty(rows, np.int64)
    for i in range(rows):
        place_B[order_B[i]] = i
    for i in range(rows):
        lo, hi = 0, positive_B[i]
        if which != ALL_POSITIVES and hi > 0:
            # Class members stand in the order given, so the first of equal ones is the lowest row.
            for k in range(1, hi):
                if d_BK[i, k] > d_BK[i, lo] if which == FARTHEST else d_BK[i, k] < d_BK[i, lo]:
                    lo = k
            hi = lo + 1
        total, kept, active = 0.0, 0, 0
        for k in range(lo, hi):
            kept += name_FB[min(k, name_FB.shape[0] - 1), i] >= 0
        weight = weight_B[i] / np.float32(max(kept, 1)) if mean_per_anchor else weight_B[i]
        for k in range(lo, hi):
            f = min(k, name_FB.shape[0] - 1)
            if name_FB[f, i] < 0:
                continue
            d_ap, d_an = d_BK[i, k], best_FB[f, i]
            gap = d_ap - d_an
            if soft:
                z = np.float64(gap)
                fall = np.exp(-abs(z))
                loss = max(z, 0.0) + np.log1p(fall)
                slope = np.float32((1.0 if z >= 0 else fall) / (1.0 + fall))
            else:
                gap += margin_B[i]
                loss = np.float64(gap) if gap > ZERO else 0.0
                slope = ONE if gap > ZERO else ZERO
            total += loss
            active += loss > 0.0
            g = slope * weight
            if gradient and g != ZERO:
                p = first_B[i] + k
                p += 1 if p >= i else 0
                add_pair(x_BD, i, p, g, d_ap, kind, dx_BD)
                add_pair(x_BD, i, place_B[name_FB[f, i]], -g, d_an, kind, dx_BD)
        given = order_B[i]
        loss_B[given], kept_B[given], active_B[given] = total, kept, active
