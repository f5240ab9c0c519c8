"""The definitions, written to be read: plain loops over (anchor, positive, negative).

Every fast path of tercet is tested against this file, values and gradients. Nothing here is fast, and nothing here
shares code with what it is the oracle of. Gradients come from autograd, so this file may also be used with float64
`torch.autograd.gradcheck` and in second derivatives.

Legend: B rows of the batch, M reference rows, D embedding width, T triplets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "pair_distance",
    "draw",
    "relation_of",
    "triplets",
    "triplet_loss",
    "batch_triplet_loss",
    "multi_sample_triplet_loss",
    "census",
    "margin_curve",
]

Triplet = tuple[int, int, int]
Margin = float | str | Tensor
Relation = Callable[[Tensor, Tensor], Tensor]


def pair_distance(u_D: Tensor, v_D: Tensor, distance: str) -> Tensor:
    """Distance of two vectors: sum (u - v)^2, its square root, or 1 - u.v / (|u| |v|).

    At euclidean distance 0 the gradient is 0. A zero vector has cosine similarity 0 with everything, gradient 0.
    """
    if distance == "cosine":
        if not (u_D.any() and v_D.any()):
            return 1.0 + 0.0 * (u_D.sum() + v_D.sum())
        return 1.0 - torch.dot(u_D / u_D.norm(), v_D / v_D.norm())
    squared = (u_D - v_D).square().sum()
    if distance == "squared":
        return squared
    return squared.sqrt() if squared > 0 else squared


def draw(seed: int, anchor: int, other: int) -> float:
    """A number in [0, 1) that depends on (seed, anchor, other) alone: splitmix64 of a counter.

    No stream of random numbers is consumed, so a tile, a device or a second pass draws the same.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15 * (anchor + 1) + 0xD1B54A32D192ED03 * (other + 1)) & mask
    for _ in range(2):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z = z ^ (z >> 31)
    return (z >> 11) / (1 << 53)


def relation_of(
    labels: Tensor | None,
    reference_labels: Tensor | None = None,
    relation: Relation | None = None,
    anchor_rows: Tensor | None = None,
    *,
    rows: int,
    others: int,
    same_rows: bool,
) -> list[list[int]]:
    """Who is positive (+1), negative (-1) or nothing (0) to whom, as a table [rows][others].

    By labels: equal and not negative is +1, different is -1; a row with a negative label is nobody's +1 and no anchor.
    """
    table = [[0] * others for _ in range(rows)]
    for a in range(rows):
        itself = a if same_rows else (-1 if anchor_rows is None else int(anchor_rows[a]))
        for j in range(others):
            if j == itself:
                continue
            if relation is not None:
                table[a][j] = int(relation(torch.tensor([a]), torch.tensor([j]))[0, 0])
                continue
            assert labels is not None
            mine, theirs = int(labels[a]), int((labels if reference_labels is None else reference_labels)[j])
            if mine >= 0:
                table[a][j] = 1 if mine == theirs else -1
    return table


def triplets(
    d: Sequence[Sequence[float]],
    table: Sequence[Sequence[int]],
    mining: str,
    margin: Sequence[float] | None,
    seed: int = 0,
    width: int = 0,
    chord: Callable[[float], float] = math.sqrt,
) -> list[Triplet]:
    """The triplets that `mining` keeps, in order of (anchor, positive, negative).

    Args:
        d: distances [rows][others].
        table: who is what to whom, from `relation_of`.
        mining: as in `tercet.functional.batch_triplet_loss`.
        margin: one number per anchor, or None for the soft margin.
        seed: of the draws.
        width: D, for `"distance_weighted"`.
        chord: turns a distance into the Euclidean one, for `"distance_weighted"`.
    """
    kept: list[Triplet] = []
    for a, row in enumerate(table):
        positives = [j for j, r in enumerate(row) if r > 0]
        negatives = [j for j, r in enumerate(row) if r < 0]
        if not positives or not negatives:
            continue
        nearest = min(negatives, key=lambda n: d[a][n])
        if mining == "hard":
            kept.append((a, max(positives, key=lambda p: d[a][p]), nearest))
        elif mining == "easy_positive":
            kept.append((a, min(positives, key=lambda p: d[a][p]), nearest))
        else:
            for p in positives:
                if mining == "all":
                    kept += [(a, p, n) for n in negatives]
                elif mining == "hard_negative":
                    kept.append((a, p, nearest))
                elif mining == "semihard":
                    end = math.inf if margin is None else d[a][p] + margin[a]
                    window = [n for n in negatives if d[a][p] < d[a][n] < end]
                    if window:
                        kept.append((a, p, min(window, key=lambda n: d[a][n])))
                elif mining == "random":
                    kept.append((a, p, negatives[int(draw(seed, a, p) * len(negatives))]))
                elif mining == "distance_weighted":
                    weights = _distance_weights([chord(d[a][n]) for n in negatives], width)
                    mark, total = draw(seed, a, p) * sum(weights), 0.0
                    chosen = negatives[-1]
                    for n, weight in zip(negatives, weights, strict=True):
                        total += weight
                        if total > mark:
                            chosen = n
                            break
                    kept.append((a, p, chosen))
                else:
                    raise ValueError(mining)
    return kept


def _distance_weights(chords: Sequence[float], width: int) -> list[float]:
    """min(lambda, 1 / q(d)), q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2), with d at least 0.5 and nothing beyond 1.4.

    The two cut-offs are those of the authors' code. Where everything lies beyond 1.4, all weigh the same.
    Source: Wu et al., "Sampling matters in deep embedding learning", ICCV 2017, section 3.2.
    """
    if all(c >= 1.4 for c in chords):
        return [1.0] * len(chords)
    logs = []
    for c in chords:
        c = max(c, 0.5)
        if c < 1.4:
            logs.append((2 - width) * math.log(c) - (width - 3) / 2 * math.log(1 - c * c / 4))
        else:
            logs.append(-math.inf)
    top = max(logs)
    return [math.exp(value - top) for value in logs]


def _reduce(losses_T: list[Tensor], kept: list[Triplet], rows: int, reduction: str, zero: Tensor, soft: bool) -> Tensor:
    """`losses_T` of the triplets `kept`, reduced; `zero` is a 0 that the graph knows."""
    sums = [[loss for loss, t in zip(losses_T, kept, strict=True) if t[0] == a] for a in range(rows)]
    if reduction == "none":
        return torch.stack([sum(s, zero) for s in sums]) if rows else zero.reshape(1)[:0]
    if reduction == "anchor":
        means = [sum(s, zero) / len(s) for s in sums if s]
        return sum(means, zero) / max(len(means), 1)
    total = sum(losses_T, zero)
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / max(len(losses_T), 1)
    # "active"; log(1 + exp(gap)) is above 0 whatever the gap, also where a float rounds it to 0
    return total / max(len(losses_T) if soft else sum(bool(loss > 0) for loss in losses_T), 1)


def _hinge(gap: Tensor, margin: float | None) -> Tensor:
    """max(0, gap + margin), or log(1 + exp(gap)) for the soft margin."""
    return torch.logaddexp(gap, torch.zeros_like(gap)) if margin is None else torch.relu(gap + margin)


def _margins(margin: Margin, rows: int) -> list[float] | None:
    if isinstance(margin, str):
        return None
    if isinstance(margin, Tensor) and margin.ndim:
        return [float(m) for m in margin]
    return [float(margin)] * rows


def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Formula 1 on N given triplets: mean of max(0, d(a, p) - d(a, n) + margin)."""
    rows = anchor.shape[0]
    margins = _margins(margin, rows)
    losses = []
    for i in range(rows):
        d_an = pair_distance(anchor[i], negative[i], distance)
        if swap:
            d_pn = pair_distance(positive[i], negative[i], distance)
            d_an = d_pn if d_pn < d_an else d_an
        losses.append(_hinge(pair_distance(anchor[i], positive[i], distance) - d_an, margins[i] if margins else None))
    zero = 0.0 * (anchor.sum() + positive.sum() + negative.sum())
    return _reduce(losses, [(i, i, i) for i in range(rows)], rows, reduction, zero, margins is None)


def batch_triplet_loss(
    embeddings: Tensor,
    labels: Tensor | None,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    mining: str = "all",
    reduction: str = "mean",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    anchor_rows: Tensor | None = None,
    relation: Relation | None = None,
    swap: bool = False,
    seed: int = 0,
) -> Tensor:
    """Formula 1 over the triplets of a batch that `mining` keeps; the loss behind `tercet.functional`'s fast one."""
    others = embeddings if reference is None else reference
    rows = embeddings.shape[0]
    table = relation_of(
        labels,
        reference_labels,
        relation,
        anchor_rows,
        rows=rows,
        others=others.shape[0],
        same_rows=reference is None,
    )
    d = [[pair_distance(u, v, distance) for v in others] for u in embeddings]
    kept = triplets(
        [[float(v.detach()) for v in row] for row in d],
        table,
        mining,
        _margins(margin, rows),
        seed,
        embeddings.shape[1],
        {"squared": math.sqrt, "euclidean": float, "cosine": lambda c: math.sqrt(2 * max(c, 0.0))}[distance],
    )
    margins = _margins(margin, rows)
    losses = []
    for a, p, n in kept:
        d_an = d[a][n]
        if swap:
            d_pn = pair_distance(others[p], others[n], distance)
            d_an = d_pn if d_pn < d_an else d_an
        losses.append(_hinge(d[a][p] - d_an, margins[a] if margins else None))
    return _reduce(losses, kept, rows, reduction, 0.0 * (embeddings.sum() + others.sum()), margins is None)


def multi_sample_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    reduction: str = "mean",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Formula 2: mean over anchors of max(0, mean distance to positives - mean distance to negatives + margin)."""
    others = embeddings if reference is None else reference
    rows = embeddings.shape[0]
    table = relation_of(labels, reference_labels, rows=rows, others=others.shape[0], same_rows=reference is None)
    margins = _margins(margin, rows)
    losses, kept = [], []
    zero = 0.0 * (embeddings.sum() + others.sum())
    for a, row in enumerate(table):
        positives = [pair_distance(embeddings[a], others[j], distance) for j, r in enumerate(row) if r > 0]
        negatives = [pair_distance(embeddings[a], others[j], distance) for j, r in enumerate(row) if r < 0]
        if positives and negatives:
            gap = sum(positives, zero) / len(positives) - sum(negatives, zero) / len(negatives)
            losses.append(_hinge(gap, margins[a] if margins else None))
            kept.append((a, a, a))
    return _reduce(losses, kept, rows, reduction, zero, margins is None)


def census(
    embeddings: Tensor, labels: Tensor, *, margin: float | Tensor = 0.2, distance: str = "squared"
) -> dict[str, list[int]]:
    """Per anchor, how many triplets are hard (d_an <= d_ap), semihard (d_ap < d_an < d_ap + margin), easy, in total."""
    rows = embeddings.shape[0]
    table = relation_of(labels, rows=rows, others=rows, same_rows=True)
    margins = _margins(margin, rows)
    assert margins is not None
    d = [[float(pair_distance(u, v, distance)) for v in embeddings] for u in embeddings]
    counts = {name: [0] * rows for name in ("total", "easy", "semihard", "hard")}
    for a, p, n in triplets(d, table, "all", margins):
        kind = "hard" if d[a][n] <= d[a][p] else "semihard" if d[a][n] < d[a][p] + margins[a] else "easy"
        counts[kind][a] += 1
        counts["total"][a] += 1
    return counts


def margin_curve(
    embeddings: Tensor, labels: Tensor, margins: Sequence[float], *, distance: str = "squared"
) -> tuple[list[float], list[float]]:
    """The mean loss and the share of active triplets at each margin."""
    rows = embeddings.shape[0]
    table = relation_of(labels, rows=rows, others=rows, same_rows=True)
    d = [[float(pair_distance(u, v, distance)) for v in embeddings] for u in embeddings]
    kept = triplets(d, table, "all", [0.0] * rows)
    values = [[max(0.0, d[a][p] - d[a][n] + m) for a, p, n in kept] for m in margins]
    count = max(len(kept), 1)
    return [math.fsum(v) / count for v in values], [sum(x > 0 for x in v) / count for v in values]
