"""What a batch says about the health of a training: spread, rank, activity, gradient.

Distances are those of the embeddings on the unit sphere, in units of what chance gives there: two independent unit
vectors in D dimensions have a mean squared distance of 2, with a standard deviation of 2 / sqrt(D). So 1 is as spread
as the sphere allows, 0 is one point, whatever the width, the scale and the loss's distance.

Legend: B rows of the batch, T anchors that are looked at, K positives of one at most, D width, V numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, final

import torch
from torch import Tensor

__all__ = ["Vitals", "measure"]

_MOST_ANCHORS: Final = 32  # more would sharpen nothing that is averaged over steps, and cost time
_MOST_ROWS: Final = 128  # for the effective rank
_SAME: Final = 1e-6  # squared distance on the unit sphere below which two rows are one point


@final
@dataclass(frozen=True, slots=True)
class Vitals:
    """The vital signs of one batch.

    Args:
        distance: Mean squared distance of the pairs over that of chance, 2.
        spread: Standard deviation of the pairs' squared distances over that of chance, 2 / sqrt(D).
        rank: Effective rank of the centred embeddings, tr(C)^2 / tr(C^2) of their covariance C: 1 to D directions.
        active: Share of the valid triplets that lose at the margin; NaN where there is no valid triplet.
        to_margin: (loss - margin) / margin: exactly 0 where the batch has collapsed; NaN without a margin.
        without_positive: Share of the rows with an identity that have no other row of it in the batch.
        without_negative: Share of these that have no row of another identity.
        norm: Mean length of the embeddings.
        conflicts: Anchors that stand at one point with a row of another identity.
        loss: Of the batch.
    """

    distance: float
    spread: float
    rank: float
    active: float
    to_margin: float
    without_positive: float
    without_negative: float
    norm: float
    conflicts: int
    loss: float

    def agreed(self, agree: Callable[[Sequence[float]], list[float]]) -> Vitals:
        """The same numbers in every process: those that `agree` gives for them."""
        names = [each.name for each in fields(self)]  # `asdict` copies each number deeply: a fifth of `measure`
        agreed: dict[str, Any] = dict(zip(names, agree([getattr(self, name) for name in names]), strict=True))
        return Vitals(**agreed | {"conflicts": round(agreed["conflicts"])})


@torch.inference_mode()
def measure(x_BD: Tensor, labels_B: Tensor, *, loss: Tensor, margin: float | None, distance: str) -> Vitals:
    """Measure a batch: 32 anchors, evenly spaced, against all of its rows; O(T B (D + log B)).

    So all of a small batch is looked at, and of any batch whether its rows have positives and negatives. The effective
    rank is that of 128 rows.

    Args:
        x_BD: Embeddings.
        labels_B: Their identities; below 0: negative only.
        loss: The batch's loss.
        margin: The margin of the loss; None for the soft one, where a triplet is active that has d_an <= d_ap.
        distance: Of the loss: what `margin` is in units of.
    """
    x_BD = x_BD.float()
    rows, width = x_BD.shape
    norm_B = x_BD.square().sum(1).sqrt()
    unit_BD = x_BD / norm_B.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    # What follows from the labels alone is counted here: an operation on a tensor costs more than this list.
    labels = labels_B.tolist()
    fellows = Counter(label for label in labels if label >= 0)
    named = [row for row, label in enumerate(labels) if label >= 0]
    anchors = named[:: -(-len(named) // _MOST_ANCHORS) or 1]
    triplets = sum((fellows[labels[row]] - 1) * (rows - fellows[labels[row]]) for row in anchors)
    most = max((fellows[labels[row]] for row in anchors), default=1) - 1
    self_T1 = torch.tensor(anchors, dtype=torch.int64, device=x_BD.device)[:, None]
    same_TB = labels_B[self_T1] == labels_B
    cosine_TB = unit_BD[self_T1[:, 0]] @ unit_BD.T
    d_TB = _in_units(cosine_TB, norm_B[self_T1], norm_B, distance)
    far_TB = d_TB.masked_fill(same_TB, torch.inf)
    near_TB = d_TB.masked_fill_(~same_TB, -torch.inf).scatter_(1, self_T1, -torch.inf)
    active = _active(near_TB.topk(most, dim=1).values, far_TB, margin)
    twins_TB = (cosine_TB > 1 - _SAME / 2).logical_and_(~same_TB)
    if len(named) < rows:
        twins_TB &= labels_B >= 0
    # 2 - 2 cos has the mean and the deviation of the cosines.
    pairs = max(len(anchors) * (rows - 1), 1)
    mean = (cosine_TB.sum() - cosine_TB.gather(1, self_T1).sum()) / pairs
    variance = cosine_TB.sub_(mean).scatter_(1, self_T1, 0.0).square_().sum() / pairs
    found_V = torch.stack(
        [1 - mean, variance, _rank(unit_BD), active.float(), norm_B.mean(), twins_TB.any(1).sum(), loss.float()]
    ).tolist()
    distance_now, variance_now, rank, active_now, norm, conflicts, loss_now = found_V
    return Vitals(
        distance=max(distance_now, 0.0) if math.isfinite(distance_now) else distance_now,
        spread=math.sqrt(variance_now * width),
        rank=rank,
        active=active_now / triplets if triplets else math.nan,
        to_margin=(loss_now - margin) / margin if margin else math.nan,
        without_positive=sum(count == 1 for count in fellows.values()) / max(len(named), 1),
        without_negative=float(rows in fellows.values()),
        norm=norm,
        conflicts=round(conflicts),
        loss=loss_now,
    )


def _rank(unit_BD: Tensor) -> Tensor:
    """tr(C)^2 / tr(C^2) by the smaller of the two Gram matrices, without eigenvalues."""
    some_BD = unit_BD[:: -(-len(unit_BD) // _MOST_ROWS) or 1]
    centred_BD = some_BD - some_BD.mean(0)
    gram = centred_BD @ centred_BD.T if len(some_BD) < some_BD.shape[1] else centred_BD.T @ centred_BD
    return gram.trace().square() / gram.square().sum().clamp(min=1e-30)


def _in_units(cosine_TB: Tensor, length_T1: Tensor, length_B: Tensor, distance: str) -> Tensor:
    """The distances as the loss measures them."""
    if distance == "cosine":
        return 1 - cosine_TB
    squared_TB = (length_T1.square() + length_B.square()).sub_(2 * length_T1 * length_B * cosine_TB).clamp_(min=0)
    return squared_TB.sqrt_() if distance == "euclidean" else squared_TB


def _active(near_TK: Tensor, far_TB: Tensor, margin: float | None) -> Tensor:
    """How many triplets lose: for each negative, the positives behind it by less than the margin.

    Args:
        near_TK: Distances of the positives, descending; -inf: none.
        far_TB: Of the negatives; inf: none.
        margin: Of the loss.
    """
    ends_TK = near_TK.flip(1) + (margin or 0.0)
    behind_TB = torch.searchsorted(ends_TK, far_TB, right=margin is not None)
    return ends_TK.shape[1] * behind_TB.numel() - behind_TB.sum()
