"""The margin that chooses itself against the best that a sweep finds, with the tasks' own networks.

    python benchmarks/sweeps.py --data ../shared/data --out sweeps [--minutes 1] [--seeds 4]
    python benchmarks/sweeps.py --out sweeps --table

For each set the sweep of `tercet margin DATA --sweep --task T`: eight margins from 0.02 to 1, "soft" and "auto", each
with the task's encoder, batches and augmentation on the same seeds, compared on the identities held out for
validation, the worse half dropped after one seed and after two. Then "auto" and the best of the others are scored on
the test's identities, which neither training nor sweep has seen, over the seeds that both have.

Time is the processor's, of one thread. What is in the folder is not trained again: an interrupted sweep goes on.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before torch is imported
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import tercet
from applications import SETS, ProcessorTime, default_plan, opened, score, warm_up
from tercet.data import SampleStore, split_identities
from tercet.protocol import scored_rows
from tercet.run.model import Model, embed_rows
from tercet.tasks import load_task
from tercet.train.sweep import Trial, difference, sweep

FIGURES = ("eer", "recall")


def one_set(name: str, data: Path, out: Path, *, minutes: float, seeds: int) -> dict[str, object]:
    """Sweep, and score the two on the test's identities."""
    wanted = SETS[name]
    with opened(data / wanted.path) as folder:
        manifest = load_task(wanted.task).read(folder)

        def tell(trial: Trial) -> None:
            print(f"{name:13} {trial.margin!s:5} " + " ".join(f"{100 * eer:.1f}" for eer in trial.eer), flush=True)

        with patch("tercet.train.loop.time", ProcessorTime):
            trials = sweep(manifest, default_plan(wanted.task, 0, minutes), out / name, seeds=seeds, on_trial=tell)
        auto = next(trial for trial in trials if trial.margin == "auto")
        best = next(trial for trial in trials if trial.margin != "auto")  # they come best first
        on_test: dict[str, dict[str, list[float]]] = {}
        for trial in (auto, best):
            figures: list[dict[str, float]] = []
            for seed in range(min(len(auto.eer), len(best.eer))):
                model = tercet.load(out / name / f"margin-{trial.margin}" / f"seed-{seed}")
                with SampleStore.read(
                    manifest.of(split_identities(manifest, seed=seed).test), model.front_end
                ) as store:
                    known = scored_rows(model, store)

                    def embed(rows: np.ndarray, model: Model = model, store: SampleStore = store) -> np.ndarray:
                        return embed_rows(model.encoder, store, rows)

                    figures.append(score(store, known, embed)["figures"])
            on_test[str(trial.margin)] = {key: [each[key] for each in figures] for key in FIGURES}
    return {
        "set": name,
        "minutes": minutes,
        "trials": [trial.to_json() for trial in trials],
        "difference": difference(auto, best),
        "best": str(best.margin),
        "test": on_test,
    }


def table(lines: list[dict]) -> Iterator[str]:
    """A row for each set: what both reach, and how far "auto" is behind, mean over seeds ± half a 95 % interval."""
    from scipy.stats import t

    def behind(line: dict, key: str, sign: int) -> str:
        pairs = zip(line["test"]["auto"][key], line["test"][line["best"]][key], strict=True)
        off = [100 * sign * (ours - theirs) for ours, theirs in pairs]
        if len(off) < 2:
            return f"{off[0]:+.1f}"
        half = t.ppf(0.975, len(off) - 1) * statistics.stdev(off) / len(off) ** 0.5
        return f"{statistics.fmean(off):+.1f} ± {half:.1f}"

    columns = ["set", "minutes", "seeds", "the best", "held-out EER, auto / best", "test EER, auto / best", "behind"]
    yield "| " + " | ".join([*columns, "recall@1", "behind"]) + " |"
    yield "|---|" + "---:|" * 8
    for line in lines:
        auto, best = line["test"]["auto"], line["test"][line["best"]]
        seeds = len(auto["eer"])
        trials = {str(trial["margin"]): trial["eer"][:seeds] for trial in line["trials"]}
        cells = [
            line["set"],
            f"{line['minutes']:g}",
            str(seeds),
            line["best"],
            " / ".join(f"{100 * statistics.fmean(trials[which]):.1f}" for which in ("auto", line["best"])),
            " / ".join(f"{100 * statistics.fmean(which['eer']):.1f}" for which in (auto, best)),
            behind(line, "eer", 1),
            " / ".join(f"{100 * statistics.fmean(which['recall']):.1f}" for which in (auto, best)),
            behind(line, "recall", -1),
        ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("sweeps"))
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the processor, for each training")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        warm_up()
        for name in args.sets:
            line = one_set(name, args.data, args.out, minutes=args.minutes, seeds=args.seeds)
            (args.out / f"{name}.json").write_text(json.dumps(line, indent=1))
    there = [args.out / f"{name}.json" for name in args.sets]
    print("\n".join(table([json.loads(path.read_text()) for path in there if path.is_file()])))


if __name__ == "__main__":
    main()
