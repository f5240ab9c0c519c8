from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from tercet.errors import InvalidInput
from tercet.evaluate import cross_validated_decisions, identity_folds, roc, thinned, verification
from tercet.evaluate.accuracy import identity_codes
from tercet.evaluate.error_curve import between, checked_scores, error_curve, least_impostors
from tercet.evaluate.pairs import Pairs

# Few distinct scores, so that ties are the rule; both kinds of pair are always there.
tied = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=0, max_size=30).map(
    lambda drawn: (
        np.array([s / 4 for s, _ in drawn] + [0.25, 0.5]),
        np.array([g for _, g in drawn] + [True, False]),
    )
)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 400))
    genuine = rng.random(n) < rng.uniform(0.05, 0.95)
    genuine[:2] = [True, False]
    scores = genuine * rng.uniform(-1, 3) + rng.normal(size=n)
    return (np.round(scores, 1) if seed % 2 else scores), genuine


def eer_by_every_mixture(scores: np.ndarray, genuine: np.ndarray) -> float:
    """The least equal error rate that any mixture of two thresholds attains."""
    fmr, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
    points = list(zip(fmr, 1 - tar, strict=True))
    best = 1.0
    for (f, m), (f2, m2) in itertools.product(points, points):
        if m >= f and f2 >= m2 and (m - f) + (f2 - m2) > 0:
            share = (m - f) / ((m - f) + (f2 - m2))
            best = min(best, f + share * (f2 - f))
    return best


def accuracy_by_loops(scores: np.ndarray, genuine: np.ndarray, folds: np.ndarray) -> np.ndarray | None:
    pair_folds = [set(np.atleast_1d(f).tolist()) for f in folds]
    accepted = []
    for p in range(len(scores)):
        others = [q for q in range(len(scores)) if not pair_folds[p] & pair_folds[q]]
        if len({bool(genuine[q]) for q in others}) < 2:
            return None
        distinct = sorted({scores[q] for q in others}, reverse=True)
        correct = [sum((scores[q] >= t) == genuine[q] for q in others) for t in [np.inf, *distinct]]
        best = int(np.argmax(correct))
        if best == 0:
            threshold = np.nextafter(distinct[0], np.inf)
        elif best == len(distinct):
            threshold = distinct[-1]
        else:
            threshold = (distinct[best - 1] + distinct[best]) / 2
        accepted.append(scores[p] >= threshold)
    return np.array(accepted)


@pytest.mark.parametrize("seed", range(20))
def test_auc_and_roc_agree_with_scikit_learn(seed):
    scores, genuine = random_case(seed)
    assert verification(scores, genuine).auc == pytest.approx(roc_auc_score(genuine, scores), abs=1e-9)
    fmr, tar, thresholds = roc_curve(genuine, scores, drop_intermediate=False)
    curve = roc(scores, genuine)
    np.testing.assert_allclose(curve.fmr, fmr, atol=1e-9)
    np.testing.assert_allclose(curve.fnmr, 1 - tar, atol=1e-9)
    np.testing.assert_array_equal(curve.thresholds[1:], thresholds[1:])


@given(tied)
@settings(max_examples=150, deadline=None)
def test_auc_agrees_with_scikit_learn_under_ties(case):
    scores, genuine = case
    assert verification(scores, genuine).auc == pytest.approx(roc_auc_score(genuine, scores), abs=1e-9)


@given(tied)
@settings(max_examples=150, deadline=None)
def test_eer_is_the_least_that_any_mixture_of_two_thresholds_attains(case):
    scores, genuine = case
    assert verification(scores, genuine).eer == pytest.approx(eer_by_every_mixture(scores, genuine), abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_eer_on_longer_random_cases(seed):
    scores, genuine = random_case(seed + 100)
    scores, genuine = scores[:120], genuine[:120]
    assert verification(scores, genuine).eer == pytest.approx(eer_by_every_mixture(scores, genuine), abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "kinds", "eer"),
    [
        ([0.9, 0.8, 0.2, 0.1], "ggii", 0.0),
        ([0.9, 0.8, 0.2, 0.1], "iigg", 0.5),  # worse than chance: the hull's chord
        # Points (FMR, FNMR): (0, 1) (0, .5) (.5, .5) (.5, 0) (1, 0); the hull goes straight from (0, .5) to (.5, 0).
        ([0.9, 0.7, 0.6, 0.1], "gigi", 0.25),
        ([0.9, 0.5, 0.5, 0.1], "ggii", 0.25),
    ],
)
def test_eer_worked_by_hand(scores, kinds, eer):
    assert verification(scores, [k == "g" for k in kinds]).eer == pytest.approx(eer, abs=1e-12)


@given(tied, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_no_figure_depends_on_the_order_of_pairs(case, random):
    scores, genuine = case
    order = list(range(len(scores)))
    random.shuffle(order)
    assert verification(scores[order], genuine[order]) == verification(scores, genuine)


@given(tied)
@settings(max_examples=60, deadline=None)
def test_doubling_every_pair_changes_no_rate(case):
    scores, genuine = case
    once, twice = verification(scores, genuine), verification(np.tile(scores, 2), np.tile(genuine, 2))
    assert (once.eer, once.auc, once.eer_threshold) == (twice.eer, twice.auc, twice.eer_threshold)
    assert (twice.genuine, twice.impostor) == (2 * once.genuine, 2 * once.impostor)


@given(tied)
@settings(max_examples=60, deadline=None)
def test_a_monotone_change_of_the_scores_changes_no_rate(case):
    scores, genuine = case
    once, other = verification(scores, genuine), verification(np.exp(3 * scores) - 7, genuine)
    assert (once.eer, once.auc, once.tar_at_fmr) == (other.eer, other.auc, other.tar_at_fmr)


def test_the_eer_threshold_is_where_both_rates_are_nearest():
    scores, genuine = random_case(7)
    found = verification(scores, genuine)
    gap = abs((scores[~genuine] >= found.eer_threshold).mean() - (scores[genuine] < found.eer_threshold).mean())
    gaps = [abs((scores[~genuine] >= t).mean() - (scores[genuine] < t).mean()) for t in scores]
    assert gap <= min(gaps) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_tar_is_the_best_that_any_threshold_within_the_target_gives(seed):
    rng = np.random.default_rng(seed)
    genuine = np.arange(4000) < 500
    scores = np.round(genuine * 1.5 + rng.normal(size=4000), 2)
    found = verification(scores, genuine).tar_at_fmr
    for name in ("0.1", "0.01"):
        within = [t for t in [*np.unique(scores), 99.0] if (scores[~genuine] >= t).mean() <= float(name)]
        assert found[name] == pytest.approx(max((scores[genuine] >= t).mean() for t in within), abs=1e-12)


def test_scores_may_be_float32_integers_and_kinds_may_be_0_and_1():
    found = verification(np.array([3, 2, 2, 1]), np.array([1, 1, 0, 0]))
    assert found == verification(np.array([3, 2, 2, 1], dtype=np.float32), np.array([True, True, False, False]))


@pytest.mark.parametrize(
    ("scores", "genuine", "message"),
    [
        ([0.1, np.nan], [True, False], "scores: holds NaN"),
        ([0.1, np.inf], [True, False], "scores: holds NaN or infinity"),
        ([[0.1, 0.2]], [True, False], "scores: expected numbers"),
        (["a", "b"], [True, False], "scores: expected numbers"),
        ([0.1, 0.2], [True], "genuine: expected"),
        ([0.1, 0.2], [1.0, 0.0], "genuine: expected booleans"),
        ([0.1, 0.2], [2, 0], "genuine: expected booleans"),
        ([0.1, 0.2], [True, True], "genuine: needs pairs of both kinds, got 2 genuine and 0 impostor"),
        ([0.1, 0.2], [False, False], "genuine: needs pairs of both kinds, got 0 genuine and 2 impostor"),
        ([], [], "genuine: needs pairs of both kinds"),
    ],
)
def test_bad_input_is_named(scores, genuine, message):
    for function in (verification, roc):
        with pytest.raises(InvalidInput, match=message):
            function(scores, genuine)


def folds_of(pairs: int) -> st.SearchStrategy[list]:
    one = st.integers(-2, 3)
    return st.one_of(
        st.lists(one, min_size=pairs, max_size=pairs),
        st.lists(st.tuples(one, one), min_size=pairs, max_size=pairs),
    )


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_decisions_agree_with_loops_over_pairs_that_share_no_fold(data):
    scores, genuine = data.draw(tied)
    folds = np.array(data.draw(folds_of(len(scores))))
    expected = accuracy_by_loops(scores, genuine, folds)
    found = cross_validated_decisions(scores, genuine, folds)
    if expected is None:
        assert found is None
        assert verification(scores, genuine, folds=folds).accuracy is None
    else:
        assert found is not None
        assert found.tolist() == expected.tolist()
        assert verification(scores, genuine, folds=folds).accuracy == (expected == genuine).mean()


def test_the_threshold_lies_half_way_so_that_a_near_pair_is_judged_right():
    scores = np.array([0.8, 0.3, 0.78, 0.32])
    genuine = np.array([True, False, True, False])
    assert verification(scores, genuine, folds=[0, 0, 1, 1]).accuracy == 1.0


def test_without_folds_the_accuracy_is_near_the_best_possible_and_chance_stays_chance():
    rng = np.random.default_rng(3)
    genuine = np.arange(4000) % 2 == 0
    good = verification(genuine * 2.0 + rng.normal(size=4000), genuine).accuracy
    chance = verification(rng.normal(size=4000), genuine).accuracy
    assert good == pytest.approx(0.8413, abs=0.02)  # Phi(1)
    assert chance == pytest.approx(0.5, abs=0.03)


def test_too_few_pairs_for_folds_give_no_accuracy():
    assert verification([0.9, 0.1], [True, False]).accuracy is None


@pytest.mark.parametrize("folds", [[0, 1, 2], [[0, 1, 2]] * 2, [0.0, 1.0], [[0], [1]]])
def test_folds_of_a_wrong_shape_or_dtype_are_refused(folds):
    with pytest.raises(InvalidInput, match="folds: expected integers"):
        verification([0.9, 0.1], [True, False], folds=np.array(folds))


def test_identity_folds_deal_out_identities_evenly_and_follow_the_seed():
    labels = np.repeat(np.arange(40), 3)
    first, second = np.triu_indices(120, k=1)
    pairs = Pairs(np.zeros(len(first)), labels[first] == labels[second], first, second)
    folds = identity_folds(pairs, labels, count=10, seed=5)
    of = {}
    for rows, column in ((first, 0), (second, 1)):
        for label, fold in zip(labels[rows], folds[:, column], strict=True):
            assert of.setdefault(label, fold) == fold
    assert np.bincount(list(of.values())).tolist() == [4] * 10
    assert (folds == identity_folds(pairs, labels, count=10, seed=5)).all()
    assert (folds != identity_folds(pairs, labels, count=10, seed=6)).any()
    assert (folds[pairs.genuine, 0] == folds[pairs.genuine, 1]).all()


def test_identity_folds_of_few_identities_and_of_nonsense():
    pairs = Pairs(np.zeros(1), np.array([True]), np.array([0]), np.array([1]))
    assert identity_folds(pairs, [4, 4, 9], count=10).max() <= 1
    with pytest.raises(InvalidInput, match="count"):
        identity_folds(pairs, [4, 4], count=1)


def test_rows_with_a_negative_label_are_identities_of_their_own():
    assert identity_codes(np.array([7, -1, 3, -1, 7, -5])).tolist() == [1, 2, 0, 3, 1, 4]


def test_least_impostors_is_exact():
    assert [least_impostors(f) for f in (0.1, 0.01, 0.001, 0.3, 0.07, 1e-6)] == [300, 3000, 30000, 100, 429, 30_000_000]


def test_between_neighbouring_floats_accepts_the_upper_one_only():
    lower = 0.1
    upper = np.nextafter(lower, 1.0)
    assert lower < between(upper, lower) <= upper
    assert between(1.0, 0.0) == 0.5


@given(tied, st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_last_within_is_the_largest_fmr_not_above(case, fmr):
    curve = error_curve(*checked_scores(*case))
    rates = curve.false_matches / curve.impostor
    point = curve.last_within(fmr)
    assert rates[point] <= fmr
    assert point == len(rates) - 1 or rates[point + 1] > fmr


@given(st.integers(0, 2**31), st.integers(2, 250))
def test_a_thinned_curve_has_points_of_the_whole_one_and_both_ends(seed: int, points: int):
    scores, genuine = random_case(seed)
    whole = roc(scores, genuine)
    thin = thinned(whole, points)
    assert len(thin.fmr) <= points or len(thin.fmr) == len(whole.fmr)
    triples = set(zip(whole.thresholds, whole.fmr, whole.fnmr, strict=True))
    assert set(zip(thin.thresholds, thin.fmr, thin.fnmr, strict=True)) <= triples
    assert (thin.fmr[0], thin.fnmr[0], thin.fmr[-1], thin.fnmr[-1]) == (0, 1, 1, 0)
    assert (np.diff(thin.thresholds) < 0).all()


def test_a_thinned_curve_stays_near_the_whole_one_at_small_rates():
    rng = np.random.default_rng(0)
    genuine = np.arange(200_000) % 2 == 0
    whole = roc(rng.normal(size=200_000) + 3.0 * genuine, genuine)
    thin = thinned(whole)
    assert len(thin.fmr) <= 200
    for rate in (1e-4, 1e-3, 1e-2, 0.1, 0.5):
        exact = np.interp(rate, whole.fmr, whole.fnmr)
        assert np.interp(rate, thin.fmr, thin.fnmr) == pytest.approx(exact, rel=0.05, abs=1e-4)
    with pytest.raises(InvalidInput, match="points"):
        thinned(whole, 1)
