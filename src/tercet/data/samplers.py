"""Batches of P identities with K samples each, as a pure function of the seed and the step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput

__all__ = ["PKSampler"]

# What a random stream is for; part of its key, so that no two uses share a stream.
_ROUND, _CYCLE, _EXTRA = 0, 1, 2


class PKSampler:
    """Draws batches of `identities_per_batch` identities with `samples_per_identity` samples each.

    Batches come in rounds. A round visits every identity once, in a random order, dealt over its batches; a batch that
    is short is filled up with further identities of the round. So a batch has always min(P, identities) of them, none
    twice. Identities with two or more samples are dealt first, and where there are fewer of them than batches they
    visit several, so that every batch has a positive pair.

    An identity with n >= K samples gives K different ones per visit: round r takes chunk r mod ceil(n/K) of a random
    order that changes every ceil(n/K) rounds, the short last chunk being filled up from the start of that order. With
    n < K it gives all n. So within each cycle every sample is used. A second visit in a round is an independent draw.

    Everything is a function of (labels, P, K, seed, step); there is no state to save. Cost per batch: O(P K) and one
    random order of the identities per round.

    Args:
        labels: int [N], one non-negative label per row; gaps are fine.
        identities_per_batch: P, at least 2.
        samples_per_identity: K, at least 2.
        seed: a non-negative integer.

    Raises:
        InvalidInput: for labels of fewer than two identities, labels without a positive pair, or numbers out of range.

    Source: the batch-hard sampling of Hermans, Beyer and Leibe 2017, section 2, with the leftovers kept.
    """

    def __init__(
        self, labels: npt.NDArray[np.int64], *, identities_per_batch: int, samples_per_identity: int, seed: int
    ) -> None:
        labels_N = np.asarray(labels)
        if labels_N.ndim != 1 or not np.issubdtype(labels_N.dtype, np.integer):
            raise InvalidInput(f"labels: must be a 1-D array of integers, not {labels_N.dtype} {labels_N.shape}")
        if labels_N.size and labels_N.min() < 0:
            raise InvalidInput("labels: a negative label marks no identity and cannot be sampled as one")
        if identities_per_batch < 2:
            raise InvalidInput(f"identities_per_batch: must be at least 2, not {identities_per_batch}")
        if samples_per_identity < 2:
            raise InvalidInput(f"samples_per_identity: must be at least 2, not {samples_per_identity}")
        if seed < 0:
            raise InvalidInput(f"seed: must not be negative, not {seed}")
        _, inverse_N, counts_I = np.unique(labels_N, return_inverse=True, return_counts=True)
        if len(counts_I) < 2:
            raise InvalidInput(f"labels: need two identities at the very least, and have {len(counts_I)}")
        self._multiple = np.flatnonzero(counts_I >= 2)
        self._single = np.flatnonzero(counts_I == 1)
        if not len(self._multiple):
            raise InvalidInput("labels: no identity has two samples, so there is no positive pair to learn from")
        self._rows = np.split(np.argsort(inverse_N, kind="stable"), np.cumsum(counts_I)[:-1])
        self._seed = seed
        self.identities_per_batch = min(identities_per_batch, len(counts_I))
        self.samples_per_identity = samples_per_identity
        self.batches_per_round = -(-len(counts_I) // self.identities_per_batch)
        self._repeats = len(self._multiple) < self.batches_per_round
        if self._repeats:
            # One place of each batch is kept for an identity with a positive pair.
            self.batches_per_round = -(-len(self._single) // (self.identities_per_batch - 1))
        self.batches_per_epoch = -(-len(labels_N) // (self.identities_per_batch * samples_per_identity))
        self._order: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The rows of batch number `step` (from 0), identity by identity: int64, at most P * K of them."""
        if step < 0:
            raise InvalidInput(f"step: must not be negative, not {step}")
        round_, place = divmod(step, self.batches_per_round)
        multiple, single = self._round(round_)
        if self._repeats:
            visitor = multiple[[place % len(multiple)]]
            first, again = single[place :: self.batches_per_round], visitor[:0]
            if place < len(multiple):
                first = np.concatenate([visitor, first])
            else:
                again = visitor
        else:
            first, again = np.concatenate([multiple, single])[place :: self.batches_per_round], multiple[:0]
        short = self.identities_per_batch - len(first) - len(again)
        if short:
            random = self._random(_EXTRA, step)
            there = np.concatenate([first, again])
            others = np.concatenate([random.permutation(np.setdiff1d(part, there)) for part in (multiple, single)])
            again = np.concatenate([again, others[:short]])
        chunks = [self._chunk(identity, round_) for identity in first.tolist()]
        draws = [self._draw(identity, step) for identity in again.tolist()]
        return np.concatenate(chunks + draws)

    def _round(self, round_: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The orders in which a round deals the identities with several samples and those with one."""
        kept = self._order
        if kept is None or kept[0] != round_:
            random = self._random(_ROUND, round_)
            kept = round_, random.permutation(self._multiple), random.permutation(self._single)
            self._order = kept
        return kept[1], kept[2]

    def _chunk(self, identity: int, round_: int) -> npt.NDArray[np.int64]:
        rows, wanted = self._rows[identity], self.samples_per_identity
        if len(rows) <= wanted:
            return rows
        cycle, chunk = divmod(round_, -(-len(rows) // wanted))
        order = self._random(_CYCLE, identity, cycle).permutation(rows)
        return np.take(order, range(chunk * wanted, (chunk + 1) * wanted), mode="wrap")

    def _draw(self, identity: int, step: int) -> npt.NDArray[np.int64]:
        rows = self._rows[identity]
        if len(rows) <= self.samples_per_identity:
            return rows
        return self._random(_EXTRA, step, identity).permutation(rows)[: self.samples_per_identity]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
