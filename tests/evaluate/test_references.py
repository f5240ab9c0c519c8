from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate import FUSIONS, ReferenceProtocol, against_references
from tercet.evaluate import references as module


def writers(
    count: int = 8, genuine: int = 12, forged: int = 5, *, spread: float = 0.3, skill: float = 0.7, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors around a centre for each writer; forgeries lie `skill` of the way from another centre to the target's."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 6))
    x, labels, kinds = [], [], []
    for writer in range(count):
        x += [centres[writer] + spread * rng.normal(size=6) for _ in range(genuine)]
        kinds += ["genuine"] * genuine
        for _ in range(forged):
            forger = rng.normal(size=6)
            x.append(skill * centres[writer] + (1 - skill) * forger + spread * rng.normal(size=6))
        kinds += ["skilled"] * forged
        labels += [writer] * (genuine + forged)
    order = rng.permutation(len(x))
    return np.array(x)[order], np.array(labels)[order], np.array(kinds)[order]


def test_more_references_help_and_skilled_forgeries_are_harder_than_random_impostors():
    found = against_references(*writers(), ReferenceProtocol(draws=4))
    assert found["threshold_on"] == "skilled"
    assert (found["fusion"], found["decision"], found["draws"]) == ("max", "similarity", 4)
    one, ten = found["by_count"]["1"], found["by_count"]["10"]
    assert one["identities"] == ten["identities"] == 8
    assert one["questioned"] == {"genuine": 8 * 11, "random": 8 * 84, "skilled": 40}
    assert ten["questioned"]["genuine"] == 8 * 2
    assert ten["eer"]["skilled"]["mean"] < one["eer"]["skilled"]["mean"]
    assert one["eer"]["skilled"]["mean"] > one["eer"]["random"]["mean"] + 0.02
    assert one["eer"]["skilled"]["sd"] > 0
    # A threshold for each writer, found on the scores themselves, cannot be worse than one for all.
    assert one["eer_user"]["skilled"]["mean"] <= one["eer"]["skilled"]["mean"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_scores_are_those_of_plain_loops(fusion):
    x, labels, kinds = writers(4, 5, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    seen = []

    def watch(questioned, threshold_on, rng):
        seen.append(questioned)
        return module_figures(questioned, threshold_on, rng)

    module_figures = module._figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_figures", watch)
        against_references(x, labels, kinds, ReferenceProtocol(counts=(3,), draws=1, fusion=fusion, seed=4))
    rng = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(0,)))
    genuine = np.flatnonzero(kinds == "genuine")
    of = {writer: rng.permutation(genuine[labels[genuine] == writer]) for writer in range(4)}
    for writer, one in enumerate(seen[0]):
        references = of[writer][:3]
        fuse = {"mean": np.mean, "max": np.max, "min": np.min, "median": np.median}[fusion]
        for kind, rows in (
            ("genuine", of[writer][3:]),
            ("skilled", np.flatnonzero((labels == writer) & (kinds == "skilled"))),
        ):
            wanted = [fuse([unit[row] @ unit[reference] for reference in references]) for row in rows]
            np.testing.assert_allclose(one.by_kind[kind], wanted, atol=1e-12)
        assert len(one.by_kind["random"]) == 15


def test_nothing_depends_on_whether_the_similarities_are_kept(monkeypatch):
    data = writers()
    protocol = ReferenceProtocol(counts=(2,), draws=2)
    kept = against_references(*data, protocol)
    monkeypatch.setattr(module, "_MOST_LOOKED_UP", 10)
    other = against_references(*data, protocol)
    for name in ("eer", "eer_user", "far"):
        for kind in ("random", "skilled"):
            assert other["by_count"]["2"][name][kind]["mean"] == pytest.approx(
                kept["by_count"]["2"][name][kind]["mean"]
            )


def test_the_same_seed_gives_the_same_figures_and_another_one_others():
    data = writers()
    first, again, other = (
        against_references(*data, ReferenceProtocol(counts=(1,), draws=2, seed=s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_frr_and_far_are_judged_by_a_threshold_from_other_writers():
    """One writer whose scores are far lower than all others': a threshold of their own would accept them."""
    x, labels, kinds = writers(6, 8, 4, spread=0.05, skill=0.3)
    lonely = (labels == 0) & (kinds == "genuine")
    x[lonely] = np.random.default_rng(5).normal(size=(int(lonely.sum()), 6))
    found = against_references(x, labels, kinds, ReferenceProtocol(counts=(1,), draws=5))["by_count"]["1"]
    assert found["frr"]["mean"] > 0.1, "the lonely writer is one of six and is rejected"


def test_without_forgeries_the_threshold_is_on_random_impostors():
    x, labels, kinds = writers(forged=0)
    found = against_references(x, labels, kinds, ReferenceProtocol(counts=(3,), draws=2))
    assert found["threshold_on"] == "random"
    assert set(found["by_count"]["3"]["eer"]) == {"random"}


def test_writers_with_too_few_samples_have_no_part_and_a_number_without_writers_is_none():
    x, labels, kinds = writers(5, 4, 2)
    found = against_references(x, labels, kinds, ReferenceProtocol(counts=(3, 4), draws=1))
    assert found["by_count"]["3"]["identities"] == 5
    assert found["by_count"]["4"] is None


def test_a_machine_for_each_writer_tells_forgeries_of_others():
    data = writers(spread=0.4, skill=0.5)
    machine = against_references(*data, ReferenceProtocol(counts=(5,), draws=2, decision="svm"))
    assert (machine["decision"], machine["fusion"]) == ("svm", None)
    found = machine["by_count"]["5"]
    plain = against_references(*data, ReferenceProtocol(counts=(5,), draws=2, fusion="mean"))["by_count"]["5"]
    assert found["eer"]["random"]["mean"] < 0.1
    assert found["eer"]["random"]["mean"] != plain["eer"]["random"]["mean"]
    # 7 writers with 12 genuine rows each, 5 of which the machine has seen.
    assert found["questioned"]["random"] == 8 * 7 * 7


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"counts": ()}, InvalidInput, "references: expected whole numbers"),
        ({"counts": (0,)}, InvalidInput, "references: expected whole numbers"),
        ({"draws": 0}, InvalidInput, "draws: expected at least 1"),
        ({"random_impostors": 0}, InvalidInput, "random_impostors: expected at least 1"),
        ({"fusion": "sum"}, InvalidOption, "fusion='sum' is not known"),
        ({"decision": "forest"}, InvalidOption, "decision='forest' is not known"),
    ],
)
def test_bad_options_are_named(options, error, said):
    with pytest.raises(error, match=said):
        ReferenceProtocol(**options)


def test_bad_arrays_are_named():
    x, labels, kinds = writers(3, 3, 1)
    with pytest.raises(InvalidInput, match="kinds_N: expected strings"):
        against_references(x, labels, np.zeros(len(x)), ReferenceProtocol())
    with pytest.raises(InvalidInput, match="labels_N"):
        against_references(x, labels[:-1], kinds, ReferenceProtocol())
