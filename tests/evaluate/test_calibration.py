from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tercet.errors import InvalidInput
from tercet.evaluate import Calibration, calibrate


def case(genuine: int = 400, impostor: int = 4000, shift: float = 2.5, seed: int = 0, digits: int = 9):
    rng = np.random.default_rng(seed)
    kind = np.arange(genuine + impostor) < genuine
    return np.round(shift * kind + rng.normal(size=len(kind)), digits), kind


@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([0.01, 0.02, 0.1, 0.37]))
@settings(max_examples=60, deadline=None)
def test_the_threshold_keeps_the_target_and_no_lower_score_would(seed, digits, target):
    scores, genuine = case(seed=seed, digits=digits)
    found = calibrate(scores, genuine, target_fmr=target)
    impostor = scores[~genuine]
    assert found.achieved_fmr == (impostor >= found.threshold).mean() <= target
    assert found.achieved_fnmr == (scores[genuine] < found.threshold).mean()
    below = scores[scores < found.threshold].max()
    assert (impostor >= below).mean() > target
    assert (found.impostor_pairs, found.genuine_pairs, found.target_fmr) == (4000, 400, target)


def test_the_threshold_stands_clear_of_the_scores_on_both_sides():
    scores = np.concatenate([np.full(300, 0.2), np.full(20, 0.8)])
    found = calibrate(scores, np.arange(320) >= 300, target_fmr=0.1)
    assert found.threshold == 0.5
    assert (found.achieved_fmr, found.achieved_fnmr) == (0.0, 0.0)


def test_intervals_are_those_of_exact_binomial_tests():
    scores, genuine = case()
    found = calibrate(scores, genuine, target_fmr=0.01)
    for rate, trials, interval in (
        (found.achieved_fmr, 4000, found.fmr_interval),
        (found.achieved_fnmr, 400, found.fnmr_interval),
    ):
        expected = stats.binomtest(round(rate * trials), trials).proportion_ci(0.95, method="exact")
        assert interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_error_in_n_pairs_still_leaves_an_upper_bound():
    scores = np.concatenate([np.full(3000, 0.2), np.full(20, 0.8)])
    found = calibrate(scores, np.arange(3020) >= 3000, target_fmr=0.01)
    assert found.fmr_interval[0] == 0.0
    assert found.fmr_interval[1] == pytest.approx(1 - 0.025 ** (1 / 3000), abs=1e-9)


def test_order_does_not_matter_and_the_id_names_the_contents():
    scores, genuine = case()
    order = np.random.default_rng(5).permutation(len(scores))
    once = calibrate(scores, genuine, target_fmr=0.01)
    assert calibrate(scores[order], genuine[order], target_fmr=0.01) == once
    assert len(once.id) == 12
    assert calibrate(scores, genuine, target_fmr=0.02).id != once.id
    assert calibrate(scores + 0.001, genuine, target_fmr=0.01).id != once.id


@pytest.mark.parametrize(("impostors", "target"), [(299, 0.1), (2999, 0.01), (427, 0.07)])
def test_too_few_impostor_pairs_are_refused_with_the_numbers(impostors, target):
    least = {0.1: 300, 0.01: 3000, 0.07: 429}[target]
    scores, genuine = case(impostor=impostors, shift=4)
    with pytest.raises(InvalidInput, match=f"{target} needs at least {least} impostor pairs .* got {impostors}"):
        calibrate(scores, genuine, target_fmr=target)
    scores, genuine = case(impostor=least, shift=4)
    assert calibrate(scores, genuine, target_fmr=target).impostor_pairs == least


def test_kinds_that_overlap_beyond_use_are_refused():
    scores, genuine = case(shift=0.0)
    with pytest.raises(
        InvalidInput, match=r"overlap too much .*EER 0\.[45]\d\d.* \(400 genuine, 4000 impostor pairs\)"
    ):
        calibrate(scores, genuine, target_fmr=0.1)
    scores, genuine = case(shift=0.5)  # EER about 0.4, but at FMR 0.01 hardly any genuine pair is accepted
    with pytest.raises(InvalidInput, match="overlap too much"):
        calibrate(scores, genuine, target_fmr=0.01)
    assert calibrate(scores, genuine, target_fmr=0.1).achieved_fnmr < 0.95


def test_a_collapsed_model_is_refused():
    with pytest.raises(InvalidInput, match=r"EER 0\.500"):
        calibrate(np.full(1000, 0.5), np.arange(1000) < 500, target_fmr=0.1)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_target_that_is_no_rate_is_refused(target):
    scores, genuine = case()
    with pytest.raises(InvalidInput, match="target_fmr: expected a rate"):
        calibrate(scores, genuine, target_fmr=target)


def test_json_keeps_every_bit():
    scores, genuine = case()
    found = calibrate(scores, genuine, target_fmr=0.01)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Calibration.from_json(json.loads(text)) == found


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.123},
        {"threshold": None},
        {"threshold": float("nan")},
        {"threshold": "0.5"},
        {"impostor_pairs": 1.5},
        {"impostor_pairs": True},
        {"genuine_pairs": 10**9},
        {"fmr_interval": [0.1]},
        {"fmr_interval": [0.1, "a"]},
        {"fmr_interval": 0.5},
        {"id": 5},
        {"id": "0" * 12},
        {"more": 1},
    ],
)
def test_a_changed_calibration_is_refused(change):
    scores, genuine = case()
    content = calibrate(scores, genuine, target_fmr=0.01).to_json()
    with pytest.raises(InvalidInput, match=r"^calibration: "):
        Calibration.from_json(content | change)


@pytest.mark.parametrize("content", [None, [], "x", {}, {"id": "a"}])
def test_what_is_no_calibration_is_refused(content):
    with pytest.raises(InvalidInput, match="calibration: expected the fields id, threshold"):
        Calibration.from_json(content)
