"""`bench losses`: checks values, then measures time, peak memory and the largest batch that fits; numbers out, no text.

Legend: B rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, final

from tercet.bench.contenders import CASES, LEFT_OUT, PEERS, UNIT, installed
from tercet.bench.machine import machine
from tercet.bench.measure import TOLERANCE, Setting, check_values, one_step, race
from tercet.bench.processes import Died, Fresh
from tercet.errors import InvalidInput, TercetError

__all__ = ["Plan", "bench_losses"]

START_ROWS = 128
MOST_ROWS = 1 << 20
# Below this share of a batch, a closer look for the largest one is not worth its time.
CLOSE = 1 / 8


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        rows: B of the table.
        width: of the embeddings.
        samples_per_class: K.
        threads: of torch and of the compiled passes.
        rounds: how many times everyone is timed.
        device: `"cpu"` or `"cuda"`.
        memory: bytes that a step may take beside its batch.
        seconds: how long a step may take in the search for the largest batch.
        cases: names from `CASES`.
        peers: whether installed libraries take part.
        closer: whether the largest batch is looked for between powers of two.
    """

    rows: int = 512
    width: int = 128
    samples_per_class: int = 4
    threads: int = 2
    rounds: int = 7
    device: str = "cpu"
    memory: int = 10**9
    seconds: float = 1.0
    cases: tuple[str, ...] = tuple(CASES)
    peers: bool = True
    closer: bool = True

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("samples_per_class", 2), ("threads", 1), ("rounds", 1), ("memory", 10**6)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.seconds <= 3600:
            raise InvalidInput(f"seconds must lie between 0 and 3600, got {self.seconds:g}")
        if self.rows < 2 * self.samples_per_class:
            raise InvalidInput(
                f"rows must be at least {2 * self.samples_per_class}, two classes of {self.samples_per_class}, "
                f"got {self.rows}"
            )


Tell = Callable[[str, int, int], None]


def bench_losses(plan: Plan, tell: Tell) -> dict[str, Any]:
    """Measure; `tell` hears what is being done, and which of how many pieces it is.

    Every value and gradient is compared with the definition before anything is timed; who differs is left out.
    """
    peers = tuple(peer for peer, there in installed().items() if there and plan.peers)
    packages = [PEERS[peer] for peer in peers]
    tell("starting: importing torch and the peers", 0, 1)
    fresh = Fresh(["torch", "tercet.bench.measure", "tercet.functional._fused", *packages])
    setting = Setting(plan.width, plan.samples_per_class, plan.threads, plan.device)
    left_out = [
        {"case": case, "contender": peer, "reason": reason}
        for case, peer, reason in LEFT_OUT
        if case in plan.cases and peer in peers
    ]
    left_out += [{"case": "", "contender": peer, "reason": "not installed"} for peer in PEERS if not installed()[peer]]
    taking_part: list[tuple[str, str]] = []
    for i, case in enumerate(plan.cases):
        tell(f"comparing values: {case}", i, len(plan.cases))
        for name, difference in fresh.call(check_values, case, setting, peers, seconds=300).items():
            if difference:
                left_out.append({"case": case, "contender": name, "reason": difference})
            else:
                taking_part.append((case, name))
    climbs: dict[tuple[str, str], _Climb] = {}
    for i, key in enumerate([(UNIT, UNIT), *taking_part]):
        tell(f"memory and largest batch: {key[0]}, {key[1]}", i, len(taking_part) + 1)
        climbs[key] = _climb(fresh, plan, setting, *key)
    timed: dict[tuple[str, str], dict[str, Any]] = {}
    unit_ms: list[float] = []
    for i, case in enumerate(plan.cases):
        tell(f"timing by turns: {case}", i, len(plan.cases))
        names = [key for key in taking_part if key[0] == case and plan.rows in climbs[key].steps]
        if names:
            result = fresh.call(race, names, plan.rows, plan.rounds, 5.0 * plan.seconds, setting, seconds=600)
            unit_ms.append(result["unit_ms"])
            timed.update(zip(names, result["entries"], strict=True))
    tell("done", 1, 1)
    entries = [_entry(key, climbs[key], timed, plan) for key in taking_part]
    return {
        "machine": machine(packages, plan.device),
        "setting": {**asdict(plan), "cases": list(plan.cases), "tolerance": TOLERANCE},
        "unit": {"what": "torch.mm(x, x.T, out=buffer)", "ms": sorted(unit_ms)[len(unit_ms) // 2] if unit_ms else None,
                 "steps": climbs[UNIT, UNIT].listed()},
        "entries": entries,
        "left_out": left_out,
    }  # fmt: skip


@final
@dataclass
class _Climb:
    """Larger and larger batches: seconds and extra bytes of each that fitted, and what ended it."""

    steps: dict[int, dict[str, float]]
    limit: str = ""

    def listed(self) -> list[dict[str, float]]:
        """By number of rows."""
        return [{"rows": rows, **self.steps[rows]} for rows in sorted(self.steps)]


def _rungs(plan: Plan) -> Iterator[int]:
    rung = min(START_ROWS, plan.rows)
    while rung <= MOST_ROWS:
        yield rung
        rung = plan.rows if rung < plan.rows < 2 * rung else 1 << rung.bit_length()


def _climb(fresh: Fresh, plan: Plan, setting: Setting, case: str, name: str) -> _Climb:
    """Doubles the batch until memory or time ends it, then looks between the last two sizes if memory did."""
    climb = _Climb({})

    def try_rows(rows: int, patience: float) -> str:
        try:
            step = fresh.call(one_step, case, name, rows, plan.memory, setting, seconds=30 + 4 * patience)
        except Died as ended:
            return "time" if "not done" in str(ended) else "memory"
        if step is None:
            return "memory"
        climb.steps[rows] = step
        return "" if step["seconds"] <= patience else "time"

    for rung in _rungs(plan):
        # The batch of the table is worth more patience than one that only shows how far it goes.
        climb.limit = try_rows(rung, plan.seconds / 3 if rung >= plan.rows else 3 * plan.seconds)
        if climb.limit:
            break
    if climb.limit == "memory" and plan.closer and climb.steps:
        fits, not_fits = max(climb.steps), rung
        while not_fits - fits > max(CLOSE * fits, plan.samples_per_class):
            middle = (fits + not_fits) // 2 // plan.samples_per_class * plan.samples_per_class
            if middle <= fits:
                break
            if try_rows(middle, 3 * plan.seconds) == "memory":
                not_fits = middle
            else:
                fits = middle
    return climb


def _entry(
    key: tuple[str, str], climb: _Climb, timed: dict[tuple[str, str], dict[str, Any]], plan: Plan
) -> dict[str, Any]:
    figures = timed.get(key)
    ours = [timed[other]["ms"] for other in timed if other[0] == key[0] and other[1].startswith("tercet")]
    return {
        "case": key[0],
        "contender": key[1],
        "ms": figures["ms"] if figures else None,
        "times_unit": figures["times_unit"] if figures else None,
        "times_tercet": figures["ms"] / min(ours) if figures and ours else None,
        "rounds": figures["rounds"] if figures else 0,
        "gradient_error": figures["gradient_error"] if figures else None,
        "extra_bytes": int(climb.steps[plan.rows]["extra"]) if plan.rows in climb.steps else None,
        "largest_rows": max(climb.steps, default=0),
        "ended_by": climb.limit,
        "steps": climb.listed(),
    }


def resolve_device(device: str) -> str:
    """`"auto"` is a GPU where torch has one, else the CPU."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput(f"device must be auto, cpu or cuda, got {device!r}")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise TercetError("device: torch finds no GPU here")
    return "cuda" if there and device != "cpu" else "cpu"
