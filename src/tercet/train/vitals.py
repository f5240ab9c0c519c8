"""What a batch says about the health of a training: spread, rank, activity, gradient.

Distances are those of the embeddings on the unit sphere, in units of what chance gives there: two independent unit
vectors in D dimensions have a mean squared distance of 2, with a standard deviation of 2 / sqrt(D). So 1 is as spread
as the sphere allows, 0 is one point, whatever the width, the scale and the loss's distance.

Legend: B rows of the batch, D embedding width, K positives of an anchor at most, V numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

__all__ = ["Vitals", "measure"]

_MOST_ROWS: Final = 256  # more would sharpen nothing and cost time
_SAME: Final = 1e-6  # squared distance on the unit sphere below which two rows are one point


@final
@dataclass(frozen=True, slots=True)
class Vitals:
    """The vital signs of one batch.

    Args:
        distance: Mean squared distance of all pairs over that of chance, 2.
        spread: Standard deviation of the pairs' squared distances over that of chance, 2 / sqrt(D).
        rank: Effective rank of the centred embeddings, tr(C)^2 / tr(C^2) of their covariance C: 1 to D directions.
        active: Share of the valid triplets that lose at the margin; NaN where there is no valid triplet.
        to_margin: (loss - margin) / margin: exactly 0 where the batch has collapsed; NaN without a margin.
        without_positive: Share of the rows with an identity that have no other row of it in the batch.
        without_negative: Share of these that have no row of another identity.
        norm: Mean length of the embeddings.
        conflicts: Pairs of rows at one point, of different identities.
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
        mine = asdict(self)
        agreed: dict[str, Any] = dict(zip(mine, agree(list(mine.values())), strict=True))
        return Vitals(**agreed | {"conflicts": round(agreed["conflicts"])})


@torch.no_grad()
def measure(x_BD: Tensor, labels_B: Tensor, *, loss: Tensor, margin: float | None, distance: str) -> Vitals:
    """Measure a batch: its first 256 rows; O(B^2 (D + K)) and one transfer from the device.

    Args:
        x_BD: Embeddings.
        labels_B: Their identities; below 0: negative only.
        loss: The batch's loss.
        margin: The margin of the loss; None for the soft one, where a triplet is active that has d_an <= d_ap.
        distance: Of the loss: what `margin` is in units of.
    """
    x_BD, labels_B = x_BD[:_MOST_ROWS].float(), labels_B[:_MOST_ROWS]
    rows, width = x_BD.shape
    norm_B = x_BD.norm(dim=1)
    unit_BD = x_BD / norm_B.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    squared_BB = (2 - 2 * unit_BD @ unit_BD.T).clamp_(min=0)
    self_BB = torch.eye(rows, dtype=torch.bool, device=x_BD.device)
    same_BB = labels_B[:, None] == labels_B
    named_B = labels_B >= 0
    positive_BB = same_BB & ~self_BB & named_B[:, None]
    negative_BB = ~same_BB & named_B[:, None]
    pairs = max(rows * (rows - 1), 1)
    mean_squared = squared_BB.masked_fill(self_BB, 0).sum() / pairs
    variance = (squared_BB - mean_squared).masked_fill(self_BB, 0).square().sum() / pairs
    centred_BD = unit_BD - unit_BD.mean(0)
    gram = centred_BD @ centred_BD.T if rows < width else centred_BD.T @ centred_BD
    rank = gram.trace().square() / gram.square().sum().clamp(min=1e-30)
    active, triplets = _active(_in_units(x_BD, squared_BB, distance), positive_BB, negative_BB, margin)
    many_B = named_B.sum().clamp(min=1)
    found_V = torch.stack(
        [
            mean_squared / 2,
            variance.sqrt() * (math.sqrt(width) / 2),
            rank,
            active / triplets,
            (named_B & ~positive_BB.any(1)).sum() / many_B,
            (named_B & ~negative_BB.any(1)).sum() / many_B,
            norm_B.mean(),
            ((squared_BB < _SAME) & ~same_BB & (labels_B >= 0) & named_B[:, None]).sum() / 2,
            loss.float(),
        ]
    ).tolist()
    to_margin = (found_V[-1] - margin) / margin if margin else math.nan
    mean, spread, rank, active, lonely, unopposed, norm, conflicts, loss_now = found_V
    return Vitals(mean, spread, rank, active, to_margin, lonely, unopposed, norm, round(conflicts), loss_now)


def _in_units(x_BD: Tensor, squared_BB: Tensor, distance: str) -> Tensor:
    """The batch's distances as the loss measures them."""
    if distance == "cosine":
        return squared_BB / 2
    length_B = x_BD.square().sum(1)
    plain_BB = (length_B[:, None] + length_B - 2 * x_BD @ x_BD.T).clamp_(min=0)
    return plain_BB.sqrt() if distance == "euclidean" else plain_BB


def _active(d_BB: Tensor, positive_BB: Tensor, negative_BB: Tensor, margin: float | None) -> tuple[Tensor, Tensor]:
    """How many valid triplets lose, and how many there are, as floats."""
    most = int(positive_BB.sum(1).max()) if len(d_BB) else 0
    near_BB = d_BB.masked_fill(~positive_BB, -torch.inf)
    ends_BK = near_BB.topk(most, dim=1).values + (margin or 0.0)
    far_BB = d_BB.masked_fill(~negative_BB, torch.inf).sort(dim=1).values
    count_BK = torch.searchsorted(far_BB, ends_BK.contiguous(), right=margin is None)
    return count_BK.sum().float(), (positive_BB.sum(1) * negative_BB.sum(1)).sum().float()
