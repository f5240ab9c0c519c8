"""The input of a row is a function of the seed, the step and the row: not of who asks for which part of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthetic import read_people, tiny_plan, write_people
from tercet.data import Manifest, SampleStore
from tercet.errors import DataError
from tercet.train.batches import Batches, seed_of
from tercet.train.hardness import Hardness


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


def by_category(data, plan, category_of):
    rows = tuple(replace(row, category=category_of(row)) for row in data.rows)
    store = SampleStore.read(Manifest(data.root, rows), plan.front_end)
    return Batches(store, np.arange(len(store)), plan, torch.device("cpu"))


def test_batches_of_one_category_and_of_all(people):
    plan = tiny_plan(identities_per_batch=4, samples_per_identity=2, categories=1)
    # Of each identity one picture is said to be of another category: most of its pictures decide.
    batches = by_category(
        people, plan, lambda row: "odd" if (int(row.identity[1:]) + (row.path.stem == "3")) % 2 else "even"
    )
    parities = [set((batches.at(step).labels_B % 2).tolist()) for step in range(20)]
    assert all(len(parity) == 1 for parity in parities) and {0, 1} == set.union(*parities)
    plain = by_category(people, tiny_plan(identities_per_batch=4, samples_per_identity=2), lambda row: "")
    assert any(len(set((plain.at(step).labels_B % 2).tolist())) == 2 for step in range(5))
    batches.store.close(), plain.store.close()


def test_batches_by_category_need_some(people):
    with pytest.raises(DataError, match=r"no sample has a category .*column `category`"):
        by_category(people, tiny_plan(categories=1), lambda row: "")


def test_what_is_hard_decides_who_stands_together(people):
    plan = tiny_plan(identities_per_batch=4, samples_per_identity=2)
    batches = by_category(people, plan, lambda row: "")
    near = np.full((10, 9), -1)
    near[:, :3] = [[n for n in range(n // 5 * 5, n // 5 * 5 + 5) if n != m][:3] for m, n in enumerate(range(10))]
    hardness = Hardness(near, np.zeros(60, np.float32))
    assert all(len(set((batches.at(step, hardness).labels_B // 5).tolist())) == 1 for step in range(20))
    assert any(len(set((batches.at(step).labels_B // 5).tolist())) == 2 for step in range(5))
    batches.store.close()
