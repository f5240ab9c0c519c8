"""What is hard, against the definition in plain loops; and that the hardest, among them wrong labels, are left out."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.data import PKSampler
from tercet.data.partners import PartnerSampler
from tercet.train.hardness import NEIGHBOURS, Hardness, judge, nearest_foreign


def vectors(identities: int, each: int, *, seed: int = 0, noise: float = 0.7, width: int = 8):
    """Identities whose centres lie on a line, so that neighbours in number are neighbours in space."""
    random = np.random.default_rng(seed)
    angle = np.linspace(0, np.pi / 2, identities)
    centres = np.zeros((identities, width))
    centres[:, 0], centres[:, 1] = np.cos(angle), np.sin(angle)
    labels = random.permutation(np.repeat(np.arange(identities), each))
    x = centres[labels] + noise / np.sqrt(width) * random.normal(size=(len(labels), width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def searched(x, labels):
    return nearest_foreign(x, labels, slice(0, len(x)))


def test_hardness_is_its_formula():
    x, labels = vectors(12, 5)
    x, labels = np.concatenate([x, x[:1] * 0.5 + x[1:2] * 0.5]), np.append(labels, 12)  # one that is alone
    x[-1] /= np.linalg.norm(x[-1])
    index, score = searched(x, labels)
    assert index.shape == score.shape == (61, NEIGHBOURS)
    s = x.astype(np.float64) @ x.T.astype(np.float64)
    own = []
    for n in range(60):
        others = [m for m in range(61) if labels[m] == labels[n] and m != n]
        own.append(np.mean([s[n, m] for m in others]))
        foreign = sorted((m for m in range(61) if labels[m] != labels[n]), key=lambda m: -s[n, m])
        assert index[n].tolist() == foreign[:NEIGHBOURS]
    own.append(np.mean(own))
    expected = [max(s[n, m] for m in range(61) if labels[m] != labels[n]) - own[n] for n in range(61)]
    np.testing.assert_allclose(judge(x, labels, index, score, skip=0).hard_N, expected, atol=1e-6)


def test_the_identities_nearest_to_one_are_those_that_its_samples_name_most():
    x, labels = vectors(12, 30, seed=1, noise=0.15)
    index, score = searched(x, labels)
    near = judge(x, labels, index, score, skip=0).near_IM
    for one in range(12):
        named = [labels[m] for n in np.flatnonzero(labels == one) for m in index[n]]
        best = {other: max(score[n, k] for n in np.flatnonzero(labels == one) for k in range(NEIGHBOURS)
                           if labels[index[n, k]] == other) for other in named}  # fmt: skip
        ranked = sorted(best, key=lambda other: (-named.count(other), -best[other]))[:9]
        assert [other for other in near[one].tolist() if other >= 0] == ranked
        assert abs(near[one, 0] - one) == 1, "on the line the next one is the nearest"


def test_a_share_of_the_hardest_is_left_out_of_choice_and_vote_and_wrong_labels_are_among_them():
    x, labels = vectors(10, 20, noise=0.1)
    true = labels.copy()
    wrong = np.flatnonzero(true == 0)[:4]
    labels[wrong] = 9  # the other end of the line
    found = judge(x, labels, *searched(x, labels), skip=0.05)
    left_out = np.flatnonzero(np.isneginf(found.hard_N))
    assert len(left_out) == 10 and set(wrong) <= set(left_out)
    assert 0 not in found.near_IM[9], "what was left out has named nobody"
    everything = judge(x, labels, *searched(x, labels), skip=0.0)
    assert 0 in everything.near_IM[9] and np.isfinite(everything.hard_N).all()
    random = np.random.default_rng(0)
    rows = np.flatnonzero(labels == 9)
    drawn = {row for _ in range(50) for row in found.samples(rows, 3, random).tolist()}
    hardest = [row for row in sorted(rows, key=lambda row: -found.hard_N[row]) if row not in set(left_out)]
    assert drawn == set(hardest[: len(hardest) // 2])


def test_batches_are_of_identities_near_to_each_other_with_their_hard_samples():
    x, labels = vectors(24, 8)
    found = judge(x, labels, *searched(x, labels), skip=0.0)
    near = [set(found.near_IM[one].tolist()) for one in range(24)]
    assert all(len(others) == 9 and -1 not in others for others in near), "the case that this test is about"
    partners = PartnerSampler(PKSampler(labels, identities_per_batch=8, samples_per_identity=4, seed=0), leads=2)
    hard = {n for one in range(24) for n in sorted(np.flatnonzero(labels == one), key=lambda n: -found.hard_N[n])[:4]}
    for step in range(24):
        rows = partners.batch(step, found)
        one, two, *company = labels[rows[::4]].tolist()
        assert len({one, two, *company}) == 8
        assert set(company[:3]) <= near[one] and set(company[3:]) <= near[two]
        assert set(rows[8:].tolist()) <= hard


def test_where_an_identity_has_nothing_left_any_of_its_samples_will_do():
    found = Hardness(np.array([[1], [0]]), np.array([-np.inf, -np.inf, 0.5, 0.1], np.float32))
    random = np.random.default_rng(0)
    assert found.samples(np.array([0, 1]), 2, random) is None
    assert sorted(found.samples(np.array([2, 3]), 2, random)) == [2, 3]
    partners = PartnerSampler(
        PKSampler(np.array([0, 0, 1, 1]), identities_per_batch=2, samples_per_identity=2, seed=0), leads=1
    )
    assert {tuple(sorted(partners.batch(step, found))) for step in range(6)} == {(0, 1, 2, 3)}


@pytest.mark.parametrize("rows", [[[1, -1]], [[-1, -1]]])
def test_empty_places_are_nobody(rows):
    found = Hardness(np.array(rows), np.zeros(1, np.float32))
    assert list(found.partners(0, np.random.default_rng(0))) == [n for n in rows[0] if n >= 0]


def test_two_identities_alone_are_each_others_nearest():
    x, labels = vectors(2, 3)
    found = judge(x, labels, *searched(x, labels), skip=0.9)
    assert found.near_IM[:, 0].tolist() in ([1, -1], [-1, 0], [1, 0]) and np.isfinite(found.hard_N).sum() == 1
