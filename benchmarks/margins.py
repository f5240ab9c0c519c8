"""Which margin rule? Every fixed margin of a grid, the soft margin and the rules that move it, on every data set.

    python benchmarks/margins.py --data ../shared/data --out margins.jsonl [--sets faces_orl ...] [--seeds 3]
    python benchmarks/margins.py --out margins.jsonl --table

One small network for pictures, one for speech, and a fixed number of steps for all (so the same time), paired seeds:
for one seed the split, the first weights, the batches and the augmentation are the same whatever the margin. Scored on
identities that were not trained on. One line of JSON per training is added to the file; what is there already is not
repeated, so an interrupted sweep goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from tercet import AutoMargin, TripletLoss
from tercet.data import AudioFrontEnd, ImageFrontEnd, Manifest, PKSampler, SampleStore, split_identities
from tercet.encoders import ConvEncoderConfig, SpeechEncoderConfig
from tercet.evaluate import all_pairs, retrieval, verification
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train.augment_audio import cut, waves
from tercet.train.care import Care
from tercet.train.schedule import learning_rate

GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SIDE = 32
IDENTITIES = {False: 12, True: 8}  # in a batch of pictures, of speech; four samples of each


@dataclass
class Distances:
    """What a rule sees of a batch: squared distances of positive and negative pairs, and of triplets d_an - d_ap."""

    positive: torch.Tensor
    negative: torch.Tensor
    gap: torch.Tensor
    width: int


def distances(x_BD: torch.Tensor, labels_B: torch.Tensor) -> Distances:
    d_BB = torch.cdist(x_BD, x_BD).square()
    same_BB = labels_B[:, None] == labels_B
    positive_BB = same_BB & ~torch.eye(len(x_BD), dtype=torch.bool)
    gap_BBB = d_BB[:, None, :] - d_BB[:, :, None]  # [anchor, positive, negative]
    valid_BBB = positive_BB[:, :, None] & ~same_BB[:, None, :]
    return Distances(d_BB[positive_BB], d_BB[~same_BB], gap_BBB[valid_BBB], x_BD.shape[1])


class Fixed:
    """One margin from the first step to the last; also "soft", and tercet's own that moves itself."""

    def __init__(self, margin: float | str | AutoMargin) -> None:
        self.margin = margin

    def __call__(self, seen: Distances, step: int) -> float | str | AutoMargin:
        return self.margin


class Moving:
    """A statistic of the batch, averaged over about `span` steps."""

    def __init__(self, statistic: Callable[[Distances], float], span: int = 20) -> None:
        self.statistic, self.span, self.mean = statistic, span, 0.0

    def __call__(self, seen: Distances, step: int) -> float:
        weight = max(1 / (step + 1), 1 / self.span)
        self.mean += weight * (self.statistic(seen) - self.mean)
        return max(self.mean, 1e-3)


class Difficulty:
    """After arXiv 2603.26389: the margin grows by a step whenever the share of easy triplets of an epoch is high."""

    def __init__(self, start: float = 0.1, step: float = 0.05, easy: float = 0.5, epoch: int = 20) -> None:
        self.margin, self.step, self.easy, self.epoch, self.seen = start, step, easy, epoch, []

    def __call__(self, seen: Distances, step: int) -> float:
        self.seen.append(float((seen.gap > self.margin).float().mean()))
        if len(self.seen) == self.epoch:
            if statistics.fmean(self.seen) > self.easy:
                self.margin += self.step
            self.seen = []
        return self.margin


OWN = "auto 0.5"  # what `--margin auto` is
DEFAULT = "default"  # that, with `--mining auto`: what `tercet train` does
RULES: dict[str, Callable[[], Callable[[Distances, int], float | str | AutoMargin]]] = {
    **{f"fixed {margin:g}": (lambda margin=margin: Fixed(margin)) for margin in GRID},
    "soft": lambda: Fixed("soft"),
    # A share of the standard deviation of the negatives, not below that of chance.
    **{f"auto {share:g}": (lambda share=share: Fixed(AutoMargin(share))) for share in (0.25, 0.5, 1.0)},
    **{
        f"active {share:g}": (lambda share=share: Moving(lambda seen: float(seen.gap.quantile(share))))
        for share in (0.25, 0.5)
    },
    "gap 0.5": lambda: Moving(lambda seen: 0.5 * float(seen.negative.mean() - seen.positive.mean())),
    "chance 1": lambda: Moving(lambda seen: 2 / math.sqrt(seen.width)),
    "difficulty": Difficulty,
}


@dataclass(frozen=True)
class Set:
    """A data set: where it lies, which task's augmentation suits it, and how much of it is used."""

    path: str
    task: str
    channels: int = 1
    most_identities: int = 120


SETS = {
    "faces_orl": Set("faces/orl", "faces"),
    "faces_lfw": Set("faces/lfw_a", "faces", most_identities=400),
    "grocery": Set("retrieval/grocery_store", "images", 3),
    "omniglot": Set("retrieval/omniglot_background.zip", "characters", most_identities=200),
    "signatures": Set("signatures/sigcomp2011_dutch", "digits"),
    "librispeech": Set("speakers/librispeech_mini", "speakers", most_identities=251),
    "arabic_words": Set("speakers/arabic_speech_commands", "speakers"),
}


def read(name: str, data: Path) -> SampleStore:
    """At most `most_identities` identities with two to twenty samples each, decoded."""
    wanted = SETS[name]
    path = data / wanted.path
    speech = wanted.task == "speakers"
    with tempfile.TemporaryDirectory() as unpacked:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(unpacked)
            inner = [p for p in Path(unpacked).iterdir() if p.is_dir()]
            path = inner[0] if len(inner) == 1 else Path(unpacked)
        if name == "signatures":  # genuine ones alone: forgeries are nobody's, and no margin is about them
            both = load_task("signatures").read(path)
            manifest = Manifest(
                both.root, tuple(row for row, genuine in zip(both.rows, both.genuine, strict=True) if genuine)
            )
        else:
            manifest = load_task(wanted.task if speech else "images").read(path, layout="folders")
        several = [identity for identity, count in manifest.counts().items() if count >= 2]
        kept = np.random.default_rng(0).permutation(several)[: wanted.most_identities]
        fit = "pad" if wanted.channels == 1 and name != "faces_lfw" else "crop"
        front_end = AudioFrontEnd(seconds=2.0) if speech else ImageFrontEnd(SIDE, SIDE, wanted.channels, fit=fit)
        return SampleStore.read(manifest.of(set(kept.tolist())), front_end)


def spoken(x_B1N: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A second of each recording: the part of the task's augmentation that costs little."""
    return waves(cut(x_B1N, labels_B, generator, seconds=1.0, speeds=(0.9, 1.0, 1.1)))


def one_run(store: SampleStore, name: str, rule: str, seed: int, steps: int, mining: str) -> dict[str, float]:
    """Train with a rule, score on the identities left out."""
    task = load_task(SETS[name].task)
    speech = SETS[name].task == "speakers"
    split = split_identities(store.manifest, seed=seed, validation=0.0, test=0.4)
    labels_N = store.manifest.labels
    rows = {
        part: np.array([n for n, row in enumerate(store.manifest.rows) if row.identity in set(getattr(split, part))])
        for part in ("train", "test")
    }
    sampler = PKSampler(
        labels_N[rows["train"]], identities_per_batch=IDENTITIES[speech], samples_per_identity=4, seed=seed
    )
    torch.manual_seed(seed)
    pictures = ConvEncoderConfig(SETS[name].channels, SIDE, SIDE, 64, 8, "flatten")
    encoder = (SpeechEncoderConfig(40, 64, 1, 64) if speech else pictures).build()
    augment = spoken if speech else task.augment
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.05)
    margin_of, care = RULES[rule](), Care(mining)
    steps = steps * 2 // 3 if speech else steps  # a step of speech costs three times as much
    margin: float | str | AutoMargin = 0.0
    settings = task.plan(minutes=1.0).settings
    for step in range(steps):
        taken = rows["train"][sampler.batch(step)]
        labels_B = torch.from_numpy(labels_N[taken])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        x_BD = encoder(augment(store.front_end.normalise(store.take(taken)), labels_B, generator))
        margin = margin_of(distances(x_BD.detach(), labels_B), step)
        loss = TripletLoss(margin, mining=care.mining_now, reduction="active")(x_BD, labels_B)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step / steps)
        optimizer.zero_grad()
        loss.backward()
        if mining == "auto":  # the curriculum goes by what it measures; nothing is done about an alarm
            found = last(margin)
            number = None if math.isnan(found) else found
            care.look(
                step, x_BD.detach(), labels_B, loss=loss.detach(), margin=number, distance="squared", gradient_norm=1.0
            )
        optimizer.step()
    vectors_ND = embed_rows(encoder, store, rows["test"])
    scored_N = labels_N[rows["test"]]
    pairs = all_pairs(vectors_ND, scored_N, max_pairs=200_000)
    return {
        "eer": verification(pairs.scores, pairs.genuine).eer,
        "recall": retrieval(vectors_ND, scored_N).recall["1"],
        "last_margin": last(margin),
    }


def last(margin: float | str | AutoMargin) -> float:
    """The margin as a number; NaN for the soft one."""
    if isinstance(margin, AutoMargin):
        return margin.value
    return math.nan if isinstance(margin, str) else margin


def sweep(args: argparse.Namespace) -> None:
    done = {(line["set"], line["rule"], line["seed"], line["steps"], line["mining"]) for line in lines(args.out)}
    stores: dict[str, SampleStore] = {}
    for seed in range(args.seeds):
        for name in args.sets or SETS:
            for rule in args.rules or RULES:
                if (name, rule, seed, args.steps, args.mining) in done:
                    continue
                if name not in stores:
                    stores[name] = read(name, args.data)
                started = time.process_time()
                found = one_run(stores[name], name, rule, seed, args.steps, args.mining)
                line = {"set": name, "rule": rule, "seed": seed, "steps": args.steps, "mining": args.mining, **found}
                line["cpu_s"] = round(time.process_time() - started, 2)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                figures = f"EER {100 * found['eer']:.1f} % recall@1 {100 * found['recall']:.1f} %"
                took = f"last margin {found['last_margin']:.3f}, {line['cpu_s']:.1f} s"
                print(f"{name:12} {rule:12} seed {seed}: {figures}, {took}", flush=True)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: list[float]) -> str:
    """Mean and 95 % interval (Student's t) of differences, in points."""
    mean = 100 * statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = float(t.ppf(0.975, len(values) - 1)) * 100 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.1f} ± {half:.1f}"


def table(path: Path, mining: str, steps: int) -> None:
    """Each rule under one mining against the best fixed margin of each set; then the default against each rule."""
    found: dict[tuple[str, str], dict[int, dict]] = {}
    for line in (line for line in lines(path) if line["steps"] == steps):
        if line["mining"] == mining:
            found.setdefault((line["set"], line["rule"]), {})[line["seed"]] = line
        if (line["rule"], line["mining"]) == (OWN, "auto"):
            found.setdefault((line["set"], DEFAULT), {})[line["seed"]] = line
    fixed = [f"fixed {margin:g}" for margin in GRID]
    sets = [name for name in SETS if all((name, rule) in found for rule in fixed)]
    if not sets:
        print(f"no set has all fixed margins yet under {mining}")
        return
    seeds = {name: sorted(set.intersection(*(set(found[name, rule]) for rule in fixed))) for name in sets}
    for figure, sign, title in (("eer", 1, "EER"), ("recall", -1, "recall@1")):

        def off(rule: str, other: str, name: str, figure: str = figure, sign: int = sign) -> list[float]:
            """How much worse, seed by seed."""
            both = [seed for seed in seeds[name] if seed in found[name, rule] and seed in found[name, other]]
            return [sign * (found[name, rule][n][figure] - found[name, other][n][figure]) for n in both]

        def best(name: str, but: int | None = None, figure: str = figure, sign: int = sign) -> str:
            """The best fixed margin of the set, by all seeds but one."""
            known = [seed for seed in seeds[name] if seed != but]
            levels = {rule: statistics.fmean(found[name, rule][seed][figure] for seed in known) for rule in fixed}
            return min(fixed, key=lambda rule: sign * levels[rule])

        print(f"\n{title}, points worse than the best fixed margin of the set; mean ± half a 95 % interval over seeds")
        print("| rule | " + " | ".join(sets) + " | mean | worst |\n|---|" + "---|" * (len(sets) + 2))
        rules = [DEFAULT, *(rule for rule in RULES if (rule, mining) != (OWN, "auto"))]
        shown = [rule for rule in rules if all(found.get((name, rule)) for name in sets)]
        for rule in shown:
            of = {name: off(rule, best(name), name) for name in sets}
            means = [statistics.fmean(values) for values in of.values()]
            print(
                f"| {rule} | " + " | ".join(interval(values) for values in of.values()),
                f"| {100 * statistics.fmean(means):.1f} | {100 * max(means):.1f} |",
            )
        levels = (
            f"{best(n)}: {100 * statistics.fmean(found[n, best(n)][k][figure] for k in seeds[n]):.1f} %" for n in sets
        )
        print("| the best | " + " | ".join(levels), "| | |")
        print("| seeds | " + " | ".join(str(len(seeds[name])) for name in sets), "| | |")
        if DEFAULT not in shown:
            continue
        # The best of eight on the very figures that it is chosen by is flattered; what the other seeds choose is not.
        means = []
        for name in sets if all(len(seeds[name]) > 1 for name in sets) else ():
            worse = dict(zip(seeds[name], range(len(seeds[name])), strict=True))
            means.append(statistics.fmean(off(DEFAULT, best(name, k), name)[worse[k]] for k in seeds[name]))
        if means:
            cells = " | ".join(f"{100 * value:+.1f}" for value in means)
            print(f"| {DEFAULT}, against the margin that the other seeds choose | {cells} ", end="")
            print(f"| {100 * statistics.fmean(means):.1f} | {100 * max(means):.1f} |")
        print(
            f"\n{title}, points by which the default is worse; mean over the sets ± half a 95 % interval over the sets"
        )
        for rule in shown[1:]:
            print(f"| {rule} | {interval([statistics.fmean(off(DEFAULT, rule, name)) for name in sets])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("margins.jsonl"))
    parser.add_argument("--sets", nargs="*", choices=list(SETS))
    parser.add_argument("--rules", nargs="*", choices=list(RULES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--mining", choices=("semihard", "all", "auto"), default="semihard")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is in the file, train nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        sweep(args)
    table(args.out, args.mining, args.steps)


if __name__ == "__main__":
    main()
