"""Index lists against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches

import tercet.functional as TF
from tercet.functional import _tiles
from tercet.functional.options import MINING


@given(
    batch=batches(references=True),
    mining=st.sampled_from([m for m in MINING if m != "distance_weighted"]),
    margin=st.sampled_from([0.0, 1.0, "soft"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_definition(batch, mining, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    got = TF.mine(
        batch.x,
        batch.labels,
        mining=mining,
        margin=margin,
        reference=batch.reference,
        reference_labels=batch.reference_labels,
        generator=generator,
    )
    others = batch.x if batch.reference is None else batch.reference
    table = TF.reference.relation_of(
        batch.labels,
        batch.reference_labels,
        rows=len(batch.x),
        others=len(others),
        same_rows=batch.reference is None,
    )
    d = [[float(TF.reference.pair_distance(u, v, "squared")) for v in others] for u in batch.x]
    margins = None if margin == "soft" else [margin] * len(batch.x)
    drawn = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    wanted = TF.reference.triplets(d, table, mining, margins, drawn, batch.x.shape[1])
    assert list(zip(*(index.tolist() for index in got), strict=True)) == wanted


@pytest.mark.parametrize("mining", MINING)
def test_the_loss_over_mined_triplets_is_the_batch_loss(mining, monkeypatch):
    monkeypatch.setattr(_tiles, "TILE_ROWS", 5)  # several tiles
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(33, 6, dtype=torch.float64, generator=generator), dim=1)
    labels = torch.arange(33) % 9
    a, p, n = TF.mine(x, labels, mining=mining, margin=0.4, generator=torch.Generator().manual_seed(4))
    over_list = TF.triplet_loss(x[a], x[p], x[n], margin=0.4)
    over_batch = TF.batch_triplet_loss(x, labels, mining=mining, margin=0.4, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(over_list, over_batch, rtol=1e-12, atol=1e-12)
