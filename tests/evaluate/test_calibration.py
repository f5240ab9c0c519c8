from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate import Calibration, all_pairs, calibrate, cllr, fit_llr, verification


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
        {"llr_slope": 1.0},
        {"llr_slope": "x"},
        {"cllr": float("inf")},
        {"identities": 4.5},
        {"norm": "none"},
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


def people(count: int = 40, each: int = 4, seed: int = 0, spread: float = 0.6):
    x = np.random.default_rng(seed).normal(size=(count, 1, 6)) + spread * np.random.default_rng(seed + 1).normal(
        size=(count, each, 6)
    )
    labels = np.repeat(np.arange(count), each)
    pairs = all_pairs(x.reshape(-1, 6), labels)
    return pairs, np.stack([labels[pairs.first], labels[pairs.second]], axis=1)


def test_intervals_over_people_are_wider_than_over_pairs_and_the_threshold_is_the_same():
    pairs, codes = people()
    alone = calibrate(pairs.scores, pairs.genuine, target_fmr=0.1)
    found = calibrate(pairs.scores, pairs.genuine, target_fmr=0.1, identities=codes)
    assert (found.threshold, found.achieved_fmr, found.achieved_fnmr) == (
        alone.threshold, alone.achieved_fmr, alone.achieved_fnmr,
    )  # fmt: skip
    assert found.identities == found.genuine_identities == 40 and alone.identities is None
    for one, other in ((found.fmr_interval, alone.fmr_interval), (found.fnmr_interval, alone.fnmr_interval)):
        assert one[0] < other[0] and one[1] > other[1]
    assert found.fmr_effective < 0.5 * found.impostor_pairs
    assert alone.foresee_fmr(codes[~pairs.genuine]) is None


def test_what_is_foreseen_for_other_people_is_wider_still_and_holds():
    kept, rounds = 0, 60
    for seed in range(rounds):
        pairs, codes = people(seed=3 * seed)
        found = calibrate(pairs.scores, pairs.genuine, target_fmr=0.05, identities=codes)
        new, theirs = people(count=25, seed=3 * seed + 10_000)
        low, high = found.foresee_fmr(theirs[~new.genuine])
        assert low <= found.fmr_interval[0] and high >= found.fmr_interval[1]
        kept += low <= (new.scores[~new.genuine] >= found.threshold).mean() <= high
        assert found.foresee_fnmr(theirs[new.genuine])[0] <= found.achieved_fnmr
    assert 0.9 <= kept / rounds <= 1.0


def test_the_map_is_kept_with_its_cost():
    scores, genuine = case()
    found = calibrate(scores, genuine, target_fmr=0.01)
    assert found.llr == fit_llr(scores, genuine)
    assert found.cllr == pytest.approx(cllr(found.llr(scores), genuine), abs=1e-12)
    assert found.min_cllr == verification(scores, genuine).min_cllr <= found.cllr < 1


def test_an_older_calibration_without_the_later_fields_is_still_read():
    scores, genuine = case()
    content = calibrate(scores, genuine, target_fmr=0.01).to_json()
    later = set(content) - {"id", "threshold", "target_fmr", "achieved_fmr", "achieved_fnmr", "impostor_pairs",
                            "genuine_pairs", "fmr_interval", "fnmr_interval"}  # fmt: skip
    old = {k: v for k, v in content.items() if k not in later}
    text = json.dumps({k: v for k, v in old.items() if k != "id"}, sort_keys=True)
    old["id"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    found = Calibration.from_json(old)
    assert found.threshold == content["threshold"] and found.llr is None and found.norm is None


def test_the_normalisation_belongs_to_the_calibration():
    scores, genuine = case()
    plain = calibrate(scores, genuine, target_fmr=0.01)
    found = calibrate(scores, genuine, target_fmr=0.01, norm="as-norm")
    assert (plain.norm, found.norm) == (None, "as-norm") and plain.id != found.id
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(InvalidOption, match="norm='z' is not known"):
        calibrate(scores, genuine, target_fmr=0.01, norm="z")
    with pytest.raises(InvalidInput, match=r"identities: expected \[4400, 2\]"):
        calibrate(scores, genuine, target_fmr=0.01, identities=[1, 2])
