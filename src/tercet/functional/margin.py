"""What a margin means for a batch: easy, semihard and hard triplets, and the loss as a function of the margin.

Legend: B rows, D embedding width, T rows of a tile, K positives of the anchor that has the most, L margins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.errors import InvalidInput, InvalidOption
from tercet.functional._compile import full_precision
from tercet.functional._tiles import TILE_NUMBERS, tiles
from tercet.functional.distances import Geometry
from tercet.functional.options import Margin, working_dtype
from tercet.functional.triplets import check_problem

__all__ = [
    "AnchorCensus",
    "BatchStatistics",
    "MarginCurve",
    "TripletCensus",
    "batch_statistics",
    "census",
    "margin_curve",
]


@dataclass(frozen=True)
class AnchorCensus:
    """Triplets of each anchor, by kind: int64 [B] each, 0 where a row is no anchor."""

    total: Tensor
    easy: Tensor
    semihard: Tensor
    hard: Tensor


@dataclass(frozen=True)
class TripletCensus:
    """How many triplets of a batch there are, by kind; exact whole numbers, `total` = `easy` + `semihard` + `hard`."""

    total: int
    easy: int
    semihard: int
    hard: int
    per_anchor: AnchorCensus


@dataclass(frozen=True)
class MarginCurve:
    """`loss` (the mean over all triplets, float64) and `active_fraction` (share with loss > 0) at each of `margins`."""

    margins: Tensor
    loss: Tensor
    active_fraction: Tensor


@dataclass(frozen=True)
class BatchStatistics:
    """What a progress line shows: exact over all triplets and pairs of a batch, 0 where there are none."""

    active_fraction: float
    mean_positive: float
    mean_negative: float


@torch.no_grad()
@full_precision
def census(embeddings: Tensor, labels: Tensor, *, margin: Margin = 0.2, distance: str = "squared") -> TripletCensus:
    """Count the hard, semihard and easy triplets of a batch, without forming them.

    Hard: d_an <= d_ap (a tie counts as hard, also at margin 0). Semihard: d_ap < d_an < d_ap + margin. Easy: the rest.

    Args:
        embeddings: [B, D], floating point.
        labels: [B] integers; < 0 is negative only.
        margin: in units of `distance`, a number >= 0 or a tensor [B].
        distance: `"squared"`, `"euclidean"` or `"cosine"`.

    Returns:
        `TripletCensus` with Python integers, and the same per anchor as int64 [B].

    Cost: O(B^2 (D + log B)) time, O(B D) memory and one tile.

    Raises:
        InvalidOption: an unknown option, or the soft margin, which has no upper end.
        InvalidInput: wrong shape, dtype, device, or values out of range.

    >>> import torch, tercet.functional as TF
    >>> x = torch.tensor([[0.0], [1.0], [1.2], [9.0]])
    >>> c = TF.census(x, torch.tensor([0, 0, 1, 2]), margin=1.0)
    >>> c.total, c.hard, c.semihard, c.easy
    (4, 1, 1, 2)
    """
    if isinstance(margin, str):
        raise InvalidOption(
            f"margin={margin!r} has no meaning in a census; allowed: a number >= 0, a tensor [B] (the soft one has no "
            "upper end)"
        )
    problem = check_problem(embeddings, labels, margin, distance, "all")
    geometry = Geometry(embeddings.to(working_dtype(embeddings)), None, distance)
    zeros_B = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
    total_B, below_B, hard_B = zeros_B.clone(), zeros_B.clone(), zeros_B.clone()
    for tile in tiles(geometry, problem):
        rows = slice(tile.start, tile.start + len(tile.d_TM))
        column_TK, real_TK = tile.positive_columns()
        d_ap_TK = tile.d_TM.gather(1, column_TK)
        sorted_TM = tile.negative_distances().sort(dim=1).values.to(torch.float64)
        d_ap_TK = d_ap_TK.to(torch.float64)
        assert tile.margin_T1 is not None
        hard_TK = torch.searchsorted(sorted_TM, d_ap_TK, right=True)
        below_TK = torch.maximum(torch.searchsorted(sorted_TM, d_ap_TK + tile.margin_T1), hard_TK)
        total_B[rows] = real_TK.sum(1) * tile.negative_TM.sum(1)
        hard_B[rows] = (hard_TK * real_TK).sum(1)
        below_B[rows] = (below_TK * real_TK).sum(1)
    per_anchor = AnchorCensus(total_B, total_B - below_B, below_B - hard_B, hard_B)
    total, below, hard = int(total_B.sum()), int(below_B.sum()), int(hard_B.sum())
    return TripletCensus(total, total - below, below - hard, hard, per_anchor)


@torch.no_grad()
@full_precision
def margin_curve(
    embeddings: Tensor, labels: Tensor, margins: Sequence[float] | Tensor, *, distance: str = "squared"
) -> MarginCurve:
    """The mean loss and the share of active triplets at many margins, exact, in one pass over the distances.

    Args:
        embeddings: [B, D], floating point.
        labels: [B] integers; < 0 is negative only.
        margins: L numbers >= 0 in any order, in units of `distance`; a sequence or a 1-D tensor.
        distance: `"squared"`, `"euclidean"` or `"cosine"`.

    Returns:
        `MarginCurve` of tensors [L] in the order given, loss in float64; zeros where there is no triplet.

    Cost: O(B^2 (D + log B) + B K L log B) time for K positives an anchor; memory O(B D) and one tile.

    Raises:
        InvalidOption: an unknown distance.
        InvalidInput: wrong shape, dtype, device, or values out of range.

    >>> import torch, tercet.functional as TF
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> TF.margin_curve(x, torch.tensor([0, 0, 1]), [1.0, 4.0]).loss  # triplets: 1 - 4 + m and 1 - 1 + m
    tensor([0.5000, 2.5000], dtype=torch.float64)
    """
    try:
        wanted_L = torch.as_tensor(margins, dtype=torch.float64, device=embeddings.device).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidInput(f"margins must be a sequence or a 1-D tensor of numbers ({error})") from error
    if wanted_L.ndim != 1:
        raise InvalidInput(f"margins must be a sequence or a 1-D tensor of numbers, got shape {list(wanted_L.shape)}")
    if not bool((torch.isfinite(wanted_L) & (wanted_L >= 0)).all()):
        raise InvalidInput("margins must be finite and at least 0")
    problem = check_problem(embeddings, labels, 0.0, distance, "all")
    geometry = Geometry(embeddings.to(working_dtype(embeddings)), None, distance)
    loss_L, active_L = torch.zeros_like(wanted_L), torch.zeros(len(wanted_L), dtype=torch.int64, device=wanted_L.device)
    total = 0
    # The sorted row, its prefix sums and the thresholds of one margin are in float64: an eighth of the usual tile.
    for tile in tiles(geometry, problem, TILE_NUMBERS // 8):
        column_TK, real_TK = tile.positive_columns()
        d_ap_TK = tile.d_TM.gather(1, column_TK)
        sorted_TM = tile.negative_distances().sort(dim=1).values.to(torch.float64)
        d_ap_TK = d_ap_TK.to(torch.float64)
        below_TM = sorted_TM.masked_fill(torch.isinf(sorted_TM), 0).cumsum(1)
        below_TM = torch.nn.functional.pad(below_TM, (1, 0))
        total += int((real_TK.sum(1) * tile.negative_TM.sum(1)).sum())
        for i, margin in enumerate(wanted_L):
            end_TK = d_ap_TK + margin
            count_TK = torch.searchsorted(sorted_TM, end_TK) * real_TK
            loss_L[i] += (count_TK * end_TK - below_TM.gather(1, count_TK)).clamp_(min=0).sum()
            active_L[i] += count_TK.sum()
    return MarginCurve(wanted_L, loss_L / max(total, 1), active_L.to(torch.float64) / max(total, 1))


@torch.no_grad()
@full_precision
def batch_statistics(
    embeddings: Tensor, labels: Tensor, *, margin: Margin = 0.2, distance: str = "squared"
) -> BatchStatistics:
    """The share of active triplets and the mean distances of positive and negative pairs, for a progress line.

    Active: d_ap - d_an + margin > 0; with the soft margin, where every triplet has a loss, d_an <= d_ap. The means run
    over the pairs of anchors (rows with a positive and a negative). O(B^2 (D + log B)) time, O(B D) memory, one tile.

    Raises:
        InvalidOption: an unknown option.
        InvalidInput: wrong shape, dtype, device, or values out of range.
    """
    problem = check_problem(embeddings, labels, 0.0 if margin == "soft" else margin, distance, "all")
    geometry = Geometry(embeddings.to(working_dtype(embeddings)), None, distance)
    active = positives = negatives = triplets = 0
    positive_sum = negative_sum = 0.0
    for tile in tiles(geometry, problem):
        column_TK, real_TK = tile.positive_columns()
        d_ap_TK = tile.d_TM.gather(1, column_TK)
        sorted_TM = tile.negative_distances().sort(dim=1).values
        assert tile.margin_T1 is not None
        count_TK = torch.searchsorted(sorted_TM, d_ap_TK + tile.margin_T1, right=margin == "soft")
        near_T, far_T = tile.positive_TM.sum(1), tile.negative_TM.sum(1)
        active += int((count_TK * real_TK).sum())
        triplets += int((near_T * far_T).sum())
        positives, negatives = positives + int(near_T.sum()), negatives + int(far_T.sum())
        positive_sum += float((tile.d_TM * tile.positive_TM).sum(dtype=torch.float64))
        negative_sum += float((tile.d_TM * tile.negative_TM).sum(dtype=torch.float64))
    return BatchStatistics(
        active_fraction=active / max(triplets, 1),
        mean_positive=positive_sum / max(positives, 1),
        mean_negative=negative_sum / max(negatives, 1),
    )
