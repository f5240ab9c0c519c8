"""`bench evaluation`: compares figures with those of other libraries, then times and weighs who computes the same."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

from tercet.bench.judges import CASES, OURS, PEERS, TOLERANCE, Sizes, compare, race, ratio, there, weigh
from tercet.bench.machine import machine
from tercet.bench.processes import Died, Fresh
from tercet.errors import InvalidInput

__all__ = ["EvaluationPlan", "bench_evaluation"]

Tell = Callable[[str, int, int], None]
_RANKED_ROWS = 2000  # whole rankings grow with the square, and one library takes them a query at a time


@final
@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure.

    Attributes:
        rows: embeddings that are ranked; whole rankings at most 2,000.
        width: of the embeddings.
        samples_per_class: embeddings of each identity.
        pairs: scored pairs.
        threads: of torch.
        rounds: how many times everyone is timed.
        seconds: a contender that has used so many takes no further part in the timing of its case.
        memory: bytes that figures may take beside the sample.
        peers: whether libraries of the extra `bench` take part.
    """

    rows: int = 5000
    width: int = 128
    samples_per_class: int = 5
    pairs: int = 1_000_000
    threads: int = 2
    rounds: int = 5
    seconds: float = 10.0
    memory: int = 4 * 10**9
    peers: bool = True

    def __post_init__(self) -> None:
        leasts = {"width": 1, "samples_per_class": 2, "pairs": 100, "threads": 1, "rounds": 1, "memory": 10**6}
        for name, least in {**leasts, "rows": 2 * self.samples_per_class}.items():
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.seconds <= 3600:
            raise InvalidInput(f"seconds must lie between 0 and 3600, got {self.seconds:g}")

    def sizes(self, case: str) -> Sizes:
        """What a case judges."""
        rows = min(self.rows, _RANKED_ROWS) if case == "mAP, whole ranking" else self.rows
        return Sizes(rows, self.width, self.samples_per_class, self.pairs, self.threads)


def bench_evaluation(plan: EvaluationPlan, tell: Tell) -> dict[str, Any]:
    """Measure; `tell` hears what is being done, and which of how many pieces it is."""
    tell("starting: importing torch and the peers", 0, 1)
    packages = [package for name, package in PEERS.items() if plan.peers and there(name)]
    fresh = Fresh(["torch", "tercet.bench.judges", "sklearn.metrics", "scipy.spatial", *packages])
    left_out = [
        {"case": case, "contender": name, "reason": "not installed"}
        for case, judges in CASES.items()
        for name in judges
        if plan.peers and not there(name)
    ]
    entries = []
    for i, case in enumerate(CASES):
        sizes = plan.sizes(case)
        tell(f"comparing values: {case}", i, len(CASES))
        compared = fresh.call(compare, case, sizes, seconds=300)
        for name in [name for name in compared if name in PEERS and not plan.peers]:
            del compared[name]
        for name in [name for name, said in compared.items() if said["differs"]]:
            reason = f"does not compute the same: {compared.pop(name)['differs']}"
            left_out.append({"case": case, "contender": name, "reason": reason})
        tell(f"timing by turns: {case}", i, len(CASES))
        took = fresh.call(race, case, list(compared), sizes, plan.rounds, plan.seconds, seconds=3600)
        for name, said in compared.items():
            tell(f"memory: {case}, {name}", i, len(CASES))
            try:
                extra = fresh.call(weigh, case, name, sizes, plan.memory, seconds=60 + 4 * max(took[name]))
            except Died:
                extra = None
            entries.append(
                {
                    "case": case,
                    "contender": name,
                    "figures": said["figures"],
                    "ms": 1e3 * statistics.median(took[name]),
                    "times_tercet": None if name == OURS else ratio(took[name], took[OURS]),
                    "rounds": len(took[name]),
                    "extra_bytes": extra,
                }
            )
    tell("done", 1, 1)
    return {
        "machine": machine([*packages, "scikit-learn"], "cpu"),
        "setting": {**asdict(plan), "tolerance": TOLERANCE},
        "entries": entries,
        "left_out": left_out,
    }
