"""Three settings that collapse plain triplet training, each without and with the training doctor.

    python benchmarks/collapse.py --data ../shared/data [--seeds 5] [--epochs 60] [--settings fast ...]

    fast       hardest triplets from the first step on, at a high learning rate (ORL faces)
    two each   112 identities with two pictures each, hardest triplets (LFW faces)
    noise      a fifth of the training labels drawn anew, hardest triplets (ORL faces)

Beside each a healthy training: the same data, labels and seed, semi-hard triplets at the usual rate; the margin is the
default one. A training counts as collapsed if the mean squared distance of its last batch is under a hundredth of what
chance gives on the sphere. Scored are identities that were not trained on, with their true labels. One line of JSON per
training is added to the file; what is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tercet import load
from tercet.data import ImageFrontEnd, Manifest, SampleStore, split_identities
from tercet.encoders import ConvEncoderConfig
from tercet.errors import RunError
from tercet.evaluate import all_pairs, verification
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train import Plan, Settings, train

HEALTHY = {"mining": "semihard", "reduction": "active", "learning_rate": 1e-3}
HARD = {"mining": "hard", "reduction": "mean"}


def divided(manifest: Manifest, seed: int) -> Manifest:
    """With the division written into the rows, so that labels can be changed in its training part alone."""
    split = split_identities(manifest, seed=seed)
    part = {name: part for part in ("train", "validation", "test") for name in getattr(split, part)}
    return Manifest(manifest.root, tuple(replace(row, split=part[row.identity]) for row in manifest.rows))


def orl(data: Path, seed: int) -> Manifest:
    return divided(load_task("faces").read(data / "faces/orl", layout="folders"), seed)


def noisy(data: Path, seed: int) -> Manifest:
    manifest, random = orl(data, seed), np.random.default_rng(seed)
    names = sorted({row.identity for row in manifest.rows if row.split == "train"})
    rows = [
        replace(row, identity=names[random.integers(len(names))])
        if row.split == "train" and random.random() < 0.2
        else row
        for row in manifest.rows
    ]
    return Manifest(manifest.root, tuple(rows))


def two_each(data: Path, seed: int) -> Manifest:
    manifest = load_task("faces").read(data / "faces/lfw_a", layout="folders")
    several = [name for name, count in manifest.counts().items() if count >= 2]
    order = np.random.default_rng(seed).permutation(several).tolist()
    part = dict.fromkeys(order[:112], "train") | dict.fromkeys(order[112:152], "validation")
    part |= dict.fromkeys(order[152:], "test")
    taken: dict[str, int] = {}
    rows = []
    for row in manifest.rows:
        if row.identity in part and taken.get(row.identity, 0) < 2:
            taken[row.identity] = taken.get(row.identity, 0) + 1
            rows.append(replace(row, split=part[row.identity]))
    return Manifest(manifest.root, tuple(rows))


SETTINGS: dict[str, tuple[Callable[[Path, int], Manifest], dict[str, object]]] = {
    "fast": (orl, {**HARD, "learning_rate": 1e-2, "warmup": 0.0}),
    "two each": (two_each, {**HARD, "identities_per_batch": 32, "samples_per_identity": 2}),
    "noise": (noisy, HARD),
}


def one(name: str, kind: str, seed: int, epochs: float, data: Path) -> dict[str, object]:
    read, settings = SETTINGS[name]
    manifest = read(data, seed)
    shape = {key: value for key, value in settings.items() if "per_" in key}
    chosen = {**HEALTHY, **shape} if kind == "healthy" else settings
    plan = Plan(
        "faces",
        ImageFrontEnd(32, 32, 1),
        ConvEncoderConfig(1, 32, 32, 64, 8, "flatten"),
        load_task("faces").augment,
        Settings(seed=seed, epochs=epochs, doctor=kind == "doctor", **chosen),
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            train(manifest, plan, out)
        except RunError as error:
            return {"gave_up": str(error).removeprefix(f"{out}: ")}
        history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        last = [line for line in history if line["phase"] == "train"][-1]
        remarks = json.loads((out / "metrics.json").read_text())["remarks"]
        model = load(out)
        wanted = {row.identity for row in manifest.rows if row.split == "test"}
        with SampleStore.read(manifest.of(wanted), plan.front_end) as store:
            pairs = all_pairs(embed_rows(model.encoder, store, np.arange(len(store))), store.manifest.labels)
        return {
            "eer": verification(pairs.scores, pairs.genuine).eer,
            "collapsed": last["mean_negative"] < 0.02,
            "mean_negative": last["mean_negative"],
            "fresh_starts": sum(remark["kind"].startswith("fresh start") for remark in remarks),
        }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("collapse.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = {(line["setting"], line["kind"], line["seed"], line["epochs"]) for line in lines(args.out)}
    for seed in range(args.seeds):
        for name in args.settings:
            for kind in ("healthy", "plain", "doctor"):
                if (name, kind, seed, args.epochs) not in done:
                    line = {
                        "setting": name,
                        "kind": kind,
                        "seed": seed,
                        "epochs": args.epochs,
                        **one(name, kind, seed, args.epochs, args.data),
                    }
                    with args.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(line, flush=True)
    print(f"\n{'setting':10}{'training':10}{'seeds':>6}{'collapsed':>11}{'gave up':>9}{'EER % mean':>12}  each")
    for name in SETTINGS:
        for kind in ("healthy", "plain", "doctor"):
            wanted = (name, kind, args.epochs)
            found = [x for x in lines(args.out) if (x["setting"], x["kind"], x["epochs"]) == wanted]
            eer = [100 * line["eer"] for line in found if "eer" in line]
            collapsed = sum(line.get("collapsed", False) for line in found)
            mean = f"{statistics.fmean(eer):.1f}" if eer else "-"
            each = " ".join(f"{value:.1f}" for value in eer)
            gave_up = sum("gave_up" in line for line in found)
            print(f"{name:10}{kind:10}{len(found):6}{collapsed:11}{gave_up:9}{mean:>12}  {each}")


if __name__ == "__main__":
    main()
