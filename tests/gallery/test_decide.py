from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enrolled import D, people, unit_rows
from tercet.errors import GalleryError, InvalidInput
from tercet.evaluate import Calibration, calibrate
from tercet.gallery import (
    Gallery,
    Template,
    identify,
    identify_nothing,
    open_gallery,
    runner_up_margin,
    verify_claim,
)
from tercet.gallery.decide import expected_fpir


def threshold_at(threshold: float) -> Calibration:
    scores = np.concatenate([np.full(4000, threshold + 0.01), np.full(4000, threshold - 0.01)])
    return calibrate(scores, scores > threshold, target_fmr=0.01)


def near(vector_D: np.ndarray, score: float) -> np.ndarray:
    """A unit vector with this cosine similarity to another."""
    other_D = unit_rows(1, seed=99)[0]
    other_D = other_D - (other_D @ vector_D) * vector_D
    other_D /= np.linalg.norm(other_D)
    return (score * vector_D + np.sqrt(1 - score**2) * other_D).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path):
    with open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True) as opened:
        yield opened


def test_identified_unknown_and_undecided(gallery: Gallery) -> None:
    templates = people(3, 2)
    gallery.enroll(templates)
    calibration = threshold_at(0.8)
    found = identify(gallery, calibration, near(templates[2].vector, 0.9))
    assert (found.decision, found.identity) == ("identified", "p1")
    assert found.score == pytest.approx(0.9, abs=1e-5)
    assert found.candidates[0].identity == "p1"
    assert found.margin_to_runner_up == pytest.approx(found.score - found.candidates[1].score)

    found = identify(gallery, calibration, near(templates[2].vector, 0.7))
    assert (found.decision, found.identity) == ("unknown", None)
    assert "below the threshold 0.800" in found.reason

    found = identify(gallery, None, near(templates[2].vector, 0.9))
    assert (found.decision, found.identity, found.threshold) == ("undecided", None, None)
    assert found.score == pytest.approx(0.9, abs=1e-5)
    assert found.to_json()["calibration"] is found.expected_fpir is None


def test_a_threshold_of_zero_counts(gallery: Gallery) -> None:
    gallery.enroll(people(2, 1))
    assert identify(gallery, threshold_at(0.0), people(2, 1)[0].vector).decision == "identified"


def test_nobody_enrolled_is_unknown(gallery: Gallery) -> None:
    found = identify(gallery, threshold_at(0.5), unit_rows(1)[0])
    assert (found.decision, found.score, found.candidates) == ("unknown", None, ())
    assert found.expected_fpir == 0


def test_an_own_second_template_is_no_runner_up(gallery: Gallery) -> None:
    x_D, calibration = unit_rows(1)[0], threshold_at(0.8)
    twins = [Template("twin", x_D, "1"), Template("twin", near(x_D, 0.999), "2")]
    gallery.enroll([*twins, Template("other", near(x_D, 0.5), "3")])
    gallery.set_value("margin", _margin(0.3, calibration))
    assert identify(gallery, calibration, x_D).identity == "twin"
    # Another identity's is one.
    gallery.enroll([Template("double", near(x_D, 0.95), "4")])
    found = identify(gallery, calibration, x_D)
    assert (found.decision, found.identity) == ("unknown", None)
    assert "leads the runner-up by 0.050" in found.reason
    assert found.runner_up is not None
    assert found.runner_up.margin == 0.3
    # A margin that was measured for another calibration is not asked for.
    assert identify(gallery, threshold_at(0.85), x_D).decision == "identified"


def test_calibrations_of_normalised_scores_decide_nothing(gallery: Gallery) -> None:
    class Normalised:
        norm = "as-norm"
        threshold = 0.1

    gallery.enroll(people(2, 1))
    found = identify(gallery, Normalised(), people(2, 1)[0].vector)  # type: ignore[arg-type]
    assert found.decision == "undecided"
    assert "normalised" in found.reason
    decision = verify_claim(gallery, Normalised(), people(2, 1)[0].vector, "p0").decision  # type: ignore[arg-type]
    assert decision.decision == "undecided"
    assert "normalised" in decision.reason
    found = identify_nothing(gallery, Normalised(), "too little")  # type: ignore[arg-type]
    assert (found.decision, found.threshold, found.calibration) == ("undecided", None, None)


def test_a_sample_that_holds_too_little_is_compared_with_nobody(gallery: Gallery) -> None:
    gallery.enroll(people(2, 1))
    found = identify_nothing(gallery, threshold_at(0.8), "silence").to_json()
    assert (found["decision"], found["reason"], found["identity"], found["score"]) == (
        "undecided",
        "silence",
        None,
        None,
    )
    assert (found["candidates"], found["comparisons"], found["expected_fpir"]) == ([], 0, None)
    assert found["threshold"] == pytest.approx(0.8)


def test_strangers_are_expected_among_those_who_are_searched(gallery: Gallery) -> None:
    staff, guests = people(3, 2), people(8, 1, seed=1)
    gallery.enroll([Template(t.identity, t.vector, t.content, tags=("staff",)) for t in staff])
    gallery.enroll([Template(f"g{n}", t.vector, t.content, tags=("guest",)) for n, t in enumerate(guests)])
    calibration = threshold_at(0.8)
    assert identify(gallery, calibration, staff[0].vector).comparisons == 14
    found = identify(gallery, calibration, staff[0].vector, tags=("guest",))
    assert found.comparisons == 8
    assert found.expected_fpir == expected_fpir(calibration.achieved_fmr, 8)


def test_claims(gallery: Gallery) -> None:
    templates = people(3, 2)
    gallery.enroll(templates)
    calibration = threshold_at(0.8)
    probe_D = near(templates[2].vector, 0.9)
    for claimed, answer in (("p1", "match"), ("p0", "no-match")):
        found = verify_claim(gallery, calibration, probe_D, claimed)
        assert (found.decision.decision, found.references) == (answer, 2)
    undecided = verify_claim(gallery, None, probe_D, "p1").decision
    assert (undecided.decision, undecided.reason) == ("undecided", "this run has no calibrated threshold")
    assert verify_claim(gallery, calibration, probe_D, "p1").to_json()["claim"] == "p1"
    with pytest.raises(GalleryError, match="'nobody' is not enrolled"):
        verify_claim(gallery, calibration, probe_D, "nobody")


def test_expected_fpir() -> None:
    assert expected_fpir(1e-4, 10_000) == pytest.approx(0.6321, abs=1e-4)
    assert expected_fpir(0.5, 2) == pytest.approx(0.75)
    assert (expected_fpir(0.0, 100), expected_fpir(1.0, 1), expected_fpir(1.0, 0)) == (0, 1, 0)


def test_the_margin_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(3)
    centre_ID = unit_rows(25, d=6)
    label_N = np.repeat(np.arange(25), 8)
    x_ND = (centre_ID[label_N] + 0.5 * rng.standard_normal((200, 6))).astype(np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    calibration = threshold_at(0.6)
    found = runner_up_margin(x_ND, tuple(map(str, label_N)), calibration, target_fpir=0.2)
    assert found is not None

    passed, strangers, mated = 0, [], []
    for n in range(200):
        best: dict[int, float] = {}
        own = -np.inf
        for m in range(200):
            score = float(x_ND[n] @ x_ND[m])
            if label_N[m] != label_N[n]:
                best[label_N[m]] = max(best.get(label_N[m], -np.inf), score)
            elif m != n:
                own = max(own, score)
        first, second = sorted(best.values())[-1], sorted(best.values())[-2]
        strangers.append((first, first - second))
        mated.append((own, own - first))
    passed = sum(score >= 0.6 and lead >= found.margin for score, lead in strangers)
    assert found.achieved_fpir == passed / 200 <= 0.2
    assert sum(score >= 0.6 for score, _ in strangers) / 200 > 0.2, "the threshold alone would have done"
    # The smallest: at a hair less, one stranger more would pass.
    leads = sorted((lead for score, lead in strangers if score >= 0.6), reverse=True)
    assert passed == 40
    assert leads[40] < found.margin <= leads[39]
    missed = sum(not (score >= 0.6 and lead >= found.margin) for score, lead in mated)
    assert found.fnir == pytest.approx(missed / 200)
    assert (found.probes, found.identities, found.calibration) == (200, 25, calibration.id)
    rates = [
        (sum(s >= 0.6 and lead >= at for s, lead in strangers), sum(not (s >= 0.6 and lead >= at) for s, lead in mated))
        for at in (0.0, *(lead + 1e-9 for lead in leads))
    ]
    assert found.balance == min(let_in for let_in, not_found in rates if let_in >= not_found) / 200


def test_no_margin_from_too_little() -> None:
    calibration = threshold_at(0.5)
    x_ND = unit_rows(200)
    assert runner_up_margin(x_ND, ("a", "b") * 100, calibration) is None
    assert runner_up_margin(x_ND[:60], ("a", "b", "c") * 20, calibration) is None
    with pytest.raises(InvalidInput, match=r"60 templates allow a rate from 0\.5"):
        runner_up_margin(x_ND[:60], ("a", "b", "c") * 20, calibration, target_fpir=0.1)
    # Far fewer strangers than allowed reach the threshold: no lead is asked for.
    found = runner_up_margin(x_ND, tuple(map(str, range(200))), threshold_at(0.99))
    assert found is not None
    assert (found.margin, found.fnir, found.target_fpir, found.balance) == (0, None, 0.15, None)


def test_probes_are_drawn_where_there_are_many() -> None:
    x_ND = unit_rows(600)
    names = tuple(str(n % 100) for n in range(600))
    few = runner_up_margin(x_ND, names, threshold_at(0.3), target_fpir=0.2, max_probes=300)
    again = runner_up_margin(x_ND, names, threshold_at(0.3), target_fpir=0.2, max_probes=300)
    assert few is not None
    assert (few.probes, few) == (300, again)


def _margin(margin: float, calibration: Calibration) -> dict[str, object]:
    return {
        "margin": margin, "target_fpir": 0.1, "achieved_fpir": 0.1, "fnir": 0.1, "probes": 300, "identities": 3,
        "threshold": calibration.threshold, "calibration": calibration.id,
    }  # fmt: skip
