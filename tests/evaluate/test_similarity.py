from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet.evaluate.similarity as similarity
from tercet.errors import InvalidInput
from tercet.evaluate import all_pairs, cosine, nearest


def nearest_by_loops(query, gallery, k, query_ids=None, gallery_ids=None):
    rows = []
    for q in range(len(query)):
        left = [g for g in range(len(gallery)) if query_ids is None or query_ids[q] != gallery_ids[g]]
        scores = {g: float(cosine(query[q : q + 1], gallery[g : g + 1])[0]) for g in left}
        best = sorted(left, key=lambda g: (-scores[g], g))[:k]
        rows.append(([*best, *[-1] * (k - len(best))], [*(scores[g] for g in best), *[0.0] * (k - len(best))]))
    return rows


# Small whole vectors: zero rows, duplicates, multiples and ties are the rule.
vectors = (
    st.integers(1, 14)
    .flatmap(lambda n: st.lists(st.tuples(*[st.integers(-1, 2)] * 3), min_size=n, max_size=n))
    .map(lambda rows: np.array(rows, dtype=np.float64))
)


@given(vectors, vectors, st.integers(1, 20), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_nearest_agrees_with_loops_under_ties_in_every_tiling(query, gallery, k, tile):
    found = nearest(query, gallery, k, tile=tile)
    for row, (index, score) in enumerate(nearest_by_loops(query, gallery, k)):
        assert found.index_QK[row].tolist() == index
        assert found.score_QK[row].tolist() == score


@given(vectors, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_nearest_without_a_gallery_leaves_each_row_out_of_its_own_results(x, k):
    found = nearest(x, k=k)
    ids = range(len(x))
    assert found.index_QK.tolist() == [index for index, _ in nearest_by_loops(x, x, k, ids, ids)]


@given(vectors, vectors, st.data())
@settings(max_examples=60, deadline=None)
def test_nearest_leaves_out_every_gallery_row_of_the_same_id(query, gallery, data):
    names = st.sampled_from(["a.png", "b.png", "c.png"])
    q = data.draw(st.lists(names, min_size=len(query), max_size=len(query)))
    g = data.draw(st.lists(names, min_size=len(gallery), max_size=len(gallery)))
    found = nearest(query, gallery, 4, query_ids=q, gallery_ids=g, tile=3)
    assert found.index_QK.tolist() == [index for index, _ in nearest_by_loops(query, gallery, 4, q, g)]


def test_small_chunks_of_queries_give_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(203, 9))
    whole = nearest(x, k=7)
    monkeypatch.setattr(similarity, "_TILE_ENTRIES", 100)
    parts = nearest(x, k=7, tile=16)
    np.testing.assert_array_equal(parts.index_QK, whole.index_QK)
    np.testing.assert_array_equal(parts.score_QK, whole.score_QK)


@pytest.mark.parametrize("k", [5, 1000])
def test_no_tile_holds_more_than_its_share_of_similarities(k, monkeypatch):
    monkeypatch.setattr(similarity, "LEAST_GALLERY", 10**9)  # the slow way
    sizes = []
    steps = similarity.grid_steps

    def watched(a_BD, b_TD):
        sizes.append(len(a_BD) * len(b_TD))
        return steps(a_BD, b_TD)

    monkeypatch.setattr(similarity, "grid_steps", watched)
    x = np.random.default_rng(0).normal(size=(3000, 2))
    nearest(x, k=k)
    assert sum(sizes) == 3000 * 3000
    assert max(sizes) <= 2**20


def test_equal_rows_have_equal_scores_wherever_they_stand():
    # A plain float32 or float64 product gives identical rows different last bits at the edges of its blocks.
    rng = np.random.default_rng(1)
    one = rng.normal(size=(1, 96)).astype(np.float32)
    gallery = rng.normal(size=(1037, 96)).astype(np.float32)
    copies = np.array([3, 500, 1023, 1024, 1030, 1036])
    gallery[copies] = gallery[3] = one + 0.01 * gallery[3]
    found = nearest(np.repeat(one, 9, axis=0), gallery, k=6)
    assert (found.index_QK == copies).all()
    assert len(np.unique(found.score_QK)) == 1


def test_the_three_ways_to_a_score_agree():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(90, 33)).astype(np.float32)
    every, sampled = all_pairs(x, np.zeros(90, int)), all_pairs(x, np.zeros(90, int), max_pairs=1000)
    np.testing.assert_array_equal(every.scores, cosine(x[every.first], x[every.second]))
    np.testing.assert_array_equal(sampled.scores, cosine(x[sampled.first], x[sampled.second]))
    found = nearest(x, k=89)
    np.testing.assert_array_equal(found.score_QK.ravel(), cosine(np.repeat(x, 89, axis=0), x[found.index_QK.ravel()]))


def test_cosine_is_the_cosine_to_float32_accuracy_and_within_one():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(500, 17)), rng.normal(size=(500, 17))
    exact = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine(a, b), exact, atol=2.0**-24)
    assert (cosine(a, a) == 1).all()
    assert (cosine(a, -a) == -1).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_the_scale_of_a_row_does_not_matter(scale):
    assert cosine([[3 * scale, 4 * scale]], [[1.0, 0.0]])[0] == pytest.approx(0.6, abs=1e-7)


def test_a_zero_row_has_similarity_0_with_everything():
    assert cosine([[0.0, 0.0]] * 2, [[0.0, 0.0], [1.0, 2.0]]).tolist() == [0.0, 0.0]


def test_an_empty_query_or_gallery():
    assert nearest(np.zeros((0, 3)), np.ones((4, 3)), 2).index_QK.shape == (0, 2)
    assert nearest(np.ones((2, 3)), np.zeros((0, 3)), 2).index_QK.tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_QD": np.ones(3)}, "query_QD: expected"),
        ({"query_QD": np.ones((2, 3), int)}, "query_QD: expected floating"),
        ({"query_QD": np.full((2, 3), np.nan)}, "query_QD: holds NaN"),
        ({"gallery_GD": np.ones((2, 4))}, "gallery_GD: expected width 3 as the queries, got 4"),
        ({"k": 0}, "k: expected"),
        ({"tile": 0}, "tile: expected"),
        ({"query_ids": [1, 2]}, "gallery_ids: ids are needed on both sides"),
        ({"gallery_ids": [1, 2]}, "query_ids: ids are needed on both sides"),
        ({"gallery_GD": None, "gallery_ids": [1, 2]}, "gallery_ids: given without a gallery"),
        ({"query_ids": [1], "gallery_ids": [1, 2]}, r"query_ids: expected \[2\]"),
        ({"query_ids": [1, 2], "gallery_ids": ["1", "2"]}, "gallery_ids: expected the same kind"),
        ({"query_ids": [1.5, 2], "gallery_ids": [1, 2]}, "query_ids: expected integers or strings"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    good = {"query_QD": np.ones((2, 3)), "gallery_GD": np.ones((2, 3))}
    with pytest.raises(InvalidInput, match=message):
        nearest(**(good | arguments))


def test_cosine_refuses_rows_that_do_not_match():
    with pytest.raises(InvalidInput, match="b_ND: expected shape"):
        cosine(np.ones((2, 3)), np.ones((3, 3)))
