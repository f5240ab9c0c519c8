"""Batches of identities that are alike: each in its turn leads, beside some of its category or of its nearest ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, final

import numpy as np
import numpy.typing as npt

from tercet.data.samplers import PKSampler
from tercet.errors import InvalidInput

__all__ = ["Categories", "Company", "PartnerSampler"]

# What a random stream is for; part of its key. The numbers below belong to `samplers`.
_LEADS, _PARTNERS = 16, 17


class Company(Protocol):
    """Who stands beside a leading identity, and with which samples; identities are numbered as `PKSampler` has them."""

    def partners(self, lead: int, random: np.random.Generator) -> Iterator[int]:
        """Identities, those first that are wanted most; may be few, none, or the lead itself."""
        ...

    def samples(
        self, rows: npt.NDArray[np.int64], wanted: int, random: np.random.Generator
    ) -> npt.NDArray[np.int64] | None:
        """At most `wanted` of the rows of a partner; None: any of them."""
        ...


@final
class PartnerSampler:
    """Draws batches of P identities with K samples each, of which L lead and the others are partners of those.

    A round visits every identity once as a lead, in a random order, L of them a batch (fewer in the last one). A lead
    gives its samples as in `PKSampler`: other ones each round, until all have been. Each lead is given P / L - 1
    partners, which come with samples drawn for this batch. Where there are too few partners, any other identities fill
    the batch, and where nobody in it has two samples, somebody who has takes the last place. No identity comes twice.
    Forgeries come with their identities.

    Everything is a function of (sampler, company, step); there is no state. Cost per batch: O(P K), the partners that
    are looked at, and one random order of the identities per round.

    Args:
        sampler: Has the identities, P, K and the seed; not tempered.
        leads: L, from 1 to P / 2.

    Raises:
        InvalidInput: L is out of range.
    """

    def __init__(self, sampler: PKSampler, *, leads: int) -> None:
        if not 1 <= leads <= sampler.identities_per_batch // 2:
            raise InvalidInput(
                f"leads={leads}: must be from 1 to half of the {sampler.identities_per_batch} identities of a batch"
            )
        self._sampler, self._leads = sampler, leads
        self.batches_per_round = -(-len(sampler.counts_I) // leads)
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, step: int, company: Company) -> npt.NDArray[np.int64]:
        """The rows of batch number `step` (from 0): int64; the genuine rows of all identities, then their forgeries."""
        sampler = self._sampler
        round_, place = divmod(step, self.batches_per_round)
        leads: list[int] = self._round(round_)[place * self._leads : (place + 1) * self._leads].tolist()
        random = sampler.random(_PARTNERS, step)
        chosen = self._chosen(leads, company, random)
        genuine, forged = [], []
        for turn, identity in enumerate(chosen):
            if turn < len(leads):
                genuine.append(sampler.chunk(identity, round_))
                forged.append(sampler.forgeries(identity, round_))
                continue
            rows = company.samples(sampler.rows[identity], sampler.samples_per_identity, random)
            genuine.append(sampler.draw(identity, step) if rows is None else rows)
            forged.append(sampler.forgeries(identity, step, again=True))
        if max(map(len, genuine)) < 2:  # who fills the last place has two samples, if anybody in the batch has
            genuine[-1] = sampler.draw(chosen[-1], step)
        return np.concatenate(genuine + forged)

    def _chosen(self, leads: list[int], company: Company, random: np.random.Generator) -> list[int]:
        """The identities of a batch: the leads first; the last one has two samples, unless one of the leads has."""
        sampler, wanted = self._sampler, self._sampler.identities_per_batch
        chosen, there = list(leads), set(leads)
        for number, lead in enumerate(leads):
            until = len(leads) + (number + 1) * (wanted - len(leads)) // len(leads)
            if len(chosen) < until:
                for partner in company.partners(lead, random):
                    if partner not in there:
                        chosen.append(partner)
                        there.add(partner)
                        if len(chosen) == until:
                            break
        if len(chosen) < wanted:
            others = np.setdiff1d(np.arange(len(sampler.counts_I)), chosen)
            chosen += random.permutation(others)[: wanted - len(chosen)].tolist()
        if (sampler.counts_I[leads] >= 2).any():
            return chosen
        several = [identity for identity in chosen if sampler.counts_I[identity] >= 2]
        last = several[-1] if several else int(random.choice(np.flatnonzero(sampler.counts_I >= 2)))
        if several:
            chosen.remove(last)
        else:
            chosen.pop()
        return [*chosen, last]

    def _round(self, round_: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != round_:
            random = self._sampler.random(_LEADS, round_)
            self._order = round_, random.permutation(len(self._sampler.counts_I))
        return self._order[1]


@final
class Categories:
    """Partners of the lead's own category, any of them with any of their samples.

    Args:
        category_I: The category of each identity, by number.
    """

    def __init__(self, category_I: npt.NDArray[np.int64]) -> None:
        self._category = category_I
        by_category = np.argsort(category_I, kind="stable")
        self._members = np.split(by_category, np.flatnonzero(np.diff(category_I[by_category])) + 1)
        self._place = np.unique(category_I, return_inverse=True)[1]

    def partners(self, lead: int, random: np.random.Generator) -> Iterator[int]:
        """All of the category, in a random order."""
        members = self._members[self._place[lead]]
        yield from (int(members[place]) for place in random.permutation(len(members)))

    def samples(
        self, rows: npt.NDArray[np.int64], wanted: int, random: np.random.Generator
    ) -> npt.NDArray[np.int64] | None:
        """Any."""
        del rows, wanted, random
        return None
