"""What a training step works on: the rows of a batch, their labels, and the network's input for any part of them.

A batch is a function of the seed and the step, and so is each row's input: augmentation draws for sixteen identities
at a time (some changes are of an identity, some mix recordings), from the seed, the step and their place in the batch.
Who asks for which part of the batch, and in how many parts, changes nothing.

Legend: B rows of the batch, N rows of the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.data import PKSampler, SampleStore
from tercet.data.partners import Categories, PartnerSampler
from tercet.errors import DataError, InvalidInput
from tercet.train.hardness import Hardness
from tercet.train.plan import Plan

__all__ = ["Batch", "Batches", "seed_of"]

_TOGETHER: Final = 16  # identities that are augmented together
_PARTNERS: Final = 3  # nearest identities beside each that leads, where the whole training set has been searched


def seed_of(*key: int) -> int:
    """The seed of some draws: far apart for neighbouring keys."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])


@final
class Batches:
    """The batches of a training, by their number.

    Args:
        store: The samples.
        rows: Those of them that are trained on.
        plan: How.
        device: Where the network's input goes.

    Raises:
        DataError: The samples are not enough to make batches of.
    """

    def __init__(self, store: SampleStore, rows: npt.NDArray[np.int64], plan: Plan, device: torch.device) -> None:
        settings = plan.settings
        self.store, self.plan, self.device = store, plan, device
        self.rows = rows
        self.labels_N = store.manifest.labels
        # To the loss a forgery is nobody's; augmentation and sampler know it by the identity that it pretends to be.
        self.owners_N = np.where(store.manifest.genuine, self.labels_N, -1)
        try:
            self.sampler = PKSampler(
                self.labels_N[rows],
                identities_per_batch=settings.identities_per_batch,
                samples_per_identity=settings.samples_per_identity,
                seed=settings.seed,
                forged=~store.manifest.genuine[rows],
                forgeries_per_identity=settings.forgeries_per_identity,
                groups=_groups_of(store, rows),
                temper=settings.temper,
            )
        except InvalidInput as error:  # unreadable files have left too little
            raise DataError(f"{store.manifest.root}: cannot be trained on ({error})") from error
        present = self.sampler.identities_per_batch
        self._nearest = PartnerSampler(self.sampler, leads=max(1, present // (1 + _PARTNERS)))
        self._by_category: tuple[PartnerSampler, Categories] | None = None
        if settings.categories is not None:
            company = Categories(_categories_of(store, rows))
            self._by_category = PartnerSampler(self.sampler, leads=min(settings.categories, present // 2)), company

    def at(self, step: int, hardness: Hardness | None = None) -> Batch:
        """The batch of a step; made of what is hard, where that is known."""
        if hardness is not None:
            rows_B = self.rows[self._nearest.batch(step, hardness)]
        elif self._by_category is not None:
            partners, company = self._by_category
            rows_B = self.rows[partners.batch(step, company)]
        else:
            rows_B = self.rows[self.sampler.batch(step)]
        labels_B = torch.from_numpy(self.owners_N[rows_B]).to(self.device)

        def inputs(some: npt.NDArray[np.int64], seed: int) -> Tensor:
            rows = rows_B[some]
            x = self.plan.front_end.normalise(self.store.take(rows).to(self.device))
            labels = torch.from_numpy(self.labels_N[rows]).to(self.device)
            return self.plan.augment(x, labels, torch.Generator().manual_seed(seed))

        return Batch(rows_B, labels_B, self.labels_N[rows_B], (self.plan.settings.seed, step), inputs)


@final
class Batch:
    """One batch.

    Args:
        rows_B: Its rows of the store.
        labels_B: What the loss takes them for; -1: nobody.
        owners_B: Whose they are or pretend to be.
        key: Seed and step.
        inputs: (places in the batch, seed) -> the network's input for them, augmented by draws of this seed.
    """

    def __init__(
        self,
        rows_B: npt.NDArray[np.int64],
        labels_B: Tensor,
        owners_B: npt.NDArray[np.int64],
        key: tuple[int, int],
        inputs: Callable[[npt.NDArray[np.int64], int], Tensor],
    ) -> None:
        self.rows_B, self.labels_B = rows_B, labels_B
        self.step = key[1]
        self._key, self._inputs = key, inputs
        _, first_I, inverse_B = np.unique(owners_B, return_index=True, return_inverse=True)
        turn_I = np.argsort(np.argsort(first_I))  # identities counted as they come
        self._group_B = turn_I[inverse_B] // _TOGETHER
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows_B)

    @property
    def samples_B(self) -> Tensor:
        """Which samples they are, beside the labels."""
        return torch.from_numpy(self.rows_B).to(self.labels_B.device)

    def seed(self, row: int) -> int:
        """The seed of draws in the encoder for the chunk that begins with this row."""
        return seed_of(*self._key) if row == 0 else seed_of(*self._key, 1, row)

    def part(self, wanted: slice) -> Tensor:
        """The network's input for a part of the batch; the last group that was made is kept for the next part."""
        group_W = self._group_B[wanted]
        groups = np.unique(group_W)
        if len(groups) == 1 and len(group_W) == int((self._group_B == groups[0]).sum()):
            return self._group(int(groups[0]))
        made: Tensor | None = None
        for group in groups.tolist():
            x = self._group(group)
            members = np.flatnonzero(self._group_B == group)
            here = np.flatnonzero(group_W == group)
            if made is None:
                made = x.new_empty(len(group_W), *x.shape[1:])
            made[torch.from_numpy(here)] = x[torch.from_numpy(np.searchsorted(members, here + wanted.start))]
        assert made is not None  # nobody asks for an empty part
        return made

    def _group(self, group: int) -> Tensor:
        if self._last is None or self._last[0] != group:
            key = self._key if group == 0 else (*self._key, 0, group)
            self._last = group, self._inputs(np.flatnonzero(self._group_B == group), seed_of(*key))
        return self._last[1]


def _groups_of(store: SampleStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """For each row the number of its group: what samples share without being good evidence for one identity."""
    groups_N: npt.NDArray[np.int64]
    names, groups_N = np.unique([store.manifest.rows[row].group for row in rows], return_inverse=True)
    return groups_N if len(names) > 1 else None


def _categories_of(store: SampleStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The category of each identity that is trained on: that of most of its samples.

    Raises:
        DataError: No sample has one.
    """
    manifest = store.manifest
    genuine = rows[manifest.genuine[rows]]
    names, category_N = np.unique([manifest.rows[row].category for row in genuine], return_inverse=True)
    if names.tolist() == [""]:
        raise DataError(
            f"{manifest.root}: no sample has a category to draw batches by (a manifest's column `category`)"
        )
    identity_N = np.unique(manifest.labels[genuine], return_inverse=True)[1]
    counts_IC = np.zeros((int(identity_N.max()) + 1, len(names)), np.int64)
    np.add.at(counts_IC, (identity_N, category_N), 1)
    category_I: npt.NDArray[np.int64] = counts_IC.argmax(axis=1)
    return category_I
