"""Dataset-wide mining: what a search of a whole training set costs, and whether its batches are worth that time.

    python benchmarks/mining.py search [--rows 200000] [--queries 16384] [--each 10] [--width 128]
    python benchmarks/mining.py gain --data ../shared/data [--seeds 3] [--seconds 40] [--out mining.jsonl]

`search` makes vectors of N rows, `--each` of them an identity, and looks for the eight nearest of other identities of
so many queries, as `--mine-every` does with all rows: its processor time by turns with that of the product and top-k
alone (float32, torch, blocks of 2^24 entries), which leaves nobody out. With as many queries as rows it is a whole
search, and judges all samples. The peak of the process's memory is told at the end.

`gain` trains a small network (32 x 32 pixels, 64-d, batches of 32) on the ORL faces, the grocery photographs and the
Omniglot characters, with and without mining, each for the same processor time, and judges it on identities left out.
One line of JSON per training is added to the file; what is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tercet import load
from tercet.data import ImageFrontEnd, SampleStore, split_identities
from tercet.encoders import ConvEncoderConfig
from tercet.errors import RunError
from tercet.evaluate import all_pairs, retrieval, verification
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train import Plan, Settings, loop
from tercet.train.hardness import NEIGHBOURS, judge, nearest_foreign
from tercet.train.survey import TILE

DATA = {
    "orl": ("faces", "faces/orl", 1),
    "grocery": ("images", "retrieval/grocery_store", 3),
    "omniglot": ("characters", "retrieval/omniglot_background.zip", 1),
}
KINDS = {
    "none": {},
    "every 100": {"mine_every": 100},
    "every 400": {"mine_every": 400},
}
ENTRIES = 2**24  # similarities of the plain product at a time


def plain(x_ND: torch.Tensor, rows: slice) -> None:
    """Product and top-k of some rows with all."""
    size = max(1, ENTRIES // len(x_ND))
    for start in range(rows.start, rows.stop, size):
        torch.topk(x_ND[start : min(start + size, rows.stop)] @ x_ND.T, NEIGHBOURS, dim=1)


def search(rows: int, queries: int, each: int, width: int) -> None:
    random = np.random.default_rng(0)
    identities_N = np.arange(rows) // each
    x_ND = random.standard_normal((rows, width), np.float32)
    x_ND += np.repeat(random.standard_normal((-(-rows // each), width), np.float32), each, axis=0)[:rows]
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    parts = [slice(start, min(start + TILE, queries)) for start in range(0, queries, TILE)]
    ours, theirs, found = [], [], []
    for part in parts:
        before = time.process_time()
        found.append(nearest_foreign(x_ND, identities_N, part))
        between = time.process_time()
        plain(torch.from_numpy(x_ND), part)
        ours.append(between - before)
        theirs.append(time.process_time() - between)
        print(f"{part.stop} of {queries} queries: {ours[-1]:.1f} s, plain {theirs[-1]:.1f} s", flush=True)
    print(f"{rows} rows of {width}, {each} an identity: {sum(ours):.1f} s of processor time for {queries} queries,")
    print(f"{sum(ours) / sum(theirs):.2f} of the plain product; all rows would take {sum(ours) * rows / queries:.0f} s")
    # Where not all rows were searched for, what was found stands for the others: as much memory, and as much to judge.
    index_NK = np.resize(np.concatenate([part[0] for part in found]), (rows, NEIGHBOURS))
    score_NK = np.resize(np.concatenate([part[1] for part in found]), (rows, NEIGHBOURS))
    before = time.process_time()
    judge(x_ND, identities_N, index_NK, score_NK, skip=0.02)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"to judge all rows: {time.process_time() - before:.1f} s; peak memory {peak:.2f} GiB")


def one(data: str, kind: str, seed: int, seconds: float, folder: Path) -> dict[str, float | str]:
    task, path, channels = DATA[data]
    with tempfile.TemporaryDirectory() as place:
        source = folder / path
        if source.suffix == ".zip":
            with zipfile.ZipFile(source) as archive:
                archive.extractall(Path(place) / "data")
            source = Path(place) / "data"
        manifest = load_task(task).read(source)
        plan = Plan(
            task,
            ImageFrontEnd(32, 32, channels),
            ConvEncoderConfig(channels, 32, 32, 64, 8, "flatten" if channels == 1 else "average"),
            load_task(task).augment,
            Settings(
                seed=seed, minutes=seconds / 60, margin=0.2, mining="semihard", reduction="active",
                identities_per_batch=8, samples_per_identity=4, **KINDS[kind],
            ),
        )  # fmt: skip
        try:
            out = loop.train(manifest, plan, Path(place) / "run")
        except RunError as error:  # collapsed, and the doctor gave up
            return {"gave_up": str(error).removeprefix(f"{place}/run: ")}
        model, told = load(out), json.loads((out / "metrics.json").read_text())
        test = split_identities(manifest, seed=seed).test
        with SampleStore.read(manifest.of(set(test)), plan.front_end) as store:
            x_ND, labels_N = embed_rows(model.encoder, store, np.arange(len(store))), store.manifest.labels
    pairs = all_pairs(x_ND, labels_N, max_pairs=200_000)
    found = {"eer": verification(pairs.scores, pairs.genuine).eer, "map_at_r": retrieval(x_ND, labels_N).map_at_r}
    return found | {"seconds": told["seconds"], "steps": told["steps"]}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def gain(data: Path, out: Path, seeds: int, seconds: float) -> None:
    loop.time = SimpleNamespace(monotonic=time.process_time)  # budgets of processor time
    done = {(line["data"], line["kind"], line["seed"]) for line in lines(out)}
    for seed in range(seeds):
        for name in DATA:
            for kind in KINDS:
                if (name, kind, seed) in done:
                    continue
                line = {"data": name, "kind": kind, "seed": seed, **one(name, kind, seed, seconds, data)}
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
    for name in DATA:
        for kind in KINDS:
            found = [line for line in lines(out) if (line["data"], line["kind"]) == (name, kind)]
            for key in ("eer", "map_at_r"):
                each = [100 * line[key] for line in found if key in line]
                told = " ".join(f"{value:.1f}" for value in each) + " gave up" * (len(found) - len(each))
                steps = statistics.fmean(line.get("steps", 0) for line in found)
                mean = statistics.fmean(each) if each else float("nan")
                print(f"{name:10}{kind:16}{key:10}{mean:7.1f}  {told}  ({steps:.0f} steps)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "gain"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=TILE)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("mining.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "search":
        search(given.rows, min(given.queries, given.rows), given.each, given.width)
    else:
        gain(given.data, given.out, given.seeds, given.seconds)


if __name__ == "__main__":
    main()
