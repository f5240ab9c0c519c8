from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import tercet.evaluate.similarity as similarity
from tercet.errors import InvalidInput
from tercet.evaluate import Retrieval, cosine, nearest, retrieval, retrieval_per_query

KS = (1, 2, 5)


def by_loops(query, own, gallery, theirs, query_ids=None, gallery_ids=None, ks=KS) -> list[dict] | None:
    """Figures of each query by the definitions; None where a query has no positive."""
    found = []
    for q in range(len(query)):
        left = [g for g in range(len(gallery)) if query_ids is None or query_ids[q] != gallery_ids[g]]
        scores = {g: cosine(query[q : q + 1], gallery[g : g + 1])[0] for g in left}
        ranked = sorted(left, key=lambda g: (-scores[g], g))
        hit = [own[q] == theirs[g] and own[q] >= 0 for g in ranked]
        r = sum(hit)
        if r == 0:
            found.append(None)
            continue
        precision = [sum(hit[: i + 1]) / (i + 1) for i in range(r)]
        found.append(
            {
                "r": r,
                "map": sum(p for p, h in zip(precision, hit[:r], strict=True) if h) / r,
                "rp": sum(hit[:r]) / r,
                **{str(k): float(any(hit[:k])) for k in ks},
            }
        )
    return found


def check(per_query, expected, ks=KS):
    kept = [e for e in expected if e is not None]
    assert per_query.positives.tolist() == [0 if e is None else e["r"] for e in expected]
    for name, values in [("map", per_query.map_at_r), ("rp", per_query.r_precision), *per_query.recall.items()]:
        np.testing.assert_allclose(values, [0.0 if e is None else e[name] for e in expected], rtol=0, atol=1e-12)
    if not kept:
        with pytest.raises(InvalidInput, match=f"none of the {len(expected)} queries has a positive"):
            per_query.summary()
        return
    means = per_query.summary()
    assert (means.queries, means.excluded) == (len(kept), len(expected) - len(kept))
    assert means.map_at_r == pytest.approx(np.mean([e["map"] for e in kept]), abs=1e-12)
    assert means.r_precision == pytest.approx(np.mean([e["rp"] for e in kept]), abs=1e-12)
    assert means.recall == pytest.approx({str(k): np.mean([e[str(k)] for e in kept]) for k in ks}, abs=1e-12)


@st.composite
def samples(draw):
    """Small whole vectors with labels from -1 to 3: ties, duplicates, zero rows, lone labels and distractors."""
    rows = draw(st.lists(st.tuples(st.integers(-1, 3), *[st.integers(-1, 2)] * 2), min_size=1, max_size=16))
    return np.array([r[1:] for r in rows], dtype=np.float64), np.array([r[0] for r in rows])


@given(samples(), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_leaving_self_out_agrees_with_loops(data, tile):
    x, labels = data
    ids = np.arange(len(x))
    check(retrieval_per_query(x, labels, ks=KS, tile=tile), by_loops(x, labels, x, labels, ids, ids))


@given(samples(), samples(), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_a_gallery_agrees_with_loops(queries, gallery, tile):
    check(retrieval_per_query(*queries, *gallery, ks=KS, tile=tile), by_loops(*queries, *gallery))


@given(samples(), samples(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_gallery_with_ids_agrees_with_loops(queries, gallery, data):
    def draw(n: int) -> list[int]:
        return data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))

    q, g = draw(len(queries[0])), draw(len(gallery[0]))
    check(
        retrieval_per_query(*queries, *gallery, query_ids=q, gallery_ids=g, ks=KS),
        by_loops(*queries, *gallery, q, g),
    )


@pytest.mark.parametrize("entries", [2**20, 600])
def test_classes_of_very_different_size_agree_with_loops(entries, monkeypatch):
    monkeypatch.setattr(similarity, "_TILE_ENTRIES", entries)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.concatenate([np.zeros(60, int), np.repeat(np.arange(1, 21), 2), np.arange(21, 26)]))
    x = rng.normal(size=(26, 6))[labels] + 1.5 * rng.normal(size=(len(labels), 6))
    ids = np.arange(len(x))
    check(retrieval_per_query(x, labels, ks=KS, tile=8), by_loops(x, labels, x, labels, ids, ids))


def test_worked_by_hand():
    # Query at angle 0; positives at ranks 1, 3 and 5 of 5, R = 3: MAP@R = (1 + 2/3) / 3, R-precision = 2/3.
    angle = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = retrieval([[1.0, 0.0]], [7], gallery, [7, 8, 7, 8, 7])
    assert found.map_at_r == pytest.approx((1 + 2 / 3) / 3, abs=1e-12)
    assert found.r_precision == pytest.approx(2 / 3, abs=1e-12)
    assert found.recall == {"1": 1.0, "5": 1.0, "10": 1.0}


def test_a_k_beyond_the_gallery_means_the_whole_gallery():
    found = retrieval_per_query(np.eye(3), [1, 2, 3], np.eye(3)[:2], [2, 1], ks=(1, 50))
    assert found.recall["50"].tolist() == [1.0, 1.0, 0.0]
    assert found.recall["1"].tolist() == [0.0, 0.0, 0.0]
    assert found.nearest.shape == (3, 50)
    assert (found.nearest[:, 2:] == -1).all()
    assert (found.scores[:, 2:] == 0).all()


def test_permuting_the_samples_permutes_the_figures():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, size=150)
    x = rng.normal(size=(12, 8))[labels] + rng.normal(size=(150, 8))
    order = rng.permutation(150)
    plain, moved = retrieval_per_query(x, labels), retrieval_per_query(x[order], labels[order], tile=32)
    np.testing.assert_array_equal(moved.map_at_r, plain.map_at_r[order])
    np.testing.assert_array_equal(order[moved.nearest], plain.nearest[order])
    assert moved.summary() == plain.summary()


def test_a_gallery_equal_to_the_queries_with_ids_is_the_same_as_none():
    rng = np.random.default_rng(2)
    labels, x = rng.integers(0, 6, size=40), rng.normal(size=(40, 3))
    names = [f"{i}.png" for i in range(40)]
    assert retrieval(x, labels, x, labels, query_ids=names, gallery_ids=names) == retrieval(x, labels)
    assert retrieval(x, labels, x, labels).recall["1"] == 1.0  # without ids every query finds itself


def test_several_rows_of_one_picture_are_left_out_together_by_its_id():
    x = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.1, 1.0]])
    found = retrieval_per_query(x, [1, 1, 2, 2], query_ids=["a", "a", "b", "c"])
    assert found.positives.tolist() == [0, 0, 1, 1]


def test_at_ties_the_lowest_row_wins():
    x = np.ones((6, 4))
    found = retrieval_per_query(x, [1, 2, 1, 2, 1, 2])
    assert found.nearest[:, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert found.recall["1"].tolist() == [0, 0, 1, 0, 1, 0]


def test_distractors_are_nobodys_positive_but_stand_in_the_way():
    x = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [1.0, 0.11]])
    found = retrieval_per_query(x, [5, -1, 5, -1])
    assert found.positives.tolist() == [1, 0, 1, 0]
    recall = {"1": 0.0, "5": 1.0, "10": 1.0}
    assert found.summary() == Retrieval(recall, recall, {"1": 0.0, "5": 0.2, "10": 0.1}, None, 0.0, 0.0, 2, 2)


def test_float32_and_scale_do_not_matter():
    rng = np.random.default_rng(3)
    labels, x = rng.integers(0, 6, size=60), rng.normal(size=(60, 5)).astype(np.float32)
    scale = rng.uniform(0.1, 9.0, size=(60, 1))
    assert retrieval(x, labels) == retrieval(x.astype(np.float64) * scale, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_labels": [1]}, r"query_labels: expected \[2\]"),
        ({"query_labels": [1.0, 2.0]}, "query_labels: expected integers"),
        ({"gallery_labels": None}, "gallery_labels: needed with a gallery"),
        ({"gallery_GD": None}, "gallery_labels: needed with a gallery"),
        ({"gallery_labels": [1, 2, 3]}, r"gallery_labels: expected \[2\]"),
        ({"gallery_GD": np.ones((2, 5))}, "gallery_GD: expected width 3"),
        ({"ks": ()}, "ks: expected numbers from 1"),
        ({"ks": (0, 5)}, "ks: expected numbers from 1"),
        ({"query_labels": [8, 9]}, "query_labels: none of the 2 queries has a positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    good = {
        "query_QD": np.ones((2, 3)),
        "query_labels": [1, 2],
        "gallery_GD": np.ones((2, 3)),
        "gallery_labels": [1, 2],
    }
    with pytest.raises(InvalidInput, match=message):
        retrieval(**(good | arguments))


def ranked(seed: int, rows: int = 60, classes: int = 12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4)), rng.integers(classes, size=rows)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_map_is_scikit_learns_average_precision(seed):
    x, labels = ranked(seed)
    found = retrieval_per_query(x, labels, full_ranking=True)
    for q in np.flatnonzero(found.included):
        others = np.arange(len(x)) != q
        score = cosine(np.repeat(x[q : q + 1], len(x), axis=0), x)
        expected = average_precision_score(labels[others] == labels[q], score[others])
        assert found.average_precision[q] == pytest.approx(expected, abs=1e-9)
    assert found.summary().map == pytest.approx(found.average_precision[found.included].mean(), abs=1e-12)


def test_map_at_ties_follows_the_order_of_rows():
    # All alike: row 0 finds rows 1, 2, 3 in this order, and its positives are rows 1 and 3.
    found = retrieval_per_query(np.ones((4, 2)), [1, 1, 2, 1], full_ranking=True)
    assert found.average_precision[0] == pytest.approx((1 / 1 + 2 / 3) / 2, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_figures_agree_with_pytorch_metric_learning(seed):
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    x, labels = ranked(seed)
    names = ("mean_average_precision_at_r", "r_precision", "precision_at_1")

    def theirs(**options):
        knn = inference.CustomKNN(distances.CosineSimilarity())
        calculator = accuracy.AccuracyCalculator(
            include=names, k="max_bin_count", knn_func=knn, device=torch.device("cpu"), **options
        )
        return calculator.get_accuracy(torch.from_numpy(x), torch.from_numpy(labels))

    found = retrieval(x, labels)
    plain = theirs()
    assert found.map_at_r == pytest.approx(plain["mean_average_precision_at_r"], abs=1e-9)
    assert found.r_precision == pytest.approx(plain["r_precision"], abs=1e-9)
    assert found.recall["1"] == pytest.approx(plain["precision_at_1"], abs=1e-9)
    assert found.precision["1"] == found.recall["1"]
    assert found.class_recall["1"] == pytest.approx(theirs(avg_of_avgs=True)["precision_at_1"], abs=1e-9)


def test_precision_counts_what_is_not_there_as_wrong():
    found = retrieval([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [3, 3, 8], ks=(1, 5))
    assert found.precision == {"1": 1.0, "5": 0.2}


def test_recall_by_class_does_not_let_large_classes_outweigh_small_ones():
    # Nine queries of one class that succeed and two of another that fail.
    angle = np.concatenate([np.linspace(0, 0.1, 9), [1.0, 1.5]])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[-1] = -x[-1]
    found = retrieval(x, [1] * 9 + [2] * 2)
    assert found.recall["1"] == pytest.approx(9 / 11) and found.class_recall["1"] == 0.5


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_rows_of_the_same_identity_and_group_are_no_results(seed):
    x, labels = ranked(seed, rows=24, classes=4)
    groups = np.random.default_rng(seed).choice(["", "a", "b"], size=24)
    found = retrieval_per_query(x, labels, query_groups=groups, ks=KS, full_ranking=True)
    same = (labels[:, None] == labels) & (groups[:, None] == groups) & (groups[:, None] != "")
    for q in range(24):
        left = np.flatnonzero(~same[q] & (np.arange(24) != q))
        alone = by_loops(x[q : q + 1], labels[q : q + 1], x[left], labels[left])
        if alone[0] is None:
            assert found.positives[q] == 0
        else:
            assert found.positives[q] == alone[0]["r"] and found.recall["2"][q] == alone[0]["2"]
            assert found.map_at_r[q] == pytest.approx(alone[0]["map"], abs=1e-12)
    apart = retrieval_per_query(
        x, labels, x, labels, query_ids=np.arange(24), gallery_ids=np.arange(24), query_groups=groups,
        gallery_groups=groups, ks=KS, full_ranking=True,
    )  # fmt: skip
    np.testing.assert_array_equal(apart.average_precision, found.average_precision)


@pytest.mark.parametrize("groups", [["a"], [1, 2]])
def test_groups_are_strings_one_a_row(groups):
    with pytest.raises(InvalidInput, match=r"query_groups: expected strings \[2\]"):
        retrieval_per_query(np.eye(2), [0, 0], query_groups=groups)
    with pytest.raises(InvalidInput, match="gallery_groups: groups are needed on both sides"):
        retrieval_per_query(np.eye(2), [0, 0], np.eye(2), [0, 0], query_groups=["a", "b"])


@pytest.mark.parametrize("kept", [2**26, 0])
def test_the_short_list_gives_what_the_slow_way_gives(kept, monkeypatch):
    # Duplicates and a zero row, so that some answers cannot be proven and take the slow way.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 8)).astype(np.float32)
    x[100:140], x[500:520], x[9] = x[7], x[500] + 1e-7, 0
    ids = rng.integers(400, size=900)
    slow = [nearest(x, k=12), nearest(x, k=12, query_ids=ids)]
    monkeypatch.setattr(similarity, "LEAST_GALLERY", 100)
    monkeypatch.setattr(similarity, "_KEPT_VALUES", kept)
    quick = [nearest(x, k=12), nearest(x, k=12, query_ids=ids)]
    for one, other in zip(quick, slow, strict=True):
        np.testing.assert_array_equal(one.index_QK, other.index_QK)
        np.testing.assert_array_equal(one.score_QK, other.score_QK)


def test_what_the_short_list_does_not_prove_is_searched_the_slow_way(monkeypatch):
    monkeypatch.setattr(similarity, "LEAST_GALLERY", 100)
    calls = []
    slow = similarity._nearest_keys
    monkeypatch.setattr(similarity, "_nearest_keys", lambda q, *a, **k: calls.append(len(q)) or slow(q, *a, **k))
    x = np.random.default_rng(1).normal(size=(400, 8))
    nearest(x, k=5)
    assert not calls
    assert (nearest(np.ones((400, 8)), k=5).index_QK[1] == [0, 2, 3, 4, 5]).all() and sum(calls) == 400
