"""Error rates whose uncertainty comes from identities: by definition, against the bootstrap, and kept promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InvalidInput
from tercet.evaluate import ErrorRate, error_rate
from tercet.evaluate.rates import binomial_interval


def by_definition(errors, codes) -> float:
    """Variance of the rate: products of deviations over all ordered pairs of pairs with an identity in common."""
    value = errors.mean()
    total = sum(
        (errors[a] - value) * (errors[b] - value)
        for a in range(len(errors))
        for b in range(len(errors))
        if set(codes[a]) & set(codes[b])
    )
    return total / len(errors) ** 2


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_the_variance_is_that_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(6, size=(25, 2))
    errors = rng.random(25) < 0.4
    found = error_rate(errors, codes)
    people = len(np.unique(codes))
    assert found.value == errors.mean() and found.identities == people and found.pairs == 25
    if 0 < found.value < 1:
        variance = by_definition(errors, codes) * people / (people - 1)
        if variance > 0.02:  # below, the floor of independent identities may hold
            expected = min(25, found.value * (1 - found.value) / variance)
            assert found.effective == pytest.approx(expected, rel=1e-9)


def test_pairs_that_share_nobody_are_independent():
    errors = np.arange(40) % 4 == 0
    found = error_rate(errors, np.arange(80).reshape(40, 2))
    assert found.effective == pytest.approx(40 * 79 / 80, rel=1e-9)
    low, high = found.interval()
    assert low < 0.25 < high


def test_the_effective_number_agrees_with_drawing_identities():
    rng = np.random.default_rng(0)
    people = 60
    easy = rng.normal(size=people)
    one, other = np.triu_indices(people, 1)
    errors = easy[one] + easy[other] + rng.normal(size=len(one)) > 3
    found = error_rate(errors, np.stack([one, other], axis=1))
    rates = []
    for _ in range(600):
        times = np.bincount(rng.integers(people, size=people), minlength=people)
        weight = times[one] * times[other]
        rates.append((weight * errors).sum() / weight.sum())
    variance = found.value * (1 - found.value) / found.effective
    assert np.sqrt(variance) == pytest.approx(np.std(rates), rel=0.15)
    assert found.effective < 0.3 * len(errors)  # pairs are far from independent


def test_the_rate_foreseen_for_other_identities_holds_in_nineteen_of_twenty_sets():
    # Identities of which some resemble many others: thresholds from 40 of them, errors counted on 40 others.
    kept, naive, rounds, people = 0, 0, 300, 40
    rng = np.random.default_rng(2)
    one, other = np.triu_indices(people, 1)
    codes = np.stack([one, other], axis=1)

    def scores():
        common = rng.normal(size=people)
        return 0.6 * (common[one] + common[other]) + rng.normal(size=len(one))

    for _ in range(rounds):
        chosen, tested = scores(), scores()
        threshold = np.quantile(chosen, 0.95)
        here, there = error_rate(chosen >= threshold, codes), error_rate(tested >= threshold, codes)
        low, high = here.foresee(there.pairs, there.identities)
        kept += low <= there.value <= high
        low, high = binomial_interval(here.value, here.pairs)
        naive += low <= there.value <= high
    assert 0.92 <= kept / rounds <= 0.99
    assert naive / rounds < 0.6  # as if pairs were independent


def test_without_an_error_every_identity_counts_once():
    codes = np.stack(np.triu_indices(20, 1), axis=1)
    none = error_rate(np.zeros(190), codes)
    assert none.effective == 10 and none.interval()[0] == 0.0 and 0.25 < none.interval()[1] < 0.35
    assert error_rate(np.ones(190), codes).interval()[1] == 1.0
    own = error_rate(np.zeros(30), np.repeat(np.arange(10), 6).reshape(30, 2))
    assert own.effective == 10


def test_foreseeing_is_wider_than_the_interval_and_narrows_with_more_identities():
    here = ErrorRate(0.1, 1000, 50, 200.0)
    low, high = here.interval()
    for people in (50, 500):
        wide = here.foresee(1000, people)
        assert wide[0] < low < high < wide[1]
    assert here.foresee(30, 500)[1] > here.foresee(1000, 500)[1]
    near = here.foresee(10**6, 10**6)
    assert near == pytest.approx((low, high), abs=2e-3)


@pytest.mark.parametrize(
    ("errors", "codes"), [([], np.zeros((0, 2), int)), ([True], [[0.0, 1.0]]), ([True, False], [[0, 1]])]
)
def test_bad_arguments_are_named(errors, codes):
    with pytest.raises(InvalidInput, match=r"^(errors|identities): expected"):
        error_rate(errors, codes)


@pytest.mark.parametrize(("each", "wrong"), [(2, 1), (3, 1), (7, 3), (600, 200)])
def test_errors_that_are_spread_evenly_over_identities_say_nothing_of_their_correlation(each: int, wrong: int) -> None:
    """The estimated variance is zero, or what rounding leaves of it: no more is known than where nobody errs."""
    people = 20
    codes = np.repeat(np.arange(people), each)
    found = error_rate(np.tile(np.arange(each) < wrong, people), np.stack([codes, codes], axis=1))
    assert found.value == pytest.approx(wrong / each) and found.effective == people
    low, high = found.interval()
    assert low < wrong / each - 0.15 and high > wrong / each + 0.15
