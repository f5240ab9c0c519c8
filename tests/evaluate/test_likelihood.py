"""Costs of decisions and of log-likelihood ratios: worked by hand, by definition, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from tercet.errors import InvalidInput
from tercet.evaluate import LlrMap, actual_dcf, bayes_threshold, cllr, det, fit_llr, roc, verification


def case(seed: int, digits: int = 1, pairs: int = 60, shift: float = 1.0):
    rng = np.random.default_rng(seed)
    kind = np.arange(pairs) < 2 + seed % (pairs - 3)
    return np.round(shift * kind + rng.normal(size=pairs), digits), kind


def test_costs_worked_by_hand():
    # Accepting from 0.6 on: 1 of 4 genuine pairs missed, 1 of 5 impostors accepted. From 0.9 on: 2 missed, none.
    scores = [0.9, 0.95, 0.6, 0.2, 0.7, 0.5, 0.4, 0.3, 0.1]
    genuine = np.arange(9) < 4
    found = verification(scores, genuine)
    assert found.min_dcf["0.01"] == pytest.approx(0.5, abs=1e-12)
    assert found.min_dcf["0.05"] == pytest.approx(0.5, abs=1e-12)
    # At the prior 1/2 both errors weigh alike: 1/4 + 1/5.
    llr = [3.0, 4.0, 1.0, -2.0, 0.5, -1.0, -1.5, -2.5, -3.0]
    assert actual_dcf(llr, genuine, prior=0.5) == pytest.approx(0.45, abs=1e-12)
    # At the prior 0.05 the threshold is ln 19 = 2.94: two missed, nobody accepted.
    assert bayes_threshold(0.05) == pytest.approx(math.log(19), abs=1e-12)
    assert actual_dcf(llr, genuine, prior=0.05) == pytest.approx(0.5, abs=1e-12)


def test_cllr_worked_by_hand():
    # log2(1 + 1/3) of the genuine pair, log2(1 + 1/7) of the impostor pair
    assert cllr([math.log(3), -math.log(7)], [True, False]) == pytest.approx(
        (math.log2(4 / 3) + math.log2(8 / 7)) / 2, abs=1e-12
    )
    assert cllr([-800.0, 800.0], [True, False]) == pytest.approx(800 / math.log(2), rel=1e-12)


def test_min_cllr_worked_by_hand():
    # PAV pools the middle: genuine above, one of each, impostor below, so only the two in the middle cost 1 bit each.
    found = verification([0.9, 0.4, 0.6, 0.1], [True, True, False, False])
    assert found.min_cllr == pytest.approx(0.5, abs=1e-12)
    assert verification([0.9, 0.8, 0.2, 0.1], [True, True, False, False]).min_cllr == 0.0
    assert verification([0.1, 0.2, 0.8, 0.9], [True, True, False, False]).min_cllr == pytest.approx(1.0, abs=1e-12)
    assert verification([0.5] * 7, np.arange(7) < 2).min_cllr == pytest.approx(1.0, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(0, 3))
@settings(max_examples=60)
def test_min_cllr_is_the_cllr_of_scikit_learns_isotonic_map(seed, digits):
    scores, genuine = case(seed, digits)
    share = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, genuine)
    prior = genuine.mean()
    with np.errstate(divide="ignore"):
        llr = np.log(share) - np.log1p(-share) - np.log(prior / (1 - prior))
    bits = np.logaddexp(0, np.where(genuine, -llr, llr)) / np.log(2)
    expected = (bits[genuine].mean() + bits[~genuine].mean()) / 2
    assert verification(scores, genuine).min_cllr == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(0, 3))
@settings(max_examples=60)
def test_min_dcf_is_the_least_over_every_threshold(seed, digits):
    scores, genuine = case(seed, digits)
    thresholds = [*scores, scores.max() + 1]
    for name, prior in (("0.01", 0.01), ("0.05", 0.05)):
        costs = [
            prior * (scores[genuine] < t).mean() + (1 - prior) * (scores[~genuine] >= t).mean() for t in thresholds
        ]
        found = verification(scores, genuine, llr=scores)
        assert found.min_dcf[name] == pytest.approx(min(costs) / prior, abs=1e-9)
        assert found.act_dcf[name] >= found.min_dcf[name] - 1e-12
        assert found.cllr >= found.min_cllr - 1e-12


def test_without_a_map_there_is_no_actual_cost():
    found = verification(*case(3))
    assert found.cllr is None and found.act_dcf == {"0.01": None, "0.05": None}


def test_the_map_finds_the_ratio_of_two_normal_densities():
    # Equal spread: the log-likelihood ratio is affine, (shift / spread^2) (s - middle).
    rng = np.random.default_rng(0)
    genuine = np.arange(60_000) < 20_000
    scores = rng.normal(np.where(genuine, 0.7, 0.1), 0.3)
    found = fit_llr(scores, genuine)
    assert found.slope == pytest.approx(0.6 / 0.09, rel=0.03)
    assert found(0.4) == pytest.approx(0.0, abs=0.05)
    truth = stats.norm(0.7, 0.3).logpdf(scores) - stats.norm(0.1, 0.3).logpdf(scores)
    assert cllr(found(scores), genuine) == pytest.approx(cllr(truth, genuine), abs=1e-3)


def test_the_map_does_not_depend_on_how_many_pairs_there_are_of_each_kind():
    scores, genuine = case(25, digits=3, pairs=400)
    once = fit_llr(scores, genuine)
    more = np.where(genuine, 1, 5)
    again = fit_llr(np.repeat(scores, more), np.repeat(genuine, more))
    assert again(scores) == pytest.approx(once(scores), abs=0.05)  # the penalty follows the rarer kind
    order = np.random.default_rng(0).permutation(400)
    assert fit_llr(scores[order], genuine[order]) == once


def test_the_map_is_the_least_of_its_own_objective():
    scores, genuine = case(40, digits=3, pairs=300)
    for prior in (0.5, 0.05):
        found = fit_llr(scores, genuine, prior=prior)

        def cost(slope, offset, prior=prior):
            llr = slope * scores + offset + math.log(prior / (1 - prior))
            own, other = np.logaddexp(0, -llr[genuine]).mean(), np.logaddexp(0, llr[~genuine]).mean()
            penalty = (slope * scores.std()) ** 2 / (2 * min(genuine.sum(), (~genuine).sum()))
            return prior * own + (1 - prior) * other + penalty

        least = cost(found.slope, found.offset)
        for step in (-1e-3, 1e-3):
            assert cost(found.slope + step, found.offset) > least
            assert cost(found.slope, found.offset + step) > least


def test_kinds_that_do_not_overlap_give_a_finite_map():
    found = fit_llr([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert 0 < found.slope < 100 and found([0.1, 0.9])[0] < 0 < found([0.1, 0.9])[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_llr([0.5, 0.5], [True, False]), "all are equal"),
        (lambda: fit_llr([0.1, 0.9], [True, False]), "do not score higher"),
        (lambda: fit_llr([0.1, 0.9], [True, False], prior=1.0), "prior: expected"),
        (lambda: actual_dcf([0.1, 0.9], [True, False], prior=0.0), "prior: expected"),
        (lambda: cllr([0.1, np.inf], [True, False]), "NaN or infinity"),
        (lambda: verification([0.1, 0.9], [False, True], llr=[0.1]), "genuine: expected"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()


def test_a_map_is_applied_to_any_shape():
    assert LlrMap(2.0, -1.0)([[0.5], [1.0]]).tolist() == [[0.0], [1.0]]


def test_det_is_a_straight_line_for_normal_scores():
    rng = np.random.default_rng(1)
    genuine = np.arange(40_000) < 20_000
    curve = det(rng.normal(np.where(genuine, 2.0, 0.0)), genuine)
    middle = np.abs(curve.fmr_deviate) < 1.5
    slope, offset = np.polyfit(curve.fmr_deviate[middle], curve.fnmr_deviate[middle], 1)
    assert (slope, offset) == pytest.approx((-1.0, -2.0), abs=0.05)
    assert stats.norm.cdf(curve.fmr_deviate) == pytest.approx(curve.fmr, abs=1e-12)
    whole = roc([0.9, 0.6, 0.5, 0.4], [True, False, True, False])
    inner = det([0.9, 0.6, 0.5, 0.4], [True, False, True, False])
    assert inner.thresholds.tolist() == [0.6] and inner.fmr.tolist() == [0.5] and inner.fnmr.tolist() == [0.5]
    assert len(whole.thresholds) == 5
