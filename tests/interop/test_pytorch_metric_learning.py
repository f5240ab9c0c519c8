"""Against the installed pytorch-metric-learning: the same values, its losses with our triplets, ours with its own."""

from __future__ import annotations

import pytest
import torch

import tercet
import tercet.functional as TF
from tercet import InvalidInput, InvalidOption
from tercet.interop.pytorch_metric_learning import Distance, Miner, distance_of, pairs_of

pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's own

from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402


def batch(rows: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), torch.arange(rows) % 5


DISTANCES = [
    distances.LpDistance(power=2),
    distances.LpDistance(),
    distances.LpDistance(power=2, normalize_embeddings=False),
    distances.LpDistance(normalize_embeddings=False),
    distances.CosineSimilarity(),
    distances.DotProductSimilarity(),
]
NAMES = ["squared unit", "euclidean unit", "squared", "euclidean", "cosine", "dot product"]


@pytest.mark.parametrize("distance", DISTANCES, ids=NAMES)
def test_a_distance_has_the_same_loss_and_gradient_under_its_name_here(distance) -> None:
    x, labels = batch()
    ours = distance_of(distance)
    value = TF.batch_triplet_loss(ours.prepare(x), labels, margin=0.3, distance=ours.name)
    peer = losses.TripletMarginLoss(0.3, distance=distance, reducer=reducers.MeanReducer())(x, labels)
    torch.testing.assert_close(value, peer, rtol=1e-9, atol=1e-12)
    mine, theirs = (torch.autograd.grad(loss, x)[0] for loss in (value, peer))
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    "distance",
    [distances.LpDistance(p=1), distances.LpDistance(power=3), distances.SNRDistance(),
     distances.DotProductSimilarity(normalize_embeddings=False), torch.cdist],
)  # fmt: skip
def test_a_distance_without_counterpart_is_refused(distance) -> None:
    with pytest.raises(InvalidOption, match="has no counterpart; there are LpDistance"):
        distance_of(distance)


@pytest.mark.parametrize("mining", ["all", "hard", "semihard", "easy_positive"])
def test_mined_triplets_are_an_indices_tuple(mining: str) -> None:
    x, labels = batch()
    triplets = TF.mine(x, labels, mining=mining, margin=5.0)
    peer = losses.TripletMarginLoss(
        5.0, distance=distances.LpDistance(power=2, normalize_embeddings=False), reducer=reducers.MeanReducer()
    )
    ours = TF.batch_triplet_loss(x, labels, mining=mining, margin=5.0)
    assert len(triplets[0]) > 0
    torch.testing.assert_close(peer(x, labels, triplets), ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES, ids=NAMES)
def test_the_miner_finds_what_theirs_finds(distance) -> None:
    x, labels = batch(40)
    want = miners.BatchHardMiner(distance=distance)(x, labels)
    got = Miner("hard", distance=distance)(x, labels)
    assert [side.tolist() for side in got] == [side.tolist() for side in want]


def test_the_miner_defaults_to_their_default_distance_and_takes_names() -> None:
    assert Miner().distance == distance_of(miners.TripletMarginMiner().distance) == Distance("euclidean", True)
    x, labels = batch()
    by_name, by_hand = Miner("hard", distance="squared")(x, labels), TF.mine(x, labels, mining="hard")
    assert all(torch.equal(a, b) for a, b in zip(by_name, by_hand, strict=True))
    with pytest.raises(InvalidOption, match="mining='hardest'"):
        Miner("hardest")
    with pytest.raises(InvalidOption, match="distance='manhattan'"):
        Miner(distance="manhattan")


def test_the_miner_serves_cross_batch_memory() -> None:
    peer = losses.TripletMarginLoss(0.2)
    memory = losses.CrossBatchMemory(peer, 5, memory_size=60, miner=Miner("hard_negative"))
    for step in range(4):
        x, labels = batch(seed=step)
        x = x.float().detach().requires_grad_()
        loss = memory(x, labels)
        loss.backward()
        assert loss > 0
        assert x.grad is not None and bool(x.grad.any())
    mined = memory.miner(x, labels, memory.embedding_memory, memory.label_memory)
    anchor, positive, negative = mined
    assert bool((labels[anchor] == memory.label_memory[positive]).all())
    assert bool((labels[anchor] != memory.label_memory[negative]).all())
    assert int(positive.max()) >= len(x)


def test_their_miners_serve_our_loss() -> None:
    x, labels = batch()
    unit = torch.nn.functional.normalize(x, dim=1)
    triplets = miners.TripletMarginMiner(margin=0.4, type_of_triplets="semihard")(x, labels)
    ours = tercet.TripletLoss(margin=0.4, distance="euclidean")(unit, labels, triplets=triplets)
    theirs = losses.TripletMarginLoss(0.4, reducer=reducers.MeanReducer())(x, labels, triplets)
    assert len(triplets[0]) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_table_in_the_documentation() -> None:
    x, labels = batch()
    unit = torch.nn.functional.normalize(x, dim=1)
    ours = tercet.TripletLoss(margin=0.05, distance="euclidean", reduction="active")
    torch.testing.assert_close(ours(unit, labels), losses.TripletMarginLoss(0.05)(x, labels), rtol=1e-9, atol=1e-12)
    theirs = miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="hard")(x, labels)
    anchor, positive, negative = Miner("easy_positive")(x, labels)
    assert [side.tolist() for side in (anchor, positive, anchor, negative)] == [side.tolist() for side in theirs]


def test_pairs_are_each_pair_once() -> None:
    x, labels = batch(12)
    anchor, positive, other, negative = pairs_of(TF.mine(x, labels, mining="all"))
    want = {(i, j) for i in range(12) for j in range(12) if i != j}
    assert list(zip(anchor.tolist(), positive.tolist(), strict=True)) == sorted(
        (i, j) for i, j in want if labels[i] == labels[j]
    )
    assert {*zip(other.tolist(), negative.tolist(), strict=True)} == {(i, j) for i, j in want if labels[i] != labels[j]}
    contrastive = losses.ContrastiveLoss()
    torch.testing.assert_close(
        contrastive(x, labels, (anchor, positive, other, negative)), contrastive(x, labels), rtol=1e-12, atol=1e-12
    )
    with pytest.raises(InvalidInput, match="three vectors of one length"):
        pairs_of((anchor, positive, negative))
