"""Memory is what a step takes beside its batch, a lid holds, and processes end on time and on request."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import torch

from tercet.bench.losses import Plan, _Climb, _climb, _rungs, bench_losses
from tercet.bench.measure import Setting, one_step, race
from tercet.bench.processes import Died, Fresh
from tercet.errors import InvalidInput, TercetError

SETTING = Setting(width=16, samples_per_class=4, threads=1, device="cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the lid on memory is Linux's")


@pytest.fixture(scope="module")
def fresh() -> Fresh:
    return Fresh(["torch", "tercet.bench.measure"])


@linux
def test_memory_beside_the_batch(fresh: Fresh) -> None:
    product = fresh.call(one_step, "one product", "one product", 2048, 10**9, SETTING, seconds=60)
    assert 0.9 < product["extra"] / (4 * 2048**2) < 1.5
    cube = fresh.call(one_step, "all", "torch, broadcast", 128, 10**9, SETTING, seconds=60)
    tiles = fresh.call(one_step, "all", "tercet (tiles)", 128, 10**9, SETTING, seconds=60)
    assert cube["extra"] > 2 * 4 * 128**3 > 4 * tiles["extra"]
    assert cube["seconds"] > 0


@linux
def test_what_does_not_fit_is_said_not_raised(fresh: Fresh) -> None:
    assert fresh.call(one_step, "all", "torch, broadcast", 160, 10**7, SETTING, seconds=60) is None
    huge = fresh.call(one_step, "all", "torch, broadcast", 2048, 10**7, SETTING, seconds=60)
    assert huge is None  # 34 GB: stopped by the lid, not by the system


def sleep_and_answer(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fail() -> None:
    sys.stdout.write("peers print")
    raise ValueError("no such thing")


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_answers_fails_or_ends(fresh: Fresh) -> None:
    assert fresh.call(sleep_and_answer, 0.0, seconds=60) == 0.0
    with pytest.raises(Died, match="not done after 1 s"):
        fresh.call(sleep_and_answer, 600.0, seconds=1)
    with pytest.raises(Died, match="ended by the system"):
        fresh.call(end, seconds=60)
    with pytest.raises(TercetError, match="ValueError: no such thing"):
        fresh.call(fail, seconds=60)


def test_everyone_is_timed_by_turns() -> None:
    names = [("hard", "torch, broadcast"), ("hard", "tercet (tiles)")]
    result = race(names, 32, 3, 60.0, SETTING)
    assert result["unit_ms"] > 0
    assert [entry["rounds"] for entry in result["entries"]] == [3, 3]
    assert all(entry["ms"] > 0 and entry["times_unit"] > 0 for entry in result["entries"])
    assert all(entry["gradient_error"] < 1e-5 for entry in result["entries"])
    assert race([("random", "tercet (tiles)")], 32, 2, 60.0, SETTING)["entries"][0]["gradient_error"] is None
    assert [entry["rounds"] for entry in race(names, 32, 9, 0.0, SETTING)["entries"]] == [2, 2]


@pytest.mark.parametrize(
    "rows, first", [(512, [128, 256, 512, 1024]), (300, [128, 256, 300, 512]), (40, [40, 64, 128]), (128, [128, 256])]
)
def test_rungs_double_and_hold_the_batch_of_the_table(rows: int, first: list[int]) -> None:
    rungs = list(_rungs(Plan(rows=rows)))
    assert rungs[: len(first)] == first
    assert rungs == sorted(set(rungs))


class Pretended:
    """Fits up to some rows, taking a second per thousand."""

    def __init__(self, fits: int, per_row: float) -> None:
        self.fits, self.per_row = fits, per_row

    def call(self, _function, _case, _name, rows, _memory, _setting, *, seconds):
        if rows * self.per_row > 20:
            raise Died(f"not done after {seconds:.0f} s")
        return {"seconds": rows * self.per_row, "extra": 1.0} if rows <= self.fits else None


@pytest.mark.parametrize(
    "fits, per_row, closer, largest, limit",
    [
        (700, 1e-6, True, range(630, 701), "memory"),
        (700, 1e-6, False, range(512, 513), "memory"),
        (10**9, 1e-3, True, range(512, 513), "time"),
        (100, 1e-6, True, range(1), "memory"),
        (10**9, 0.1, True, range(128, 129), "time"),
    ],
)
def test_the_largest_batch(fits: int, per_row: float, closer: bool, largest: range, limit: str) -> None:
    climb: _Climb = _climb(Pretended(fits, per_row), Plan(closer=closer), SETTING, "all", "anyone")  # type: ignore[arg-type]
    assert max(climb.steps, default=0) in largest
    assert climb.limit == limit


@pytest.mark.parametrize(
    "options, said",
    [
        ({"width": 0}, "width must be at least 1"),
        ({"samples_per_class": 1}, "samples_per_class must be at least 2"),
        ({"rows": 7}, "rows must be at least 8, two classes of 4, got 7"),
        ({"memory": 10}, "memory must be at least 1000000"),
        ({"seconds": 0.0}, "seconds must lie between 0 and 3600"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Plan(**options)


def test_the_whole_of_a_small_one() -> None:
    heard: list[str] = []
    plan = Plan(
        rows=24, width=8, threads=1, rounds=2, memory=10**8, seconds=0.003, cases=("formula 2",),
        peers=False, closer=False,
    )  # fmt: skip
    result = bench_losses(plan, lambda what, done, total: heard.append(what))
    by_name = {(entry["case"], entry["contender"]): entry for entry in result["entries"]}
    assert set(by_name) == {("formula 2", "tercet"), ("formula 2", "torch, broadcast")}
    for entry in result["entries"]:
        assert entry["largest_rows"] >= 24
        if entry["ms"] is not None:
            assert entry["times_unit"] > 0
            assert entry["times_tercet"] > 0
            assert entry["extra_bytes"] >= 0
            assert entry["rounds"] == 2
    assert result["unit"]["steps"]
    assert result["machine"]["torch"] == torch.__version__
    order = [next(i for i, what in enumerate(heard) if word in what) for word in ("comparing", "memory", "timing")]
    assert order == sorted(order)
