"""The losses as `nn.Module`s: they hold options and call `tercet.functional`; and the margin that chooses itself.

Legend: B rows of the batch, M reference rows, D embedding width, N given triplets.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import tercet.functional as TF
from tercet.errors import InvalidInput, InvalidOption
from tercet.functional.options import DISTANCES, MINING, REDUCTIONS, Margin, check_choice
from tercet.functional.spread import chance_spread, negative_spread

__all__ = ["AutoMargin", "MultiSampleTripletLoss", "TripletLoss"]


class AutoMargin(nn.Module):
    """A margin that follows the run's own distances, accepted by the losses wherever a number is.

    margin = `share` * max(s, c), with s the standard deviation of the distances of negative pairs and c that of random
    vectors of the same length and width, averaged over about `span` batches: in the units of the loss's distance, the
    same for every width and scale of the embedding. c is a floor, without which an embedding could shrink, its margin
    with it, and call that progress. Each call of the loss in training mode looks at its batch
    (`tercet.functional.spread`: a sample, so at next to no cost); in evaluation mode the margin stays. It depends on
    the batch alone, so it works with every mining mode, with a reference set, and in several processes that see the
    same gathered batch.

    The state (the margin and the number of batches seen) is in `state_dict()`; docs/margin.md has the experiments that
    chose the rule.

    Args:
        share: Of the standard deviation; above 0.
        span: Batches that the average remembers, 1 or more.

    Raises:
        InvalidInput: A number out of range.

    >>> import torch, tercet
    >>> margin = tercet.AutoMargin()
    >>> loss = tercet.TripletLoss(margin=margin, mining="semihard")
    >>> x = torch.nn.functional.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> value = loss(x, torch.arange(64) // 4)
    >>> 0.17 < margin.value < 0.2
    True
    """

    _spread: Tensor
    _seen: Tensor

    def __init__(self, share: float = 0.5, span: int = 20) -> None:
        super().__init__()
        if isinstance(share, bool) or not (isinstance(share, (int, float)) and 0 < share < float("inf")):
            raise InvalidInput(f"share must be a finite number above 0, got {share!r}")
        if isinstance(span, bool) or not isinstance(span, int) or span < 1:
            raise InvalidInput(f"span must be a whole number of 1 or more, got {span!r}")
        self.share = share
        self.span = span
        self.register_buffer("_spread", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_seen", torch.zeros((), dtype=torch.int64))

    @property
    def value(self) -> float:
        """The margin as it stands; 0 before the first batch with a negative pair."""
        return self.share * float(self._spread)

    def observe(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        distance: str,
        reference: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> float:
        """Look at a batch (in training mode) and return the margin for it."""
        if self.training:
            found = negative_spread(
                embeddings, labels, distance=distance, reference=reference, reference_labels=reference_labels
            )
            if found is not None:
                found = max(found, chance_spread(embeddings, distance=distance))
            if found is not None and math.isfinite(found):  # one batch out of range spoils nothing for good
                self._seen += 1
                # At first the plain mean of what was seen, so that no start value has to be forgotten.
                self._spread += (found - self._spread) / min(int(self._seen), self.span)
        return self.value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AutoMargin:
        """Move with the module, but stay in float64: `.half()` on a model must not round the margin."""
        spread = self._spread
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._spread = spread.to(self._seen.device)
        return self

    def extra_repr(self) -> str:
        """The options and the margin, for `print(model)`."""
        return f"share={self.share}, span={self.span}, value={self.value:.4g}"


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
        margin: Margin | AutoMargin = 0.2,
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
        anchor_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch [B, D] with labels [B].

        With `reference` [M, D] and `reference_labels` [M], positives and negatives come from there; `anchor_rows` [B]
        says where in it each anchor itself stands (-1: nowhere), so that it is not its own positive. With `triplets`,
        three index tensors [N] (anchor into the batch; positive and negative into the reference, or the batch where
        there is none), exactly these are averaged and `mining` is not used.
        """
        margin = _margin_for(self.margin, embeddings, labels, self.distance, reference, reference_labels)
        if triplets is None:
            return TF.batch_triplet_loss(
                embeddings,
                labels,
                margin=margin,
                distance=self.distance,
                mining=self.mining,
                reduction=self.reduction,
                reference=reference,
                reference_labels=reference_labels,
                anchor_rows=anchor_rows,
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
        if isinstance(margin, Tensor) and margin.ndim:
            margin = margin[triplets[0].to(torch.int64)]
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

    def __init__(self, margin: Margin | AutoMargin = 0.2, distance: str = "squared", reduction: str = "mean") -> None:
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
            margin=_margin_for(self.margin, embeddings, labels, self.distance, reference, reference_labels),
            distance=self.distance,
            reduction=self.reduction,
            reference=reference,
            reference_labels=reference_labels,
        )

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"margin={self.margin}, distance={self.distance!r}, reduction={self.reduction!r}"


def _margin_for(
    margin: Margin | AutoMargin,
    embeddings: Tensor,
    labels: Tensor,
    distance: str,
    reference: Tensor | None,
    reference_labels: Tensor | None,
) -> Margin:
    """The margin as the functions take it: that of an AutoMargin after a look at the batch."""
    if not isinstance(margin, AutoMargin):
        return margin
    return margin.observe(embeddings, labels, distance=distance, reference=reference, reference_labels=reference_labels)


def _check_margin(margin: Margin | AutoMargin) -> None:
    """What can be said of a margin before a batch is seen."""
    if isinstance(margin, AutoMargin):
        return
    if isinstance(margin, str):
        if margin != "soft":
            raise InvalidOption.unknown("margin", margin, ("soft", "a number >= 0", "a tensor [B]", "AutoMargin()"))
    elif isinstance(margin, Tensor):
        if margin.is_complex() or not bool((torch.isfinite(margin) & (margin >= 0)).all()):
            raise InvalidInput("margin must be finite and at least 0")
    elif isinstance(margin, bool) or not (isinstance(margin, (int, float)) and 0 <= margin < float("inf")):
        raise InvalidInput(f"margin must be a finite number >= 0, got {margin!r}")
