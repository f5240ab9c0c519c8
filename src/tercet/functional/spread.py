"""How far the negative distances of a batch are spread: the unit in which a margin can be said without a number.

Legend: B rows of the batch, M reference rows, D embedding width, T anchors that are looked at, S others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tercet.functional._compile import full_precision
from tercet.functional.distances import unit_rows
from tercet.functional.options import DISTANCES, check_choice, check_embeddings
from tercet.functional.triplets import check_problem

__all__ = ["chance_spread", "negative_spread"]

# A standard deviation of a hundred thousand pairs is known to well under one per cent; more would only cost time.
_MOST_ANCHORS = 256
_MOST_OTHERS = 1024


@torch.no_grad()
@full_precision
def chance_spread(embeddings: Tensor, *, distance: str = "squared") -> float:
    """Standard deviation of the distance of two independent random vectors of the embeddings' length and width.

    With r^2 the mean squared length of the rows [B, D]: 2 r^2 / sqrt(D) for squared distances, r / sqrt(2 D) for
    euclidean ones, 1 / sqrt(D) for cosine ones; exact as D grows. O(B D).
    """
    check_embeddings("embeddings", embeddings)
    check_choice("distance", distance, DISTANCES)
    count, width = embeddings.shape
    square = float(embeddings.to(torch.float64).square().sum(1).mean()) if count else 0.0
    unit = 1 / math.sqrt(width)
    return {"squared": 2 * square * unit, "euclidean": math.sqrt(square / 2) * unit, "cosine": unit}[distance]


@torch.no_grad()
@full_precision
def negative_spread(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "squared",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> float | None:
    """Standard deviation of the distances d(a, n) of negative pairs, in units of `distance`; None without such a pair.

    Independent random unit vectors in D dimensions have about 2 / sqrt(D) for squared distances. Of large batches an
    even sample is taken: 256 anchors against 1,024 others at most. O(T S D) time, O(T S) memory.

    Args:
        embeddings: [B, D].
        labels: [B]; rows with a label below 0 are negatives only, never anchors.
        distance: "squared", "euclidean" or "cosine".
        reference: [M, D], where the negatives come from; None: the batch.
        reference_labels: [M].

    Raises:
        InvalidOption: an unknown option.
        InvalidInput: wrong shape, dtype, device, or values out of range.
    """
    check_problem(embeddings, labels, 0.0, distance, "all", reference=reference, reference_labels=reference_labels)
    others, other_labels = (embeddings, labels) if reference is None else (reference, reference_labels)
    assert other_labels is not None  # check_problem sees to it
    named_T = torch.nonzero(labels >= 0)[:, 0]
    rows_T = named_T[:: -(-len(named_T) // _MOST_ANCHORS) or 1]
    rows_S = slice(None, None, -(-len(others) // _MOST_OTHERS) or 1)
    # Products in float64 are all the care that a standard deviation needs, and quick at this size.
    d_TS = _distances(embeddings[rows_T].to(torch.float64), others[rows_S].to(torch.float64), distance)
    d_N = d_TS[labels[rows_T, None] != other_labels[rows_S]]
    return float(d_N.std(correction=0)) if len(d_N) else None


def _distances(x_TD: Tensor, y_SD: Tensor, distance: str) -> Tensor:
    if distance == "cosine":
        x_TD, y_SD = unit_rows(x_TD)[0], unit_rows(y_SD)[0]
        return 1 - x_TD @ y_SD.T
    centre_D = y_SD.mean(0)
    x_TD, y_SD = x_TD - centre_D, y_SD - centre_D
    square_TS = x_TD.square().sum(1, keepdim=True) + y_SD.square().sum(1)
    square_TS = square_TS.addmm_(x_TD, y_SD.T, alpha=-2.0).clamp_(min=0)
    return square_TS if distance == "squared" else square_TS.sqrt_()
