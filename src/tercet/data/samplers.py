"""Batches of P identities with K samples each, as a pure function of the seed and the step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput

__all__ = ["PKSampler"]

# What a random stream is for; part of its key, so that no two uses share a stream.
_ROUND, _CYCLE, _EXTRA, _FORGED = 0, 1, 2, 3


class PKSampler:
    """Draws batches of `identities_per_batch` identities with `samples_per_identity` samples each, and their forgeries.

    Batches come in rounds. A round visits every identity once, in a random order, dealt over its batches; a batch that
    is short is filled up with further identities of the round. So a batch has always min(P, identities) of them, none
    twice. Identities with two or more samples are dealt first, and where there are fewer of them than batches they
    visit several, so that every batch has a positive pair.

    An identity with n >= K samples gives K different ones per visit: round r takes chunk r mod ceil(n/K) of a random
    order that changes every ceil(n/K) rounds, the short last chunk being filled up from the start of that order. With
    n < K it gives all n. So within each cycle every sample is used. A second visit in a round is an independent draw.

    With `temper` above 0 the frequent identities come more often: one with n samples is visited ceil(n/K)^temper times
    in a round (rounded, in as many batches), each time with the next chunk. So 0 is balanced by identity, and 1 visits
    each as often as it has samples: a round uses all of them, each once. Where most identities have one sample, so that
    the others visit several batches of a round anyway, nothing is tempered.

    Forgeries come with the identity that they pretend to be, and never without it: F different ones per visit (all,
    where there are fewer), in cycles of their own. They are no samples of it: the K, the positive pair and the epoch
    are of genuine rows. Forgeries of an identity without a genuine row are never drawn.

    Where groups are known (sessions, videos), that order spreads each group of an identity evenly, so that the K
    samples of a visit are of as many groups as it has: a positive from the same session teaches the session.

    Everything is a function of (labels, groups, P, K, F, temper, seed, step); there is no state to save, and several
    processes that divide a batch see the same. Cost per batch: O(P K), and one random order of the visits per round.

    Attributes:
        counts_I: int [I], how many samples each identity has; identities are numbered in the order of their labels.
        rows: of each identity, by number, its samples.

    Args:
        labels: int [N], one non-negative label per row; gaps are fine. Of a forgery: whose it pretends to be.
        identities_per_batch: P, at least 2.
        samples_per_identity: K, at least 2.
        seed: a non-negative integer.
        forged: bool [N], which rows are forgeries; None: none.
        forgeries_per_identity: F, 0 or more.
        groups: int [N], what samples of one identity share beside it; None: nothing is known.
        temper: From 0, all identities equally often, to 1, as often as they have samples.

    Raises:
        InvalidInput: for labels of fewer than two identities, labels without a positive pair, or numbers out of range.

    Source: the batch-hard sampling of Hermans, Beyer and Leibe 2017, section 2, with the leftovers kept.
    """

    def __init__(
        self,
        labels: npt.NDArray[np.int64],
        *,
        identities_per_batch: int,
        samples_per_identity: int,
        seed: int,
        forged: npt.NDArray[np.bool_] | None = None,
        forgeries_per_identity: int = 0,
        groups: npt.NDArray[np.int64] | None = None,
        temper: float = 0.0,
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
        if forgeries_per_identity < 0:
            raise InvalidInput(f"forgeries_per_identity: must not be negative, not {forgeries_per_identity}")
        if not 0 <= temper <= 1:
            raise InvalidInput(f"temper: must be a number from 0 to 1, not {temper}")
        forged_N = np.zeros(len(labels_N), np.bool_) if forged is None else np.asarray(forged)
        if forged_N.shape != labels_N.shape or forged_N.dtype != np.bool_:
            raise InvalidInput(f"forged: must be bool [{len(labels_N)}], not {forged_N.dtype} {list(forged_N.shape)}")
        self._groups = None if groups is None else np.asarray(groups)
        if self._groups is not None and self._groups.shape != labels_N.shape:
            raise InvalidInput(f"groups: must be integers [{len(labels_N)}], not {list(self._groups.shape)}")
        genuine = np.flatnonzero(~forged_N)
        names_I, inverse_G, counts_I = np.unique(labels_N[genuine], return_inverse=True, return_counts=True)
        if len(counts_I) < 2:
            raise InvalidInput(f"labels: need two identities at the very least, and have {len(counts_I)}")
        self.counts_I = counts_I
        self._multiple = np.flatnonzero(counts_I >= 2)
        self._single = np.flatnonzero(counts_I == 1)
        if not len(self._multiple):
            raise InvalidInput("labels: no identity has two samples, so there is no positive pair to learn from")
        self.rows = np.split(genuine[np.argsort(inverse_G, kind="stable")], np.cumsum(counts_I)[:-1])
        forged_rows = np.flatnonzero(forged_N)
        forged_rows = forged_rows[np.argsort(labels_N[forged_rows], kind="stable")]
        ends = [np.searchsorted(labels_N[forged_rows], names_I, side=side) for side in ("left", "right")]
        self._forged = [forged_rows[start:end] for start, end in zip(*ends, strict=True)] if len(forged_rows) else []
        self._forgeries = forgeries_per_identity
        self._seed = seed
        self.identities_per_batch = min(identities_per_batch, len(counts_I))
        self.samples_per_identity = samples_per_identity
        chunks_I = -(-counts_I // samples_per_identity)
        self._visits = np.maximum(np.rint(chunks_I ** float(temper)), 1).astype(np.int64)
        while True:  # nobody comes twice into one batch
            self.batches_per_round = -(-int(self._visits.sum()) // self.identities_per_batch)
            if self._visits.max() <= self.batches_per_round:
                break
            self._visits = np.minimum(self._visits, self.batches_per_round)
        self._repeats = int(self._visits[self._multiple].sum()) < self.batches_per_round
        if self._repeats:
            # One place of each batch is kept for an identity with a positive pair.
            self._visits = np.ones_like(self._visits)
            self.batches_per_round = -(-len(self._single) // (self.identities_per_batch - 1))
        self.batches_per_epoch = -(-len(genuine) // (self.identities_per_batch * samples_per_identity))
        self._order: tuple[int, tuple[npt.NDArray[np.int64], ...]] | None = None
        self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The rows of batch number `step` (from 0): int64, at most P * (K + F) of them.

        Identity by identity, first the genuine rows of all, then the forgeries.
        """
        if step < 0:
            raise InvalidInput(f"step: must not be negative, not {step}")
        round_, place = divmod(step, self.batches_per_round)
        multiple, single, turn, places = self._round(round_)
        place = int(places[place])
        if self._repeats:
            visitor = multiple[[place % len(multiple)]]
            first, again = single[place :: self.batches_per_round], visitor[:0]
            if place < len(multiple):
                first = np.concatenate([visitor, first])
            else:
                again = visitor
        else:
            first, again = np.concatenate([multiple, single])[place :: self.batches_per_round], multiple[:0]
            turn = turn[place :: self.batches_per_round]
        short = self.identities_per_batch - len(first) - len(again)
        if short:
            random = self.random(_EXTRA, step)
            there = np.concatenate([first, again])
            others = np.concatenate([random.permutation(np.setdiff1d(part, there)) for part in (multiple, single)])
            again = np.concatenate([again, others[:short]])
        visits = (
            round_ * self._visits[first] + turn[: len(first)]
        ).tolist()  # of each identity, from the first round on
        chunks = [self.chunk(identity, visit) for identity, visit in zip(first.tolist(), visits, strict=True)]
        draws = [self.draw(identity, step) for identity in again.tolist()]
        forged = [self.forgeries(identity, visit) for identity, visit in zip(first.tolist(), visits, strict=True)]
        forged += [self.forgeries(identity, step, again=True) for identity in again.tolist()]
        return np.concatenate(chunks + draws + forged)

    def _round(self, round_: int) -> tuple[npt.NDArray[np.int64], ...]:
        """The visits that a round deals, of identities with several samples and of those with one.

        With them, for each visit, which one of its identity in this round it is; and in which order batches come:
        visits of one identity stand in neighbouring ones.
        """
        kept = self._order
        if kept is None or kept[0] != round_:
            random = self.random(_ROUND, round_)
            multiple, single = random.permutation(self._multiple), random.permutation(self._single)
            visits = self._visits[multiple]
            turn = np.arange(visits.sum()) - np.repeat(np.cumsum(visits) - visits, visits)
            turn = np.concatenate([turn, np.zeros(len(single), np.int64)])
            places = np.arange(self.batches_per_round)
            if len(turn) > len(self._visits):
                random.shuffle(places)
            kept = round_, (np.repeat(multiple, visits), single, turn, places)
            self._order = kept
        return kept[1]

    def chunk(self, identity: int, visit: int) -> npt.NDArray[np.int64]:
        """The samples of an identity, by number, on one of its visits: K others each time, until all have been."""
        rows, wanted = self.rows[identity], self.samples_per_identity
        if len(rows) <= wanted:
            return rows
        cycle, chunk = divmod(visit, -(-len(rows) // wanted))
        kept = self._orders.get(identity)
        if kept is None or kept[0] != cycle:
            # Kept until the next cycle: to seed a generator takes as long as all else here.
            kept = self._orders[identity] = cycle, self._shuffled(rows, self.random(_CYCLE, identity, cycle))
        order = kept[1]
        return np.take(order, range(chunk * wanted, (chunk + 1) * wanted), mode="wrap")

    def forgeries(self, identity: int, visit: int, *, again: bool = False) -> npt.NDArray[np.int64]:
        """F forgeries of an identity, by number: on the visits of rounds each in its turn, on others at random."""
        if not self._forged or not self._forgeries:
            return np.zeros(0, np.int64)
        rows, wanted = self._forged[identity], self._forgeries
        if len(rows) <= wanted:
            return rows
        cycle, chunk = (visit, 0) if again else divmod(visit, -(-len(rows) // wanted))
        order = self.random(_FORGED, _EXTRA if again else _FORGED, identity, cycle).permutation(rows)
        return np.take(order, range(chunk * wanted, (chunk + 1) * wanted), mode="wrap")

    def draw(self, identity: int, step: int) -> npt.NDArray[np.int64]:
        """K samples of an identity, by number, at random; all where there are fewer."""
        rows = self.rows[identity]
        if len(rows) <= self.samples_per_identity:
            return rows
        return self._shuffled(rows, self.random(_EXTRA, step, identity))[: self.samples_per_identity]

    def _shuffled(self, rows: npt.NDArray[np.int64], random: np.random.Generator) -> npt.NDArray[np.int64]:
        """A random order of an identity's rows, in which the rows of each group are spread evenly."""
        order = random.permutation(rows)
        if self._groups is None:
            return order
        _, group, size = np.unique(self._groups[order], return_inverse=True, return_counts=True)
        if len(size) == 1:
            return order
        # The r-th row of a group of n stands at (r + offset) / n of the way, each group with an offset of its own.
        by_group = np.argsort(group, kind="stable")
        turn = np.empty(len(order))
        turn[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
        return order[np.argsort((turn + random.random(len(size))[group]) / size[group], kind="stable")]

    def random(self, *key: int) -> np.random.Generator:
        """The random stream of this seed and key."""
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
