"""One test for each known way of getting a verification or retrieval figure wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from tercet.errors import InvalidInput
from tercet.evaluate import (
    Pairs,
    all_pairs,
    bootstrap_verification,
    calibrate,
    retrieval,
    retrieval_per_query,
    roc,
    verification,
)


@pytest.mark.parametrize("kinds", [[True, True, False, False, False], [False, False, False, True, True]])
def test_a_collapsed_model_scores_half_in_whatever_order_the_pairs_come(kinds):
    found = verification([0.25] * 5, kinds)
    assert (found.eer, found.auc) == (0.5, 0.5)


@pytest.mark.parametrize("value", [0.25, 0.0, -1.0, 1.0, 1e20])
def test_no_threshold_is_infinite_even_where_all_scores_are_equal(value):
    scores, genuine = np.full(1000, value), np.arange(1000) % 3 == 0
    found = verification(scores, genuine)
    json.dumps(asdict(found), allow_nan=False)
    assert np.isfinite(found.eer_threshold)
    assert np.isfinite(roc(scores, genuine).thresholds).all()


def test_the_first_roc_point_rejects_everything_by_a_threshold_above_every_score():
    curve = roc([0.5, 1.0, 1.0], [True, True, False])
    assert curve.thresholds[0] > 1.0
    assert (curve.fmr[0], curve.fnmr[0]) == (0.0, 1.0)


def test_map_at_r_is_normalised_by_the_positives_and_not_by_the_hits():
    # Ten positives of which one comes first and none other among the first ten.
    query = np.array([[1.0, 0.0]])
    angle = np.concatenate([[0.0], np.linspace(0.1, 0.2, 20), np.linspace(1.0, 1.2, 9)])
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = np.array([1] + [2] * 20 + [1] * 9)
    assert retrieval(query, [1], gallery, labels).map_at_r == pytest.approx(0.1, abs=1e-12)


def test_tar_is_none_where_too_few_impostor_pairs_can_show_the_fmr():
    def found(impostors: int) -> dict[str, float | None]:
        return verification(np.arange(impostors + 1.0), np.arange(impostors + 1) == impostors).tar_at_fmr

    assert found(299) == {"0.1": None, "0.01": None, "0.001": None}
    assert found(300) == {"0.1": 1.0, "0.01": None, "0.001": None}
    assert found(2999)["0.01"] is None
    assert found(3000) == {"0.1": 1.0, "0.01": 1.0, "0.001": None}
    assert found(29_999)["0.001"] is None
    assert found(30_000) == {"0.1": 1.0, "0.01": 1.0, "0.001": 1.0}


def test_tar_is_read_at_or_below_the_target_and_not_at_the_nearest_fmr():
    # Of 300 impostors 29 lie above 0.9 (FMR 0.0967) and 2 more at 0.8 (FMR 0.1033, which is nearer to 0.1).
    impostor = np.concatenate([np.full(29, 0.95), np.full(2, 0.8), np.full(269, 0.1)])
    genuine = np.array([0.9, 0.85, 0.8, 0.8])
    scores = np.concatenate([impostor, genuine])
    assert verification(scores, np.arange(304) >= 300).tar_at_fmr["0.1"] == 0.5


def test_tar_at_the_target_itself_counts_as_within():
    scores = np.concatenate([np.full(30, 0.8), np.full(270, 0.1), [0.8, 0.5]])
    assert verification(scores, np.arange(302) >= 300).tar_at_fmr["0.1"] == 1.0


def test_tar_where_every_accepting_threshold_exceeds_the_target_is_that_of_rejecting_all():
    scores = np.concatenate([np.full(40, 0.9), np.full(260, 0.1), [0.9, 0.8]])
    assert verification(scores, np.arange(302) >= 300).tar_at_fmr["0.1"] == 0.0


def test_accuracy_does_not_hide_the_tail():
    # A hundredth of the impostors score above every genuine pair: the accuracy is fine and the TAR at FMR 0.001 is 0.
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0.6, 0.8, 30_000), rng.uniform(0.9, 1.0, 300), rng.uniform(0, 0.4, 29_700)])
    found = verification(scores, np.arange(60_000) < 30_000)
    assert found.accuracy is not None
    assert found.accuracy > 0.99
    assert found.tar_at_fmr["0.001"] == 0.0


def test_accuracy_uses_the_folds_given_and_not_blocks_of_the_list():
    rng = np.random.default_rng(1)
    genuine = rng.random(600) < 0.5
    scores, folds = genuine + rng.normal(size=600), np.repeat(np.arange(10), 60)
    whole = verification(scores, genuine, folds=folds).accuracy
    for order in (np.arange(600)[::-1], rng.permutation(600)):
        assert verification(scores[order], genuine[order], folds=folds[order]).accuracy == whole
    assert verification(scores, genuine, folds=rng.permutation(folds)).accuracy != whole


def test_accuracy_never_chooses_its_threshold_on_the_scored_pairs():
    # Each fold is separable by a threshold of its own, and the other fold's threshold is wrong for half of it.
    scores = np.array([0.9, 0.8, 0.3, 0.2])
    genuine = np.array([True, False, True, False])
    assert verification(scores, genuine, folds=np.array([0, 0, 1, 1])).accuracy == 0.5


def test_an_interval_over_identities_is_wider_than_the_same_pairs_as_independent_ones():
    # Five writers, of which one is hard: few draws behind many pairs.
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 24)
    spread = np.where(labels == 0, 3.0, 0.4)[:, None]
    x = rng.normal(size=(5, 8))[labels] + spread * rng.normal(size=(120, 8))
    pairs = all_pairs(x, labels)
    low, high = bootstrap_verification(pairs, labels)["eer"]
    own = np.arange(2 * len(pairs))  # every pair its own two identities, as if pairs were drawn one by one
    alone = Pairs(pairs.scores, pairs.genuine, own[::2], own[1::2])
    alone_labels = np.repeat(np.arange(len(pairs)), 2)
    alone_low, alone_high = bootstrap_verification(alone, alone_labels)["eer"]
    assert high - low > 3 * (alone_high - alone_low)


def test_the_query_is_left_out_by_its_id_and_not_by_rank():
    # Rows 0 and 1 are one picture under two identities: "skip rank 1" would drop row 0 as row 1's self and keep row 1.
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = retrieval_per_query(x, [1, 2, 1, 2])
    assert found.nearest[:, 0].tolist() == [1, 0, 3, 2]
    assert all(row not in found.nearest[row] for row in range(4))


def test_queries_without_a_positive_are_excluded_and_counted():
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = retrieval(x, [1, 1, 2])
    assert (found.recall["1"], found.map_at_r, found.queries, found.excluded) == (1.0, 1.0, 2, 1)


def test_map_at_r_looks_at_r_results_where_r_exceeds_every_k():
    # Seven positives, the first five of them first: a search that stops at k = 5 would divide by 5 or find 5 of 7.
    angle = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = retrieval([[1.0, 0.0]], [1], gallery, [1, 1, 1, 1, 1, 2, 1, 1], ks=(1, 5))
    assert found.r_precision == pytest.approx(6 / 7, abs=1e-12)
    assert found.map_at_r == pytest.approx((5 + 6 / 7) / 7, abs=1e-12)


def test_calibration_refuses_a_target_that_its_impostor_pairs_cannot_show():
    scores, genuine = np.linspace(0, 1, 2700 + 300), np.arange(3000) >= 2700
    with pytest.raises(InvalidInput, match=r"0\.001 needs at least 30000 impostor pairs .* got 2700"):
        calibrate(scores, genuine, target_fmr=0.001)
