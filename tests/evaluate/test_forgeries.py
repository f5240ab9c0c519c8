from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import InvalidInput
from tercet.evaluate import all_pairs, by_kind, forgery_pairs, mean_eer, verification, with_forgeries


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of five writers, skilled forgeries near them, simple ones far off; writer 4 has no genuine row."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 4))
    labels = rng.integers(5, size=60)
    kinds = rng.choice(["genuine", "skilled", "simple"], size=60, p=[0.6, 0.25, 0.15])
    kinds[(labels == 4) & (kinds == "genuine")] = "skilled"
    noise = np.select([kinds == "genuine", kinds == "skilled"], [0.3, 0.7], 2.0)
    return centres[labels] + noise[:, None] * rng.normal(size=(60, 4)), labels, kinds


def test_every_forgery_meets_every_genuine_row_of_its_target_and_nobody_else():
    x, labels, kinds = data()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = forgery_pairs(x, labels, kinds)
    assert set(found) == {"simple", "skilled"}
    for kind, pairs in found.items():
        wanted = {
            (i, j): unit[i] @ unit[j]
            for i in range(60)
            for j in range(60)
            if kinds[i] == kind and kinds[j] == "genuine" and labels[i] == labels[j]
        }
        assert len(pairs) == len(wanted)
        assert not pairs.genuine.any()
        for i, j, score in zip(pairs.first, pairs.second, pairs.scores, strict=True):
            assert score == pytest.approx(wanted.pop((int(i), int(j))), abs=1e-6)
        assert not wanted


def test_above_the_limit_a_seeded_sample():
    x, labels, kinds = data()
    whole = forgery_pairs(x, labels, kinds)["skilled"]
    some = forgery_pairs(x, labels, kinds, max_pairs=10, seed=3)["skilled"]
    again = forgery_pairs(x, labels, kinds, max_pairs=10, seed=3)["skilled"]
    assert len(some) == 10
    pairs = set(zip(some.first.tolist(), some.second.tolist(), strict=True))
    assert len(pairs) == 10
    assert pairs < set(zip(whole.first.tolist(), whole.second.tolist(), strict=True))
    np.testing.assert_array_equal(some.scores, again.scores)
    assert forgery_pairs(x, labels, kinds, max_pairs=10, seed=4)["skilled"].first.tolist() != some.first.tolist()


def test_nothing_forged_gives_nothing():
    x, labels, _ = data()
    assert forgery_pairs(x, labels, np.full(60, "genuine")) == {}
    assert forgery_pairs(x, labels, np.full(60, "skilled")) == {}


def test_the_figures_are_those_of_each_kind_and_the_mean_is_over_kinds():
    x, labels, kinds = data()
    genuine = kinds == "genuine"
    rows = np.flatnonzero(genuine)
    pairs = all_pairs(x[genuine], labels[genuine])
    forged = forgery_pairs(x, labels, kinds)
    own = pairs.scores[pairs.genuine]
    eers = {"random": verification(pairs.scores, pairs.genuine).eer}
    for kind, found in forged.items():
        scores = np.concatenate([own, found.scores])
        eers[kind] = verification(scores, np.arange(len(scores)) < len(own)).eer
    assert mean_eer(pairs, forged) == pytest.approx(np.mean(list(eers.values())))
    assert mean_eer(pairs, {}) == pytest.approx(eers["random"])
    assert len({round(eer, 6) for eer in eers.values()}) == 3, "the kinds differ, so that a mix-up would show"
    figures = by_kind(pairs, forged, threshold=0.5)
    for kind, eer in eers.items():
        assert figures[kind]["eer"] == pytest.approx(eer)
        assert figures[kind]["impostor"] == (len(forged[kind]) if kind in forged else int((~pairs.genuine).sum()))
    last = figures["thresholds"][-1]
    assert (last["name"], last["threshold"], last["a_posteriori"]) == ("calibrated", 0.5, False)
    assert last["frr"] == pytest.approx((own < 0.5).mean())
    assert last["far"]["skilled"] == pytest.approx((forged["skilled"].scores >= 0.5).mean())
    first = figures["thresholds"][0]
    assert first["a_posteriori"]
    assert first["far"]["random"] <= 0.1
    assert len(rows) == int(genuine.sum())


def test_genuine_pairs_with_the_impostors_of_a_kind():
    x, labels, kinds = data()
    pairs = all_pairs(x, labels)
    forged = forgery_pairs(x, labels, kinds)["simple"]
    together = with_forgeries(pairs, forged)
    assert len(together) == int(pairs.genuine.sum()) + len(forged)
    assert int(together.genuine.sum()) == int(pairs.genuine.sum())
    assert together.scores[-1] == forged.scores[-1]
    assert (together.first[-1], together.second[-1]) == (forged.first[-1], forged.second[-1])


def test_bad_arrays_are_named():
    x, labels, kinds = data()
    for arguments, said in (
        ((x, labels[:5], kinds), "labels_N"),
        ((x, labels, kinds[:5]), "kinds_N: expected strings"),
        ((x, labels, labels), "kinds_N: expected strings"),
        ((x.astype(int), labels, kinds), "x_ND"),
    ):
        with pytest.raises(InvalidInput, match=said):
            forgery_pairs(*arguments)
    with pytest.raises(InvalidInput, match="max_pairs"):
        forgery_pairs(x, labels, kinds, max_pairs=0)
