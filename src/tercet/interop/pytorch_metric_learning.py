"""For users of pytorch-metric-learning: what its distances are called here, a miner for its losses, triplets as pairs.

Triplets need no conversion. What `tercet.functional.mine` returns, three int64 tensors (anchor, positive, negative), is
an `indices_tuple`, and what one of its miners returns goes into `tercet.TripletLoss(...)(x, labels, triplets=...)`.

Legend: B rows of the batch, M reference rows, D embedding width, T triplets, P pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

import tercet.functional as TF
from tercet.errors import InvalidInput, InvalidOption, MissingExtra
from tercet.functional.options import DISTANCES, MINING, Margin, check_choice

__all__ = ["Distance", "Miner", "distance_of", "pairs_of"]


class Distance(NamedTuple):
    """A distance by its name in tercet, and whether the rows are brought to norm 1 before."""

    name: str
    normalise: bool

    def prepare(self, embeddings: Tensor) -> Tensor:
        """The rows as the distance sees them: of norm 1, or as they are."""
        return torch.nn.functional.normalize(embeddings, dim=1) if self.normalise else embeddings


def distance_of(distance: Any) -> Distance:
    """The counterpart of a pytorch-metric-learning distance.

        LpDistance(power=2)                      squared, rows of norm 1
        LpDistance()                             euclidean, rows of norm 1
        LpDistance(normalize_embeddings=False)   euclidean, rows as they are; with power=2, squared
        CosineSimilarity()                       cosine: 1 - similarity, so the same margin
        DotProductSimilarity()                   cosine (it brings rows to norm 1 unless told otherwise)

    Its distances normalise by default, tercet's never do: `normalise` says whether to, `prepare` does it.

    Raises:
        InvalidOption: a distance that has no counterpart (another norm or power, a dot product of plain rows, SNR).
        MissingExtra: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning import distances
    except ImportError as error:
        raise MissingExtra.of("tercet.interop.pytorch_metric_learning.distance_of", "bench") from error
    kind = type(distance)
    if kind is distances.LpDistance and distance.p == 2 and distance.power in (1, 2):
        return Distance("squared" if distance.power == 2 else "euclidean", bool(distance.normalize_embeddings))
    if kind in (distances.CosineSimilarity, distances.DotProductSimilarity):
        if distance.normalize_embeddings and distance.power == 1 and distance.p == 2:
            return Distance("cosine", False)
    given = ", ".join(f"{name}={getattr(distance, name, None)}" for name in ("p", "power", "normalize_embeddings"))
    raise InvalidOption(
        f"distance={kind.__name__}({given}) has no counterpart; "
        "there are LpDistance with p=2 and power 1 or 2, CosineSimilarity, and DotProductSimilarity of rows of norm 1"
    )


@final
class Miner:
    """`tercet.functional.mine` in the form of a pytorch-metric-learning miner, for its losses and its CrossBatchMemory.

    Args:
        mining: as in `tercet.functional.batch_triplet_loss`.
        margin: in units of the distance; ends the window of `"semihard"`.
        distance: one of its distances, or a name of tercet's (rows as they are). By default its own default,
            `LpDistance()`: euclidean between rows of norm 1.
        generator: of the draws of `"random"` and `"distance_weighted"`.

    Calls are `miner(embeddings, labels, ref_emb=None, ref_labels=None) -> (anchor, positive, negative)`. As there, a
    row is not its own positive within the batch; against `ref_emb` no row is left out. Labels below 0 are negative
    only, which the library does not know.

    Raises:
        InvalidOption: an unknown mining, or a distance without counterpart.
        MissingExtra: a distance of a package that is not installed.
    """

    def __init__(
        self,
        mining: str = "semihard",
        margin: Margin = 0.2,
        distance: Any = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("mining", mining, MINING)
        if distance is None:
            distance = Distance("euclidean", True)
        elif isinstance(distance, str):
            check_choice("distance", distance, DISTANCES)
            distance = Distance(distance, False)
        self.mining = mining
        self.margin = margin
        self.distance = distance if isinstance(distance, Distance) else distance_of(distance)
        self.generator = generator

    def __call__(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets that the mining keeps, as index tensors [T] into the batch and into the reference."""
        return TF.mine(
            self.distance.prepare(embeddings.detach()),
            labels,
            mining=self.mining,
            margin=self.margin,
            distance=self.distance.name,
            reference=None if ref_emb is None else self.distance.prepare(ref_emb.detach()),
            reference_labels=ref_labels,
            generator=self.generator,
        )


def pairs_of(triplets: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triplets as the four tensors that pair losses take: (anchor, positive, anchor, negative), each pair once.

    Left to itself the library takes a pair as often as it occurs in triplets, which weighs a positive by the number of
    its negatives.

    Args:
        triplets: three int64 tensors [T], as `tercet.functional.mine` returns them.

    Returns:
        Anchors [P] and positives [P], anchors [N] and negatives [N], in ascending order.

    Raises:
        InvalidInput: not three vectors of one length.

    >>> import torch
    >>> from tercet.interop.pytorch_metric_learning import pairs_of
    >>> pairs_of((torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2, 3])))
    (tensor([0]), tensor([1]), tensor([0, 0]), tensor([2, 3]))
    """
    if len(triplets) != 3 or any(side.ndim != 1 or len(side) != len(triplets[0]) for side in triplets):
        raise InvalidInput("triplets must be three vectors of one length (anchor, positive, negative)")
    anchor, positive, negative = triplets
    one_P2, other_P2 = (torch.unique(torch.stack((anchor, side), 1), dim=0) for side in (positive, negative))
    return one_P2[:, 0], one_P2[:, 1], other_P2[:, 0], other_P2[:, 1]
