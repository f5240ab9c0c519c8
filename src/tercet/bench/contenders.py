"""Who is compared in `bench losses`: every mining mode in every engine, and what peers compute alike.

A contender is a function (embeddings, labels) -> loss. Those of one case compute the same value: peers are set up to do
so, and where they cannot, they are left out with the reason.

Legend: B rows of the batch, D embedding width, T triplets.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

import tercet.functional as TF
from tercet.functional.engine import ENGINES

__all__ = [
    "CASES",
    "DRAW_SEED",
    "LEFT_OUT",
    "MARGIN",
    "PEERS",
    "QUICK",
    "UNIT",
    "Case",
    "Loss",
    "contender",
    "installed",
    "names",
]

MARGIN: Final = 0.2
DRAW_SEED: Final = 0

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One value to compute: formula 1 with a mining and a reduction, or formula 2."""

    mining: str
    reduction: str = "mean"


CASES: Final = {
    "all": Case("all"),
    "all, over active": Case("all", "active"),
    "hard": Case("hard"),
    "semihard": Case("semihard"),
    "hard_negative": Case("hard_negative"),
    "easy_positive": Case("easy_positive"),
    "distance_weighted": Case("distance_weighted"),
    "random": Case("random"),
    "formula 2": Case(""),
}
QUICK: Final = ("all", "hard")
UNIT: Final = "one product"

PEERS: Final = {
    "pytorch-metric-learning": "pytorch_metric_learning",
    "sentence-transformers": "sentence_transformers",
}

_DRAWS = "draws negatives of its own: no value to compare"
LEFT_OUT: Final = (
    ("all", "sentence-transformers", "averages over active triplets only: see the case after this one"),
    ("semihard", "pytorch-metric-learning", "keeps every semi-hard triplet, not the nearest negative of each pair"),
    ("semihard", "sentence-transformers", "takes the farthest negative where none is semi-hard; here the pair is out"),
    ("distance_weighted", "pytorch-metric-learning", _DRAWS),
    ("random", "pytorch-metric-learning", _DRAWS),
    ("hard_negative", "sentence-transformers", "has no such loss"),
    ("easy_positive", "sentence-transformers", "has no such loss"),
    ("distance_weighted", "sentence-transformers", "has no such loss"),
    ("random", "sentence-transformers", "has no such loss"),
    ("formula 2", "pytorch-metric-learning", "has no such loss"),
    ("formula 2", "sentence-transformers", "has no such loss"),
)


def installed() -> dict[str, bool]:
    """Which peers are there, without importing them."""
    return {name: importlib.util.find_spec(package) is not None for name, package in PEERS.items()}


def names(case: str, *, peers: Collection[str]) -> list[str]:
    """Who takes part in a case, of these peers; imports none of them."""
    ours = ["tercet"] if case == "formula 2" else [f"tercet ({engine})" for engine in ENGINES if engine != "auto"]
    plain = [
        name for name, losses in (("torch, broadcast", _TORCH), ("torch.nn, index triplets", _NN)) if case in losses
    ]
    return [*ours, *plain, *(peer for peer, losses in _PEER_LOSSES.items() if case in losses and peer in peers)]


def contender(case: str, name: str) -> Loss:
    """One of them; a peer is imported now."""
    if name in _PEER_LOSSES:
        return _PEER_LOSSES[name][case]()
    if name in ("torch, broadcast", "torch.nn, index triplets"):
        return (_TORCH if name == "torch, broadcast" else _NN)[case]
    if case == "formula 2":
        return _formula_2
    return partial(_in_engine, name.removeprefix("tercet (").removesuffix(")"), partial(_formula_1, CASES[case]))


def _formula_1(case: Case, x_BD: Tensor, labels: Tensor) -> Tensor:
    draws = torch.Generator().manual_seed(DRAW_SEED)
    return TF.batch_triplet_loss(
        x_BD, labels, margin=MARGIN, mining=case.mining, reduction=case.reduction, generator=draws
    )


def _formula_2(x_BD: Tensor, labels: Tensor) -> Tensor:
    return TF.multi_sample_triplet_loss(x_BD, labels, margin=MARGIN)


def _in_engine(engine: str, loss: Loss, x_BD: Tensor, labels: Tensor) -> Tensor:
    with TF.use_engine(engine):
        return loss(x_BD, labels)


def _masks(x_BD: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances [B, B], who is positive, who is negative: what everyone writes first."""
    square_B = x_BD.square().sum(1)
    d_BB = (square_B.unsqueeze(1) + square_B - 2 * x_BD @ x_BD.T).clamp(min=0)
    same_BB = labels.unsqueeze(1) == labels
    itself_BB = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return d_BB, same_BB & ~itself_BB, ~same_BB


def _broadcast_all(reduction: str, x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    loss_BBB = torch.relu(d_BB.unsqueeze(2) - d_BB.unsqueeze(1) + MARGIN)
    valid_BBB = positive_BB.unsqueeze(2) & negative_BB.unsqueeze(1)
    loss_BBB = loss_BBB * valid_BBB
    return loss_BBB.sum() / (valid_BBB if reduction == "mean" else loss_BBB > 0).sum()


def _nearest_negative(d_BB: Tensor, negative_BB: Tensor) -> Tensor:
    return d_BB.masked_fill(~negative_BB, torch.inf).amin(1)


def _broadcast_hard(x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    farthest_B = d_BB.masked_fill(~positive_BB, -torch.inf).amax(1)
    return torch.relu(farthest_B - _nearest_negative(d_BB, negative_BB) + MARGIN).mean()


def _broadcast_easy_positive(x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    nearest_B = d_BB.masked_fill(~positive_BB, torch.inf).amin(1)
    return torch.relu(nearest_B - _nearest_negative(d_BB, negative_BB) + MARGIN).mean()


def _broadcast_hard_negative(x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    loss_BB = torch.relu(d_BB - _nearest_negative(d_BB, negative_BB).unsqueeze(1) + MARGIN)
    return loss_BB[positive_BB].mean()


def _broadcast_semihard(x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    d_ap_BB1, d_an_B1B = d_BB.unsqueeze(2), d_BB.unsqueeze(1)
    inside_BBB = negative_BB.unsqueeze(1) & (d_an_B1B > d_ap_BB1) & (d_an_B1B < d_ap_BB1 + MARGIN)
    nearest_BB = d_an_B1B.expand_as(inside_BBB).masked_fill(~inside_BBB, torch.inf).amin(2)
    kept_BB = positive_BB & torch.isfinite(nearest_BB)
    return torch.relu(d_BB[kept_BB] - nearest_BB[kept_BB] + MARGIN).mean()


def _broadcast_formula_2(x_BD: Tensor, labels: Tensor) -> Tensor:
    d_BB, positive_BB, negative_BB = _masks(x_BD, labels)
    to_positives_B = (d_BB * positive_BB).sum(1) / positive_BB.sum(1)
    to_negatives_B = (d_BB * negative_BB).sum(1) / negative_BB.sum(1)
    return torch.relu(to_positives_B - to_negatives_B + MARGIN).mean()


_TORCH: Final[dict[str, Loss]] = {
    "all": partial(_broadcast_all, "mean"),
    "all, over active": partial(_broadcast_all, "active"),
    "hard": _broadcast_hard,
    "semihard": _broadcast_semihard,
    "hard_negative": _broadcast_hard_negative,
    "easy_positive": _broadcast_easy_positive,
    "formula 2": _broadcast_formula_2,
}


def _squared(u_TD: Tensor, v_TD: Tensor) -> Tensor:
    return (u_TD - v_TD).square().sum(1)


def _torch_nn(x_BD: Tensor, labels: Tensor) -> Tensor:
    """`torch.nn.TripletMarginWithDistanceLoss` over the index lists of all triplets."""
    anchor, positive, negative = TF.mine(x_BD, labels, mining="all")
    loss = torch.nn.TripletMarginWithDistanceLoss(distance_function=_squared, margin=MARGIN)
    value: Tensor = loss(x_BD[anchor], x_BD[positive], x_BD[negative])
    return value


_NN: Final[dict[str, Loss]] = {"all": _torch_nn}


def _metric_learning(reducer: str, miner: str | None = None, **options: Any) -> Loss:
    from pytorch_metric_learning import distances, losses, miners, reducers

    distance = distances.LpDistance(power=2, normalize_embeddings=False)
    loss = losses.TripletMarginLoss(MARGIN, distance=distance, reducer=getattr(reducers, reducer)())
    if miner is None:
        return partial(_call, loss)
    return partial(_mined, loss, getattr(miners, miner)(distance=distance, **options))


def _call(loss: Any, x_BD: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss(x_BD, labels)
    return value


def _mined(loss: Any, miner: Any, x_BD: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss(x_BD, labels, miner(x_BD, labels))
    return value


_METRIC_LEARNING: Final[dict[str, Callable[[], Loss]]] = {
    "all": partial(_metric_learning, "MeanReducer"),
    "all, over active": partial(_metric_learning, "AvgNonZeroReducer"),
    "hard": partial(_metric_learning, "MeanReducer", "BatchHardMiner"),
    "hard_negative": partial(
        _metric_learning, "MeanReducer", "BatchEasyHardMiner", pos_strategy="all", neg_strategy="hard"
    ),
    "easy_positive": partial(
        _metric_learning, "MeanReducer", "BatchEasyHardMiner", pos_strategy="easy", neg_strategy="hard"
    ),
}


def _sentence(name: str) -> Loss:
    losses: Any = importlib.import_module("sentence_transformers.losses")
    peer = getattr(losses, name)
    distance = partial(losses.BatchHardTripletLossDistanceFunction.euclidean_distance, squared=True)
    loss = peer(torch.nn.Identity(), distance_metric=distance, margin=MARGIN)
    return partial(_sentence_loss, loss)


def _sentence_loss(loss: Any, x_BD: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss([{"sentence_embedding": x_BD}], labels)
    return value


_SENTENCE: Final[dict[str, Callable[[], Loss]]] = {
    "all, over active": partial(_sentence, "BatchAllTripletLoss"),
    "hard": partial(_sentence, "BatchHardTripletLoss"),
}
_PEER_LOSSES: Final = {"pytorch-metric-learning": _METRIC_LEARNING, "sentence-transformers": _SENTENCE}
