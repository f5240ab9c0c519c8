"""Compiled passes for selections that keep one negative per anchor or per pair: the nearest one above a floor.

Panels and their conventions are those of `_counting`; distances are looked at, nothing is left in the panel.

Legend: B rows, D width, R rows and C columns of a panel, W columns at a time, K positives of the largest class,
F floors per row, H threads.
"""

from __future__ import annotations

import numpy as np

from tercet.functional._kernels import NOTHING, ONE, ZERO, add_pair, compiled, panel_row

__all__ = ["ALL_POSITIVES", "FARTHEST", "NEAREST", "choose_and_sum", "merge_threads", "nearest_panel"]

_INFINITY = np.float32(np.inf)
ALL_POSITIVES, FARTHEST, NEAREST = 0, 1, 2  # which positives of an anchor are kept


@compiled
def _nearest_of_row(d_W, above, best, best_name, name_W):
    """The nearest column farther than `above` and nearer than `best`; at a tie the lowest name.

    Few chunks of columns hold one: a look that is vector code goes first.
    """
    candidates = ZERO
    for j in range(d_W.shape[0]):
        candidates += ONE if (d_W[j] <= best) & (d_W[j] > above) else ZERO
    if candidates > ZERO:
        for j in range(d_W.shape[0]):
            nearer = d_W[j] < best or (d_W[j] == best and name_W[j] < best_name)
            if nearer and d_W[j] > above:
                best, best_name = d_W[j], name_W[j]
    return best, best_name


@compiled
def _nearest_of_columns(d_W, above_W, name, best_W, best_name_W):
    """The same with the row as candidate of every column."""
    for j in range(d_W.shape[0]):
        value = d_W[j] if d_W[j] > above_W[j] else _INFINITY
        best, best_name = best_W[j], best_name_W[j]
        tied = min(best_name, name) if value == best else best_name
        best_name_W[j] = name if value < best else tied
        best_W[j] = value if value < best else best


@compiled
def nearest_panel(
    panel_RC, begin, x_BD, size_B, last_B, kind, lo, hi, width,
    above_FB, name_B, best_FB, best_name_FB,
):  # fmt: skip
    """For each of F floors per row, the nearest negative above it, with its name (its place in the batch as given).

    `best` holds the exclusive upper end at first, with name -1. Returns what `panel_row` found.
    """
    d = np.empty(width, np.float32)
    found = NOTHING
    for left in range(lo, hi, width):
        right = min(left + width, hi)
        for r in range(panel_RC.shape[0]):
            i = begin + r
            start, stop = max(last_B[i], begin + left), begin + right
            if start >= stop:
                continue
            d_W = d[: stop - start]
            found |= panel_row(panel_RC[r, start - begin : right], i, start, x_BD, size_B, kind, d_W)
            for k in range(above_FB.shape[0]):
                best_FB[k, i], best_name_FB[k, i] = _nearest_of_row(
                    d_W, above_FB[k, i], best_FB[k, i], best_name_FB[k, i], name_B[start:stop]
                )
                _nearest_of_columns(
                    d_W, above_FB[k, start:stop], name_B[i], best_FB[k, start:stop], best_name_FB[k, start:stop]
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
