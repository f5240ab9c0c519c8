"""Does the FMR that a calibration foresees come true on people that neither training nor calibration saw?

    python benchmarks/promise.py RUN DATA [RUN DATA ...] [--fmr 0.01 0.05] [--splits 20]

For each run and data set: the identities that the run was not trained or validated on are divided at random into two
halves, 20 times. On one half the threshold for the target FMR is chosen, on the other the FMR at that threshold is
measured. Counted is how often it lies within the interval that the calibration foresees for these people (95 in 100
are promised), within the interval of the rate itself (which does not promise that: it leaves out the sampling of the
people measured on), and within the interval that takes pairs for independent, as most tools do. The halves of one set
are no independent experiments, so 18 of 20 is no breach.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tercet
from tercet.data import SampleStore
from tercet.errors import InvalidInput
from tercet.evaluate import all_pairs, calibrate
from tercet.evaluate.rates import binomial_interval
from tercet.protocol import scored_rows
from tercet.run.model import embed_rows
from tercet.tasks import load_task


def vectors(run: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of the identities that the run has not seen."""
    model = tercet.load(run)
    manifest = load_task(model.task).read(data)
    with SampleStore.read(manifest, model.front_end) as store:
        rows = scored_rows(model, store).rows
        return embed_rows(model.encoder, store, rows), store.manifest.labels[rows]


def promise(name: str, vectors_ND: np.ndarray, labels_N: np.ndarray, *, target: float, splits: int) -> str:
    """A row of the table."""
    people = np.unique(labels_N)
    inside, own, naive, refused = 0, 0, 0, 0
    rates, lows, highs = [], [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(people)
        halves = []
        for half in (order[: len(order) // 2], order[len(order) // 2 :]):
            mine = np.isin(labels_N, half)
            pairs = all_pairs(vectors_ND[mine], labels_N[mine], seed=seed, max_pairs=1_000_000)
            codes = np.stack([labels_N[mine][pairs.first], labels_N[mine][pairs.second]], axis=1)
            halves.append((pairs, codes))
        (here, here_codes), (there, there_codes) = halves
        try:
            found = calibrate(here.scores, here.genuine, target_fmr=target, identities=here_codes)
        except InvalidInput:
            refused += 1
            continue
        measured = float((there.scores[~there.genuine] >= found.threshold).mean())
        foreseen = found.foresee_fmr(there_codes[~there.genuine])
        assert foreseen is not None
        lows.append(foreseen[0])
        highs.append(foreseen[1])
        rates.append(measured)
        inside += foreseen[0] <= measured <= foreseen[1]
        own += found.fmr_interval[0] <= measured <= found.fmr_interval[1]
        low, high = binomial_interval(found.achieved_fmr, found.impostor_pairs)
        naive += low <= measured <= high
    count = splits - refused
    if not count:
        return f"| {name} | {len(people)} | {target:g} | refused every time |  |  |  |  |"
    return (
        f"| {name} | {len(people)} | {target:g} | {100 * np.median(rates):.2f} % "
        f"({100 * min(rates):.2f} to {100 * max(rates):.2f}) | {100 * np.median(lows):.2f} to "
        f"{100 * np.median(highs):.2f} % | {inside} of {count} | {own} of {count} | {naive} of {count} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path, metavar="RUN DATA")
    parser.add_argument("--fmr", type=float, nargs="+", default=[0.01, 0.05], help="target rates")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    if len(given.places) % 2:
        parser.error("each RUN needs its DATA")
    print(
        "| data | identities | target FMR | measured (range) | foreseen, median | inside | rate's own | pairs alone |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for run, data in zip(given.places[::2], given.places[1::2], strict=True):
        vectors_ND, labels_N = vectors(run, data)
        for fmr in given.fmr:
            print(promise(data.name, vectors_ND, labels_N, target=fmr, splits=given.splits), flush=True)


if __name__ == "__main__":
    main()
