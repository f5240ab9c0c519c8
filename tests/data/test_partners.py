"""Batches of identities that are alike: what every batch has, that all data come, and that nothing else decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.data import PKSampler
from tercet.data.partners import Categories, PartnerSampler
from tercet.errors import InvalidInput


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, PKSampler, PartnerSampler, np.ndarray]:
    counts = draw(st.lists(st.integers(1, 9), min_size=4, max_size=25).filter(lambda counts: max(counts) >= 2))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    sampler = PKSampler(
        labels,
        identities_per_batch=draw(st.integers(2, 12)),
        samples_per_identity=draw(st.integers(2, 5)),
        seed=draw(st.integers(0, 2**63)),
    )
    leads = draw(st.integers(1, sampler.identities_per_batch // 2))
    categories = np.array(draw(st.lists(st.integers(0, 5), min_size=len(counts), max_size=len(counts))))
    return labels, sampler, PartnerSampler(sampler, leads=leads), categories


@given(case=cases(), step=st.integers(0, 2**40))
def test_every_batch_has_p_identities_none_twice_with_k_samples_and_a_positive_pair(case, step):
    labels, sampler, partners, categories = case
    rows = partners.batch(step, Categories(categories))
    assert rows.dtype == np.int64 and len(set(rows.tolist())) == len(rows)
    drawn, there = Counter(labels[rows].tolist()), Counter(labels.tolist())
    assert len(drawn) == sampler.identities_per_batch
    assert all(count == min(there[name], sampler.samples_per_identity) for name, count in drawn.items())
    assert max(drawn.values()) >= 2


@given(case=cases(), step=st.integers(0, 1000))
def test_a_batch_depends_on_seed_and_step_alone(case, step):
    labels, sampler, partners, categories = case
    company = Categories(categories)
    wanted = partners.batch(step, company).tolist()
    for other in (0, step + 1, 3 * step):
        partners.batch(other, company)
    same = PKSampler(
        labels,
        identities_per_batch=sampler.identities_per_batch,
        samples_per_identity=sampler.samples_per_identity,
        seed=sampler._seed,
    )
    again = PartnerSampler(same, leads=partners._leads).batch(step, Categories(categories))
    assert partners.batch(step, company).tolist() == wanted == again.tolist()


@settings(max_examples=30)
@given(case=cases())
def test_in_as_many_rounds_as_the_largest_identity_has_chunks_every_sample_comes(case):
    labels, sampler, partners, categories = case
    rounds = -(-int(sampler.counts_I.max()) // sampler.samples_per_identity)
    steps = range(2 * rounds * partners.batches_per_round)  # twice: a cycle need not begin with the first round
    seen = set(np.concatenate([partners.batch(step, Categories(categories)) for step in steps]).tolist())
    assert seen == set(range(len(labels)))


@pytest.mark.parametrize("categories", [1, 2, 4])
def test_a_batch_is_of_as_many_categories_as_asked_where_they_are_large_enough(categories):
    labels = np.repeat(np.arange(40), 3)
    category_I = np.arange(40) % 4
    partners = PartnerSampler(
        PKSampler(labels, identities_per_batch=8, samples_per_identity=2, seed=0), leads=categories
    )
    kinds, company = [], Categories(category_I * 10)
    for step in range(100):
        drawn = Counter(category_I[np.unique(labels[partners.batch(step, company)])].tolist())
        kinds.append(len(drawn))
        assert all(count % (8 // categories) == 0 for count in drawn.values()), "each lead has its share of partners"
    assert max(kinds) <= categories and sorted(kinds)[50] >= min(categories, 2)
    assert len({tuple(np.unique(labels[partners.batch(step, company)])) for step in range(40)}) > 30


def test_rounds_lead_in_other_orders_and_another_seed_draws_others():
    labels = np.repeat(np.arange(20), 2)
    everybody = Categories(np.zeros(20, np.int64))
    made = [
        PartnerSampler(PKSampler(labels, identities_per_batch=4, samples_per_identity=2, seed=seed), leads=2)
        for seed in (0, 1)
    ]
    leads = [[tuple(labels[one.batch(step, everybody)[:4:2]]) for step in range(100)] for one in made]
    for rounds in leads:
        assert all(sorted(np.concatenate(rounds[start : start + 10])) == list(range(20)) for start in range(0, 100, 10))
        assert len({tuple(rounds[start : start + 10]) for start in range(0, 100, 10)}) == 10
    assert leads[0] != leads[1]


def test_small_categories_are_filled_up_with_others():
    labels = np.repeat(np.arange(20), 2)
    sampler = PKSampler(labels, identities_per_batch=6, samples_per_identity=2, seed=0)
    category_I = np.array([0, 0, 0, *[1] * 17])
    found = [
        np.unique(labels[PartnerSampler(sampler, leads=1).batch(step, Categories(category_I))]) for step in range(20)
    ]
    of_the_small = [batch for batch in found if {0, 1, 2} <= set(batch.tolist())]
    assert of_the_small and all(len(batch) == 6 for batch in found)


def test_forgeries_come_with_leads_and_partners():
    labels = np.tile(np.repeat(np.arange(6), 4), 2)
    forged = np.arange(48) >= 24
    sampler = PKSampler(
        labels, identities_per_batch=4, samples_per_identity=2, seed=0, forged=forged, forgeries_per_identity=3
    )
    for step in range(12):
        rows = PartnerSampler(sampler, leads=1).batch(step, Categories(np.zeros(6, np.int64)))
        assert len(set(rows.tolist())) == 20 and forged[rows].tolist() == [False] * 8 + [True] * 12
        assert Counter(labels[rows[8:]].tolist()) == dict.fromkeys(labels[rows[:8]].tolist(), 3)


def test_more_leads_than_half_of_the_batch_are_refused():
    sampler = PKSampler(np.repeat(np.arange(9), 2), identities_per_batch=5, samples_per_identity=2, seed=0)
    for leads in (0, 3):
        with pytest.raises(InvalidInput, match=f"leads={leads}: must be from 1 to half of the 5 identities"):
            PartnerSampler(sampler, leads=leads)
