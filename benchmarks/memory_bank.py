"""Is a memory bank worth its rows? The same trainings with and without, judged on identities left out.

    python benchmarks/memory_bank.py --data ../shared/data [--seeds 3] [--epochs 8] [--out memory_bank.jsonl]

A small network (32 x 32 pixels, 64-d) on grocery photographs and on LFW faces, batches of 32 samples; with a bank of
512 and of 2,048 rows from the start, and of 2,048 after 60 steps, with an age limit or with a momentum encoder. One
line of JSON per training is added to the file; what is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from tercet import load
from tercet.data import ImageFrontEnd, SampleStore, split_identities
from tercet.encoders import ConvEncoderConfig
from tercet.errors import RunError
from tercet.evaluate import all_pairs, retrieval, verification
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train import Plan, Settings, train

DATA = {"grocery": ("images", "retrieval/grocery_store", 3), "lfw": ("faces", "faces/lfw_a", 1)}
BANKS = {
    "none": {},
    "512": {"memory": 512},
    "2048": {"memory": 2048},
    "2048, age 30": {"memory": 2048, "memory_age": 30, "memory_warmup": 60},
    "2048, momentum 0.99": {"memory": 2048, "memory_momentum": 0.99, "memory_warmup": 60},
}


def one(data: str, bank: str, mining: str, seed: int, epochs: float, folder: Path) -> dict[str, float | str]:
    task, path, channels = DATA[data]
    manifest = load_task(task).read(folder / path)
    plan = Plan(
        task,
        ImageFrontEnd(32, 32, channels),
        ConvEncoderConfig(channels, 32, 32, 64, 16, "flatten" if channels == 1 else "average"),
        load_task(task).augment,
        Settings(
            seed=seed, epochs=epochs, margin=0.2, mining=mining, reduction="active", identities_per_batch=8,
            samples_per_identity=4, **BANKS[bank],
        ),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        try:
            out = train(manifest, plan, Path(place) / "run")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("memory_bank.jsonl"))
    parser.add_argument("--mining", default="semihard")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keys = ("data", "bank", "mining", "seed")
    done = {tuple(line[key] for key in keys) for line in lines(given.out)}
    for seed in range(given.seeds):
        for data in DATA:
            for bank in BANKS:
                if (data, bank, given.mining, seed) in done:
                    continue
                line = dict(zip(keys, (data, bank, given.mining, seed), strict=True))
                line |= one(data, bank, given.mining, seed, given.epochs, given.data)
                with given.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
    for data in DATA:
        for bank in BANKS:
            found = [line for line in lines(given.out) if (line["data"], line["bank"]) == (data, bank)]
            for key in ("eer", "map_at_r"):
                each = [100 * line[key] for line in found if key in line]
                told = " ".join(f"{value:.1f}" for value in each) + " gave up" * (len(found) - len(each))
                print(f"{data:9}{bank:22}{key:10}{statistics.fmean(each) if each else float('nan'):7.1f}  {told}")


if __name__ == "__main__":
    main()
