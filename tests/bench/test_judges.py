"""`bench evaluation` compares values first: who computes something else is found, whoever it is."""

from __future__ import annotations

import pytest

from tercet.bench import judges
from tercet.bench.evaluation import EvaluationPlan
from tercet.bench.judges import CASES, OURS, Sizes, compare, race, ratio, weigh
from tercet.errors import InvalidInput

SIZES = Sizes(rows=60, width=8, samples_per_class=3, pairs=500, threads=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "_SMALL_ROWS", 80)


@pytest.mark.parametrize("case", CASES)
def test_all_give_the_same_figures_but_the_eer_by_interpolation(case: str) -> None:
    said = compare(case, SIZES)
    assert set(said) <= set(CASES[case]) and {OURS} < set(said)
    for name, found in said.items():
        assert bool(found["differs"]) == (name == "scikit-learn, brentq"), (name, found)
    if case == "AUC, EER":
        assert said["scikit-learn, brentq"]["differs"].startswith("eer 0.")
        assert said["scikit-learn, brentq"]["figures"]["auc"] == pytest.approx(said[OURS]["figures"]["auc"], abs=1e-9)


def test_another_figure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(sizes: Sizes):
        return lambda: {"map": CASES["mAP, whole ranking"][OURS](sizes)()["map"] + 1e-4}

    case = {OURS: CASES["mAP, whole ranking"][OURS], "wrong": wrong, "nan": lambda sizes: lambda: {"map": float("nan")}}
    monkeypatch.setattr(judges, "CASES", {"mAP": case})
    said = compare("mAP", SIZES)
    assert said[OURS]["differs"] == ""
    assert "where tercet has" in said["wrong"]["differs"] and said["nan"]["differs"].startswith("map nan")


def test_everyone_is_timed_by_turns_and_the_slow_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(judges.time, "perf_counter", lambda: float(next(clock)))
    took = race("AUC, EER", [OURS, "scikit-learn, hull"], SIZES, 3, 1.5)
    assert took == {OURS: [1.0, 1.0], "scikit-learn, hull": [1.0, 1.0]}  # a second each, and no third round
    assert ratio([2.0, 4.0, 9.0], [1.0, 2.0]) == 2.0


def test_memory_beyond_the_limit_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(error: Exception):
        calls = iter((True, False))

        def judge(sizes: Sizes):
            if next(calls):
                return dict

            def fail() -> dict[str, float]:
                raise error

            return fail

        return judge

    monkeypatch.setattr(judges, "mark", lambda *_: 0)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(judges, "CASES", {"case": {"name": ends(error)}})
        assert weigh("case", "name", SIZES, 10**9) is None
    monkeypatch.setattr(judges, "CASES", {"case": {"name": ends(RuntimeError("a defect"))}})
    with pytest.raises(RuntimeError, match="a defect"):
        weigh("case", "name", SIZES, 10**9)


@pytest.mark.parametrize(
    "given", [{"rows": 5}, {"width": 0}, {"pairs": 99}, {"rounds": 0}, {"memory": 5}, {"seconds": 0.0}]
)
def test_what_has_no_meaning_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(given))):
        EvaluationPlan(**given)
    assert EvaluationPlan(rows=9000).sizes("mAP, whole ranking").rows == 2000
    assert EvaluationPlan(rows=9000).sizes("recall@1, MAP@R").rows == 9000
