from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.data import PKSampler
from tercet.errors import InvalidInput


@st.composite
def cases(draw: st.DrawFn, most: int = 9) -> tuple[np.ndarray, PKSampler]:
    """Labels in any order with gaps, identities of 1 to `most` samples, at least one of them with two."""
    counts = draw(st.lists(st.integers(1, most), min_size=2, max_size=25).filter(lambda counts: max(counts) >= 2))
    names = draw(st.lists(st.integers(0, 10**6), min_size=len(counts), max_size=len(counts), unique=True))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(names, counts))
    sampler = PKSampler(
        labels,
        identities_per_batch=draw(st.integers(2, 12)),
        samples_per_identity=draw(st.integers(2, 5)),
        seed=draw(st.integers(0, 2**63)),
    )
    return labels, sampler


@given(case=cases(), step=st.integers(0, 2**40))
def test_every_batch_has_p_identities_with_k_different_samples_or_all_there_are(case, step):
    labels, sampler = case
    rows = sampler.batch(step)
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == len(rows), "a row twice"
    drawn, there = Counter(labels[rows].tolist()), Counter(labels.tolist())
    assert len(drawn) == sampler.identities_per_batch >= 2
    for identity, count in drawn.items():
        assert count == min(there[identity], sampler.samples_per_identity), "an identity twice, or cut short"
    assert max(drawn.values()) >= 2, "no positive pair"


@given(case=cases(), step=st.integers(0, 1000))
def test_a_batch_is_a_pure_function_of_seed_and_step(case, step):
    labels, sampler = case
    wanted = sampler.batch(step).tolist()
    for other in (0, step + 1, 3 * step):
        sampler.batch(other)
    again = PKSampler(
        labels,
        identities_per_batch=sampler.identities_per_batch,
        samples_per_identity=sampler.samples_per_identity,
        seed=sampler._seed,
    )
    assert sampler.batch(step).tolist() == wanted == again.batch(step).tolist()


@settings(max_examples=40)
@given(case=cases(), start=st.integers(0, 5))
def test_a_round_visits_every_identity_and_a_cycle_uses_every_sample(case, start):
    labels, sampler = case

    def rows_of_round(round_: int) -> list[int]:
        first = round_ * sampler.batches_per_round
        return np.concatenate([sampler.batch(first + b) for b in range(sampler.batches_per_round)]).tolist()

    rounds = -(-max(Counter(labels.tolist()).values()) // sampler.samples_per_identity)
    seen = {round_: rows_of_round(round_) for round_ in range(start * rounds, (start + 1) * rounds)}
    for rows in seen.values():
        assert set(labels[rows]) == set(labels)
    for identity, count in Counter(labels.tolist()).items():
        cycle = -(-count // sampler.samples_per_identity)
        # The identity's own cycles start at multiples of its length; the first whole one inside this stretch.
        first = -(-start * rounds // cycle) * cycle
        if first + cycle <= (start + 1) * rounds:
            used = {row for round_ in range(first, first + cycle) for row in seen[round_] if labels[row] == identity}
            assert len(used) == count


def test_rounds_and_cycles_are_reshuffled():
    labels = np.repeat(np.arange(20), 8)
    sampler = PKSampler(labels, identities_per_batch=5, samples_per_identity=4, seed=0)
    assert sampler.batches_per_round == 4
    company = {tuple(sorted(set(labels[sampler.batch(4 * r)]))) for r in range(20)}
    assert len(company) > 15
    halves = {
        frozenset(row for b in range(4) for row in sampler.batch(4 * r + b).tolist() if labels[row] == 0)
        for r in range(0, 20, 2)
    }
    assert len(halves) > 5, "each cycle of two rounds cuts the eight samples differently"
    other = PKSampler(labels, identities_per_batch=5, samples_per_identity=4, seed=1)
    assert other.batch(0).tolist() != sampler.batch(0).tolist()


def test_within_a_cycle_no_sample_comes_twice_where_the_chunks_are_full():
    labels = np.repeat([3, 8], 12)
    sampler = PKSampler(labels, identities_per_batch=2, samples_per_identity=4, seed=5)
    rows = np.concatenate([sampler.batch(step) for step in range(3)])
    assert sorted(rows.tolist()) == list(range(24))


def test_few_pairs_among_many_single_samples_are_spread_over_all_batches():
    labels = np.concatenate([np.arange(200), [0, 1, 1, 2, 2, 2, 2, 2, 2]])
    sampler = PKSampler(labels, identities_per_batch=8, samples_per_identity=2, seed=0)
    assert sampler.batches_per_round == -(-197 // 7)
    seen: Counter[int] = Counter()
    for step in range(sampler.batches_per_round):
        drawn = Counter(labels[sampler.batch(step)].tolist())
        assert max(drawn.values()) == 2
        assert len(drawn) == 8
        seen.update(drawn.keys())
    assert set(seen) == set(range(200))
    # The three take turns in the place that is kept for them, and fill up the batches that run short.
    assert min(seen[identity] for identity in (0, 1, 2)) >= 29 // 3
    assert sum(seen[identity] for identity in (0, 1, 2)) == 8 * 29 - 197
    # Visits beyond the first of a round are fresh draws, so they soon show all of an identity's samples.
    shown = {row for step in range(40) for row in sampler.batch(step).tolist() if labels[row] == 2}
    assert shown == set(np.flatnonzero(labels == 2).tolist())


def test_batches_per_epoch_counts_samples():
    labels = np.repeat(np.arange(10), 10)
    assert PKSampler(labels, identities_per_batch=5, samples_per_identity=4, seed=0).batches_per_epoch == 5
    assert PKSampler(labels, identities_per_batch=7, samples_per_identity=4, seed=0).batches_per_epoch == 4
    assert PKSampler(labels, identities_per_batch=999, samples_per_identity=4, seed=0).batches_per_epoch == 3
    assert PKSampler(labels[:20], identities_per_batch=9, samples_per_identity=50, seed=0).batches_per_epoch == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([], dtype=np.int64)}, "labels: need two identities .* have 0"),
        ({"labels": np.zeros(9, dtype=np.int64)}, "labels: need two identities .* have 1"),
        ({"labels": np.arange(9)}, "labels: no identity has two samples"),
        ({"labels": np.array([0, 0, -1])}, "labels: a negative label"),
        ({"labels": np.array([0.0, 0.0, 1.0])}, r"labels: must be a 1-D array of integers, not float64 \(3,\)"),
        ({"labels": np.array([[0, 0, 1]])}, r"labels: must be .* \(1, 3\)"),
        ({"identities_per_batch": 1}, "identities_per_batch: must be at least 2, not 1"),
        ({"samples_per_identity": 1}, "samples_per_identity: must be at least 2, not 1"),
        ({"seed": -1}, "seed: must not be negative"),
    ],
)
def test_what_cannot_be_sampled_is_refused(change, message):
    usual = {"labels": np.array([0, 0, 1]), "identities_per_batch": 2, "samples_per_identity": 2, "seed": 0}
    given_ = usual | change
    with pytest.raises(InvalidInput, match=message):
        PKSampler(given_.pop("labels"), **given_)


def test_a_negative_step_is_refused():
    with pytest.raises(InvalidInput, match="step: must not be negative"):
        PKSampler(np.array([0, 0, 1]), identities_per_batch=2, samples_per_identity=2, seed=0).batch(-1)


def forged_data(writers: int = 7, genuine: int = 5, forged: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and which rows are forgeries, shuffled; the last writer has no forgery."""
    labels = np.repeat(np.arange(writers), genuine + forged)
    is_forged = np.tile(np.arange(genuine + forged) >= genuine, writers)
    keep = ~(is_forged & (labels == writers - 1))
    order = np.random.default_rng(1).permutation(np.flatnonzero(keep))
    return labels[order], is_forged[order]


def test_forgeries_come_with_their_target_and_never_without_it():
    labels, forged = forged_data()
    sampler = PKSampler(
        labels, identities_per_batch=3, samples_per_identity=2, seed=5, forged=forged, forgeries_per_identity=3
    )
    for step in range(60):
        rows = sampler.batch(step)
        assert len(np.unique(rows)) == len(rows)
        genuine, fakes = rows[~forged[rows]], rows[forged[rows]]
        writers, counts = np.unique(labels[genuine], return_counts=True)
        assert len(writers) == 3
        assert set(counts) == {2}
        targets, counts = np.unique(labels[fakes], return_counts=True)
        assert set(targets) == set(writers) - {6}
        assert set(counts) == {3}
        assert (np.flatnonzero(~forged[rows]) < len(genuine)).all(), "genuine rows come first"


def test_every_forgery_is_used_and_the_batches_are_a_function_of_seed_and_step():
    labels, forged = forged_data()

    def make(seed: int) -> PKSampler:
        return PKSampler(
            labels, identities_per_batch=3, samples_per_identity=2, seed=seed, forged=forged, forgeries_per_identity=3
        )

    sampler = make(5)
    cycle = 2 * sampler.batches_per_round  # two visits show the four forgeries of a writer
    used = np.concatenate([sampler.batch(step) for step in range(cycle)])
    assert set(np.flatnonzero(forged)) <= set(used)
    assert [make(5).batch(step).tolist() for step in (9, 4)] == [sampler.batch(step).tolist() for step in (9, 4)]
    assert make(6).batch(4).tolist() != sampler.batch(4).tolist()


def test_forgeries_change_nothing_about_the_genuine_rows():
    labels, forged = forged_data()
    genuine = np.flatnonzero(~forged)
    plain = PKSampler(labels[genuine], identities_per_batch=3, samples_per_identity=2, seed=5)
    for wanted in (0, 2):
        sampler = PKSampler(
            labels, identities_per_batch=3, samples_per_identity=2, seed=5, forged=forged, forgeries_per_identity=wanted
        )
        assert sampler.batches_per_epoch == plain.batches_per_epoch
        for step in range(20):
            rows = sampler.batch(step)
            assert rows[~forged[rows]].tolist() == genuine[plain.batch(step)].tolist()
            assert forged[rows].any() == (wanted > 0)


def test_forgeries_of_nobody_known_are_never_drawn_and_bad_arguments_are_named():
    labels = np.array([0, 0, 1, 1, 2, 2])
    forged = np.array([False, False, False, False, True, True])
    options = {"identities_per_batch": 2, "samples_per_identity": 2, "seed": 0}
    sampler = PKSampler(labels, **options, forged=forged, forgeries_per_identity=2)
    assert all(set(sampler.batch(step)) == {0, 1, 2, 3} for step in range(5))
    with pytest.raises(InvalidInput, match="forgeries_per_identity: must not be negative"):
        PKSampler(labels, **options, forged=forged, forgeries_per_identity=-1)
    with pytest.raises(InvalidInput, match=r"forged: must be bool \[6\], not int64 \[6\]"):
        PKSampler(labels, **options, forged=forged.astype(np.int64))
    with pytest.raises(InvalidInput, match="two identities"):
        PKSampler(labels[:4], **options, forged=np.array([False, False, True, True]))


def test_the_samples_of_a_visit_are_of_different_groups():
    """Of ten identities with four sessions of three samples each: four of a visit are of four sessions, all used."""
    labels, groups = np.arange(120) // 12, np.arange(120) // 3
    sampler = PKSampler(labels, identities_per_batch=5, samples_per_identity=4, seed=0, groups=groups)
    for step in range(12):
        by_identity = sampler.batch(step).reshape(5, 4)
        assert (labels[by_identity] == labels[by_identity[:, :1]]).all()
        assert all(len(set(groups[some])) == 4 for some in by_identity)
    assert len(set(np.concatenate([sampler.batch(step) for step in range(6)]))) == 120


def test_a_small_session_is_spread_over_the_visits_of_a_large_one():
    """Of 12 and 4 samples, each visit of four has three and one."""
    labels, groups = np.repeat([0, 1], 16), np.tile(np.repeat([0, 1], [12, 4]), 2)
    sampler = PKSampler(labels, identities_per_batch=2, samples_per_identity=4, seed=3, groups=groups)
    found = [groups[sampler.batch(step)].reshape(2, 4).sum(1) for step in range(40)]
    assert 0.85 < np.mean(np.concatenate(found) == 1) <= 1


def test_groups_that_say_nothing_change_nothing():
    labels = np.arange(60) // 6
    plain, grouped = (
        PKSampler(labels, identities_per_batch=4, samples_per_identity=3, seed=5, groups=groups)
        for groups in (None, np.zeros(60, np.int64))
    )
    for step in range(10):
        np.testing.assert_array_equal(plain.batch(step), grouped.batch(step))
    with pytest.raises(InvalidInput, match=r"groups: must be integers \[60\], not \[59\]"):
        PKSampler(labels, identities_per_batch=4, samples_per_identity=3, seed=5, groups=np.zeros(59, np.int64))


@given(
    counts=st.lists(st.integers(2, 23), min_size=3, max_size=9),
    identities=st.integers(2, 5),
    samples=st.integers(2, 4),
    seed=st.integers(0, 99),
    temper=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_tempered_visits_are_as_many_as_said_and_none_comes_twice_into_a_batch(
    counts, identities, samples, seed, temper
):
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler = PKSampler(labels, identities_per_batch=identities, samples_per_identity=samples, seed=seed, temper=temper)
    wanted = np.maximum(np.rint(np.ceil(np.array(counts) / samples) ** temper), 1)
    visits = np.zeros(len(counts))
    for step in range(sampler.batches_per_round):
        rows = sampler.batch(step)
        there, each = np.unique(labels[rows], return_counts=True)
        assert len(there) == sampler.identities_per_batch and len(set(rows.tolist())) == len(rows)
        assert (each == np.minimum(np.array(counts)[there], samples)).all()
        visits[there] += 1
    # A batch that was short is filled up, so a visit more is possible, and there are no more visits than batches.
    assert (visits >= np.minimum(wanted, sampler.batches_per_round)).all()
    assert visits.sum() <= wanted.sum() + identities - 1 or wanted.max() > sampler.batches_per_round


def test_fully_tempered_a_round_uses_every_sample_and_frequent_identities_come_more_often():
    counts = [40, 20, 12, 4, 4, 4, 8, 2]
    labels = np.repeat(np.arange(8), counts)
    for temper, first in ((0.0, 1), (0.5, 3), (1.0, 10)):
        sampler = PKSampler(labels, identities_per_batch=2, samples_per_identity=4, seed=3, temper=temper)
        steps = range(sampler.batches_per_round, 2 * sampler.batches_per_round)
        rows = np.concatenate([sampler.batch(step) for step in steps])
        assert sum((labels[sampler.batch(step)] == 0).any() for step in steps) == first
        assert (len(set(rows.tolist())) == len(labels)) == (temper == 1)
    with pytest.raises(InvalidInput, match="temper"):
        PKSampler(labels, identities_per_batch=2, samples_per_identity=4, seed=3, temper=1.5)
