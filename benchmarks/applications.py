"""What a training is worth on real data: the defaults of `tercet train`, and what they have to beat.

    python benchmarks/applications.py --data ../shared/data --out applications.jsonl [--minutes 5] [--seeds 3]
    python benchmarks/applications.py --out applications.jsonl --table

For every set and seed: `tercet`, the training that the command makes with its default options; `semihard`, the same
encoder, first weights, data, split, batches, augmentation, schedule, choice of weights and processor time with the
semi-hard miner and the triplet loss of pytorch-metric-learning at margin 0.2; `untrained`, the network as initialised;
`description`, what the encoder has beside its network, fitted and alone; `tercet, network` and `semihard, network`, the
networks of those trainings without it and without their whitening; and what there is without any training: raw pixels,
histograms of oriented gradients, cepstral statistics. All are scored on the same identities, which no training has
seen.

Time is the processor's, counted for one thread, so that another job on the machine takes nothing from anybody. One
line of JSON per system is added to the file, and what is there already is not repeated: an interrupted run goes on.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before torch is imported
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import argparse
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import tercet
from tercet.data import Manifest, SampleStore, split_identities
from tercet.data.hog import oriented_gradients
from tercet.encoders import DescribedConfig
from tercet.evaluate import all_pairs, forgery_pairs, identity_folds, retrieval_per_query, with_forgeries
from tercet.evaluate.figures import retrieval_figures, verification_figures
from tercet.protocol import scored_rows
from tercet.protocol.rows import Scored
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train import Plan, Settings, train
from tercet.train.batches import Batches
from tercet.train.description import with_description
from tercet.train.learner import Learner
from tercet.train.loop import _Training
from tercet.train.ranks import Ranks
from tercet.train.stopwatch import Stopwatch

MOST_PAIRS = 200_000
RESAMPLES = 100
FIGURES = {"eer": "EER", "tar": "TAR at FMR 1 %", "recall": "recall@1"}
SKILLED = {"skilled_eer": "EER, skilled", "skilled_tar": "TAR at FMR 1 %, skilled"}


@dataclass(frozen=True)
class Set:
    """A data set: where it lies below the data, and the task that it is for."""

    path: str
    task: str


SETS = {
    "faces_orl": Set("faces/orl", "faces"),
    "faces_lfw": Set("faces/lfw_a", "faces"),
    "grocery": Set("retrieval/grocery_store", "images"),
    "omniglot": Set("retrieval/omniglot_background.zip", "characters"),
    "signatures": Set("signatures/sigcomp2011_dutch", "signatures"),
    "librispeech": Set("speakers/librispeech_mini", "speakers"),
    "arabic_words": Set("speakers/arabic_speech_commands", "speakers"),
}


class SemiHard(torch.nn.Module):
    """Semi-hard triplets as users of pytorch-metric-learning write them, in the place of tercet's loss."""

    def __init__(self, margin: float = 0.2) -> None:
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.miners import TripletMarginMiner

        super().__init__()
        self.margin, self.mining = margin, "semihard"
        self.loss = TripletMarginLoss(margin=margin)
        self.miner = TripletMarginMiner(margin=margin, type_of_triplets="semihard")

    def forward(self, x_BD: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        labels_B = alone(labels_B)
        loss: torch.Tensor = self.loss(x_BD, labels_B, self.miner(x_BD, labels_B))
        return loss


def alone(labels_B: torch.Tensor) -> torch.Tensor:
    """Each row that is nobody's with a label of its own: a negative of everybody, and nothing else."""
    own_B = labels_B.max() + 1 + torch.arange(len(labels_B), device=labels_B.device)
    return torch.where(labels_B < 0, own_B, labels_B)


class ProcessorTime:
    """The clock of the training loop, which counts this process's work and not the machine's."""

    monotonic = staticmethod(time.process_time)


class StepTimes:
    """What the steps of a training cost: all in all, and of that the encoder and the optimiser."""

    def __init__(self) -> None:
        self.steps = self.encoder = self.optimiser = 0.0

    def outside(self) -> float:
        """The share of loading, augmentation, loss and doctor."""
        return 1 - (self.encoder + self.optimiser) / self.steps

    @contextmanager
    def counted(self) -> Iterator[None]:
        def timed(what: Callable, part: str) -> Callable:
            def call(*args: object, **more: object) -> object:
                started = time.process_time()
                try:
                    return what(*args, **more)
                finally:
                    setattr(self, part, getattr(self, part) + time.process_time() - started)

            return call

        with ExitStack() as stack:
            for place, name, part in (
                (Batches, "at", "steps"),
                (_Training, "_step", "steps"),
                (Learner, "update", "optimiser"),
            ):
                stack.enter_context(patch.object(place, name, timed(getattr(place, name), part)))
            enter, leave = Stopwatch.__enter__, Stopwatch.__exit__

            def begin(watch: Stopwatch) -> Stopwatch:
                self.encoder -= time.process_time()
                return enter(watch)

            def end(watch: Stopwatch, *error: object) -> None:
                leave(watch, *error)
                self.encoder += time.process_time()

            stack.enter_context(patch.object(Stopwatch, "__enter__", begin))
            stack.enter_context(patch.object(Stopwatch, "__exit__", end))
            yield


def default_plan(task: str, seed: int, minutes: float) -> Plan:
    """What the command trains when it is told nothing but the time."""
    return load_task(task).plan(seed=seed, minutes=minutes)


@contextmanager
def as_semihard() -> Iterator[None]:
    with patch.object(Settings, "criterion", lambda settings: SemiHard()):
        yield


def trained(system: str, manifest: Manifest, plan: Plan, out: Path) -> dict[str, float]:
    """Train into a run folder; returns steps, processor seconds and the share of them outside the encoder."""
    times = StepTimes()
    with patch("tercet.train.loop.time", ProcessorTime), times.counted():
        if system == "semihard":
            with as_semihard():
                plan = replace(plan, settings=replace(plan.settings, margin=0.2, mining="semihard", doctor=False))
                train(manifest, plan, out)
        else:
            train(manifest, plan, out)
    found = json.loads((out / "metrics.json").read_text())
    return {
        "steps": found["steps"],
        "cpu_s": found["seconds"],
        "outside_encoder": times.outside(),
        "best_step": found["validation"]["step"],
    }


def score(store: SampleStore, scored: Scored, embed: Callable[[np.ndarray], np.ndarray]) -> dict[str, object]:
    """The figures of vectors, with 95 % intervals from drawing the identities again."""
    labels_N = store.manifest.labels[scored.rows]
    x_ND = embed(scored.rows)
    pairs = all_pairs(x_ND, labels_N, max_pairs=MOST_PAIRS)
    folds = identity_folds(pairs, labels_N)
    found, drawn = verification_figures(pairs, labels_N, folds=folds, force_small=True, resamples=RESAMPLES)
    more = retrieval_figures(retrieval_per_query(x_ND, labels_N), labels_N, resamples=RESAMPLES)
    values = {"eer": found["eer"], "tar": found["tar_at_fmr"]["0.01"], "recall": more[0]["recall"]["1"]}
    between = {"eer": drawn["eer"], "tar": drawn["tar_at_fmr"]["0.01"], "recall": more[1]["recall"]["1"]}
    if len(scored.forged):
        both = np.concatenate([scored.rows, scored.forged])
        both_ND, labels_N = np.concatenate([x_ND, embed(scored.forged)]), store.manifest.labels[both]
        forged = with_forgeries(pairs, forgery_pairs(both_ND, labels_N, store.manifest.kinds[both])["skilled"])
        found, drawn = verification_figures(
            forged, labels_N, folds=identity_folds(forged, labels_N), force_small=True, resamples=RESAMPLES
        )
        values |= {"skilled_eer": found["eer"], "skilled_tar": found["tar_at_fmr"]["0.01"]}
        between |= {"skilled_eer": drawn["eer"], "skilled_tar": drawn["tar_at_fmr"]["0.01"]}
    return {"figures": values, "ci95": {name: ends["ci95"] if ends else None for name, ends in between.items()}}


def without_network(store: SampleStore) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The descriptions that need no network, by name."""
    front_end = store.front_end

    def plain(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([front_end.baseline(store.take(part)) for part in parts(rows)])

    def hog(rows: np.ndarray) -> np.ndarray:
        grey = (front_end.normalise(store.take(part)).mean(dim=1) for part in parts(rows))
        return np.concatenate([oriented_gradients(x_BHW).numpy() for x_BHW in grey])

    found = {front_end.BASELINE: plain}
    return found | {"hog": hog} if front_end.BASELINE == "raw_pixels" else found


def parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + 256] for start in range(0, len(rows), 256)]


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a set; of a zip one that is unpacked for the while."""
    if path.suffix != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
        inner = [p for p in Path(unpacked).iterdir() if p.is_dir()]
        yield inner[0] if len(inner) == 1 else Path(unpacked)


def one_seed(name: str, data: Path, seed: int, minutes: float, todo: list[str]) -> Iterator[dict[str, object]]:
    """The lines of those of `todo` that there are for the set; `baselines` stands for all that is not trained."""
    wanted = SETS[name]
    plan = default_plan(wanted.task, seed, minutes)
    with opened(data / wanted.path) as folder, tempfile.TemporaryDirectory() as runs:
        manifest = load_task(wanted.task).read(folder)
        split = split_identities(manifest, seed=seed)
        with SampleStore.read(manifest.of(split.test), plan.front_end) as store:
            genuine = store.manifest.genuine
            known = Scored(np.flatnonzero(genuine), len(split.test), (), 0, (), np.flatnonzero(~genuine))
            sizes = {"identities": known.identities, "samples": len(known.rows), "trained_on": len(split.train)}
            line = {"set": name, "seed": seed, **sizes}
            if "baselines" in todo:
                for system, embed in without_network(store).items():
                    yield {**line, "system": system, "minutes": 0, **score(store, known, embed)}
                torch.manual_seed(seed)
                encoder = plan.initial()
                found = score(store, known, lambda rows: embed_rows(encoder, store, rows))
                yield {**line, "system": "untrained", "minutes": 0, **found}
                if isinstance(plan.encoder, DescribedConfig):
                    with SampleStore.read(manifest.of(split.train), plan.front_end) as own:
                        alone = with_description(plan, own, split.train, Ranks()).initial().description
                    found = score(store, known, lambda rows: embed_rows(alone, store, rows))
                    yield {**line, "system": "description", "minutes": 0, **found}
            for system in todo:
                if system == "baselines":
                    continue
                cost = trained(system, manifest, plan, out := Path(runs) / system)
                model = tercet.load(out)
                assert np.array_equal(scored_rows(model, store).rows, known.rows)
                found = score(store, known, lambda rows, model=model: embed_rows(model.encoder, store, rows))
                yield {**line, "system": system, "minutes": minutes, **cost, **found}
                if isinstance(plan.encoder, DescribedConfig):
                    found = score(
                        store, known, lambda rows, model=model: embed_rows(model.encoder.network, store, rows)
                    )
                    yield {**line, "system": f"{system}, network", "minutes": minutes, **cost, **found}


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warm_up()
    for seed in range(args.seeds):
        for name in args.sets or SETS:
            there = {(x["system"], x["minutes"]) for x in lines(args.out) if (x["set"], x["seed"]) == (name, seed)}
            todo = [system for system in args.systems if (system, args.minutes) not in there]
            if ("untrained", 0) in there:
                todo = [system for system in todo if system != "baselines"]
            for line in one_seed(name, args.data, seed, args.minutes, todo) if todo else ():
                if (line["system"], line["minutes"]) in there:
                    continue
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                said = ", ".join(f"{key} {100 * value:.1f} %" for key, value in line["figures"].items())
                took = f", {line['steps']} steps" if "steps" in line else ""
                print(f"{name:13} seed {seed} {line['system']:16} {said}{took}", flush=True)


def warm_up() -> None:
    """Compile the loss, so that the first training does not pay for it."""
    x_BD, labels_B = torch.randn(64, 128, requires_grad=True), torch.arange(64) // 4
    for mining in ("all", "semihard", "hard"):
        tercet.TripletLoss(0.2, mining=mining)(x_BD, labels_B).backward()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: list[dict]) -> Iterator[str]:
    """A Markdown table for each set: means over seeds, and of the ends of intervals.

    The best is in bold, of the systems with all seeds.
    """
    for name in (name for name in SETS if any(line["set"] == name for line in found)):
        here = [line for line in found if line["set"] == name]
        keys = FIGURES | (SKILLED if "skilled_eer" in here[0]["figures"] else {})
        groups: dict[tuple[str, float], list[dict]] = {}
        for line in here:
            groups.setdefault((line["system"], line["minutes"]), []).append(line)
        mean = {
            group: {key: statistics.fmean(line["figures"][key] for line in some) for key in keys}
            for group, some in groups.items()
        }
        most = max(len(some) for some in groups.values())
        whole = [mean[group] for group, some in groups.items() if len(some) == most]
        best = {key: (min if key.endswith("eer") else max)(round(values[key], 3) for values in whole) for key in keys}
        people = " / ".join(str(line["identities"]) for line in max(groups.values(), key=len))
        yield f"\n**{name}**: {here[0]['trained_on']} identities in training, {people} in the test\n"
        yield "| system | " + " | ".join(keys.values()) + " | steps | outside the encoder |"
        yield "|---|" + "---:|" * (len(keys) + 2)
        for group, some in groups.items():
            cells = []
            for key in keys:
                ends = [line["ci95"][key] for line in some if line["ci95"][key]]
                low, high = (statistics.fmean(e[i] for e in ends) if ends else float("nan") for i in (0, 1))
                value = f"{100 * mean[group][key]:.1f}"
                if len(some) == most and round(mean[group][key], 3) == best[key]:
                    value = f"**{value}**"
                cells.append(f"{value} ({100 * low:.1f} to {100 * high:.1f})")
            cost = ["", ""]
            if "steps" in some[0]:
                cost = [
                    f"{statistics.fmean(line['steps'] for line in some):.0f}",
                    f"{100 * statistics.fmean(line['outside_encoder'] for line in some):.0f} %",
                ]
            title = f"{group[0]}, {group[1]:g} min" if group[1] else group[0]
            title += "" if len(some) == most else f" ({len(some)} of {most} seeds)"
            yield f"| {title} | " + " | ".join([*cells, *cost]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("applications.jsonl"))
    parser.add_argument("--sets", nargs="*", choices=list(SETS))
    parser.add_argument("--systems", nargs="*", default=["baselines", "tercet", "semihard"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the processor, for each training")
    parser.add_argument("--table", action="store_true", help="print the tables of what is in the file, train nothing")
    args = parser.parse_args()
    if not args.table:
        measure(args)
    print("\n".join(table(lines(args.out))))


if __name__ == "__main__":
    main()
