"""The input of a row is a function of the seed, the step and the row: not of who asks for which part of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthetic import read_people, tiny_plan, write_people
from tercet.data import SampleStore
from tercet.train.batches import Batches, seed_of


def skewed(x_BCHW, labels_B, generator):
    """Draws for each row, and one for all of them together, so that it shows who was drawn for with whom."""
    return x_BCHW + torch.rand(len(x_BCHW), 1, 1, 1, generator=generator) + torch.rand((), generator=generator)


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    data = read_people(write_people(tmp_path_factory.mktemp("many") / "people", people=40, pictures=4))
    plan = replace(tiny_plan(identities_per_batch=37, samples_per_identity=3), augment=skewed)
    with SampleStore.read(data, plan.front_end) as store:
        yield Batches(store, np.arange(len(store)), plan, torch.device("cpu"))


@pytest.mark.parametrize("size", [1, 7, 48, 50, 111, 200])
def test_parts_put_together_are_the_whole(batches, size):
    whole = batches.at(3).part(slice(0, 111))
    batch = batches.at(3)
    parts = [batch.part(slice(start, min(start + size, 111))) for start in range(0, 111, size)]
    assert torch.equal(torch.cat(parts), whole)
    assert len(batch) == 111 and torch.equal(batch.part(slice(40, 60)), whole[40:60])


def test_sixteen_identities_are_drawn_for_together_and_each_step_and_group_anew(batches):
    batch, plain = batches.at(0), batches.store.front_end.normalise
    added = batch.part(slice(0, 111)) - plain(batches.store.take(batch.rows_B))
    drawn = added[:, 0, 0, 0]
    assert len(set(drawn.tolist())) > 100
    first = torch.Generator().manual_seed(seed_of(0, 0))
    rows = torch.rand(48, 1, 1, 1, generator=first).flatten()
    torch.testing.assert_close(drawn[:48], rows + torch.rand((), generator=first))
    other = batches.at(1).part(slice(0, 5)) - plain(batches.store.take(batches.at(1).rows_B[:5]))
    assert not torch.isclose(other[:, 0, 0, 0], drawn[:5]).any()


def test_seeds_of_neighbours_are_far_apart(batches):
    seeds = {batches.at(step).seed(row) for step in range(20) for row in range(0, 100, 5)}
    assert len(seeds) == 400


def test_labels_are_what_the_loss_takes_rows_for(batches):
    batch = batches.at(2)
    assert batch.labels_B.tolist() == batches.store.manifest.labels[batch.rows_B].tolist()
    assert batch.samples_B.tolist() == batch.rows_B.tolist() and batch.step == 2
