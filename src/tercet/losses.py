"""The losses as `nn.Module`s: they hold options and call `tercet.functional`.

Legend: B rows of the batch, M reference rows, D embedding width, N given triplets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import tercet.functional as TF
from tercet.errors import InvalidInput, InvalidOption
from tercet.functional.options import DISTANCES, MINING, REDUCTIONS, Margin, check_choice

__all__ = ["MultiSampleTripletLoss", "TripletLoss"]


class TripletLoss(nn.Module):
    """Formula 1 over the triplets of a batch: mean of max(0, d(a, p) - d(a, n) + margin).

    Options, units, cost and errors are those of `tercet.functional.batch_triplet_loss`; option strings are checked here
    once, so that a misspelt one fails where it is written.

    >>> import torch, tercet
    >>> loss = tercet.TripletLoss(margin=0.2, mining="semihard")
    >>> x = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> value = loss(x.requires_grad_(), torch.arange(8) // 2)
    >>> value.backward()
    """

    def __init__(
        self,
        margin: Margin = 0.2,
        distance: str = "squared",
        mining: str = "all",
        reduction: str = "mean",
        swap: bool = False,
    ) -> None:
        super().__init__()
        _check_margin(margin)
        check_choice("distance", distance, DISTANCES)
        check_choice("mining", mining, MINING)
        check_choice("reduction", reduction, REDUCTIONS)
        self.margin = margin
        self.distance = distance
        self.mining = mining
        self.reduction = reduction
        self.swap = swap

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None = None,
        reference_labels: Tensor | None = None,
        triplets: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The loss of a batch [B, D] with labels [B].

        With `reference` [M, D] and `reference_labels` [M], positives and negatives come from there. With `triplets`,
        three index tensors [N] (anchor into the batch; positive and negative into the reference, or the batch where
        there is none), exactly these are averaged and `mining` is not used.
        """
        if triplets is None:
            return TF.batch_triplet_loss(
                embeddings,
                labels,
                margin=self.margin,
                distance=self.distance,
                mining=self.mining,
                reduction=self.reduction,
                reference=reference,
                reference_labels=reference_labels,
                swap=self.swap,
            )
        others = embeddings if reference is None else reference
        rows = (embeddings, others, others)
        if len(triplets) != 3:
            raise InvalidInput(
                f"triplets must be three index tensors (anchor, positive, negative), got {len(triplets)}"
            )
        for name, index, source in zip(("anchor", "positive", "negative"), triplets, rows, strict=True):
            is_index = isinstance(index, Tensor) and index.ndim == 1 and not index.dtype.is_complex
            if not is_index or index.dtype.is_floating_point or index.dtype == torch.bool:
                raise InvalidInput(f"triplets: the {name} indices must be a 1-D integer tensor")
            if len(index) and not (0 <= int(index.min()) and int(index.max()) < len(source)):
                raise InvalidInput(f"triplets: the {name} indices must lie in 0..{len(source) - 1}")
        # int64: small unsigned integers would be taken for masks.
        a, p, n = (source[index.to(torch.int64)] for source, index in zip(rows, triplets, strict=True))
        margin = (
            self.margin[triplets[0].to(torch.int64)]
            if isinstance(self.margin, Tensor) and self.margin.ndim
            else self.margin
        )
        return TF.triplet_loss(a, p, n, margin=margin, distance=self.distance, swap=self.swap, reduction=self.reduction)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return (
            f"margin={self.margin}, distance={self.distance!r}, mining={self.mining!r}, "
            f"reduction={self.reduction!r}, swap={self.swap}"
        )


class MultiSampleTripletLoss(nn.Module):
    """Formula 2: mean over anchors of max(0, mean distance to positives - mean distance to negatives + margin).

    Options, units, cost and errors are those of `tercet.functional.multi_sample_triplet_loss`.

    >>> import torch, tercet
    >>> loss = tercet.MultiSampleTripletLoss(margin=0.5)
    >>> float(loss(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])))  # collapsed: exactly the margin
    0.5
    """

    def __init__(self, margin: Margin = 0.2, distance: str = "squared", reduction: str = "mean") -> None:
        super().__init__()
        _check_margin(margin)
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.margin = margin
        self.distance = distance
        self.reduction = reduction

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch [B, D] with labels [B], or against `reference` [M, D] with `reference_labels` [M]."""
        return TF.multi_sample_triplet_loss(
            embeddings,
            labels,
            margin=self.margin,
            distance=self.distance,
            reduction=self.reduction,
            reference=reference,
            reference_labels=reference_labels,
        )

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"margin={self.margin}, distance={self.distance!r}, reduction={self.reduction!r}"


def _check_margin(margin: Margin) -> None:
    """What can be said of a margin before a batch is seen."""
    if isinstance(margin, str):
        if margin != "soft":
            raise InvalidOption.unknown("margin", margin, ("soft", "a number >= 0", "a tensor [B]"))
    elif isinstance(margin, Tensor):
        if margin.is_complex() or not bool((torch.isfinite(margin) & (margin >= 0)).all()):
            raise InvalidInput("margin must be finite and at least 0")
    elif isinstance(margin, bool) or not (isinstance(margin, (int, float)) and 0 <= margin < float("inf")):
        raise InvalidInput(f"margin must be a finite number >= 0, got {margin!r}")
