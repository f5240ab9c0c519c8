"""A trained model scored on data it has not seen, beside its baselines.

What was trained or validated on is left out first: every identity one of whose files has the checksum of a file in the
run's train or validation part, under whatever name it comes. What is left is scored pair by pair (verification) and
query by query (retrieval), for

    the model       as it stands in the run
    the baseline    no network: what the front end makes of a sample (raw_pixels for pictures), scaled to unit norm
    untrained       the same network with the weights that its training began with (same configuration and seed)

all on the same rows with the same front end. A model that does not beat both has learnt nothing of use. The network
normalises by group, not by batch, so that it needs no statistics of data and is a fair baseline as initialised.

Legend: N samples, D embedding width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch

from tercet.data import SampleStore
from tercet.encoders import build_encoder
from tercet.errors import DataError
from tercet.evaluate import (
    Calibration,
    all_pairs,
    bootstrap_retrieval,
    bootstrap_verification,
    calibrate,
    identity_folds,
    retrieval_per_query,
    verification,
)
from tercet.evaluate.error_curve import least_impostors
from tercet.run import Model
from tercet.run.model import embed_rows

__all__ = [
    "Evaluation",
    "Protocol",
    "Scored",
    "calibrate_run",
    "calibration_rows",
    "evaluate_run",
    "plain_baseline",
    "scored_rows",
    "untrained",
]

Protocol = Literal["verification", "retrieval", "both"]


@final
@dataclass(frozen=True)
class Scored:
    """What of the data is scored.

    Args:
        rows: Rows of the store, ascending.
        identities: How many identities they show.
        left_out: Names of the identities that the model was trained or validated on.
        left_out_samples: How many samples those have.
        warnings: What a reader of the figures should know.
    """

    rows: npt.NDArray[np.int64]
    identities: int
    left_out: tuple[str, ...]
    left_out_samples: int
    warnings: tuple[str, ...]


@final
@dataclass(frozen=True)
class Evaluation:
    """The figures of a model, as `tercet evaluate --json` prints them.

    Args:
        figures: The model's; the contract's keys.
        intervals: 95 % intervals by bootstrap over identities, in the nesting of the figures: {"ci95": [low, high]}.
        baselines: The same figures for the front end's baseline (such as "raw_pixels") and "untrained".
        scored: What was scored.
        skipped: Files that could not be read: {"path", "reason"}.
        model: Fingerprint.
    """

    figures: Mapping[str, Any]
    intervals: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    scored: Scored
    skipped: tuple[Mapping[str, str], ...]
    model: str

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            **self.figures,
            "intervals": dict(self.intervals),
            "baselines": {name: dict(figures) for name, figures in self.baselines.items()},
            "identities": self.scored.identities,
            "samples": len(self.scored.rows),
            "left_out": {"identities": len(self.scored.left_out), "samples": self.scored.left_out_samples},
            "skipped": [dict(entry) for entry in self.skipped],
            "warnings": list(self.scored.warnings),
            "model": self.model,
        }


def scored_rows(model: Model, store: SampleStore) -> Scored:
    """Leave out every identity that took part in training or validation, recognised by its files.

    An identity that has only its name in common with one of those is kept, and a warning says so.

    Raises:
        DataError: Nobody is left, or nobody with two samples, or only one identity.
    """
    split, hashes = model.split.split, model.split.hashes
    seen_hashes = {*hashes["train"], *hashes["validation"]}
    seen_names = {*split.train, *split.validation}
    manifest = store.manifest
    out = {row.identity for row, mark in zip(manifest.rows, store.hashes, strict=True) if mark in seen_hashes}
    rows = np.array([n for n, row in enumerate(manifest.rows) if row.identity not in out], dtype=np.int64)
    counts = Counter(manifest.rows[n].identity for n in rows)
    if not counts:
        raise DataError(f"{manifest.root}: every identity took part in training or validation; nobody is left to score")
    if len(counts) < 2 or max(counts.values()) < 2:
        raise DataError(
            f"{manifest.root}: {len(counts)} identities are left to score, "
            f"with {max(counts.values())} samples at most; two of each are needed"
        )
    namesakes = sorted(seen_names & counts.keys())
    warnings: tuple[str, ...] = ()
    if namesakes:
        warnings = (
            f"{len(namesakes)} identities have the name of one in training but none of its files, and are scored: "
            + ", ".join(namesakes[:5])
            + (" ..." if len(namesakes) > 5 else ""),
        )
    return Scored(rows, len(counts), tuple(sorted(out)), len(manifest) - len(rows), warnings)


def evaluate_run(
    model: Model,
    store: SampleStore,
    *,
    protocol: Protocol = "both",
    seed: int = 0,
    baselines: bool = True,
    resamples: int = 200,
    on_phase: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score a model on the identities of a store that it has not seen.

    Args:
        model: The model.
        store: The data, decoded by the model's front end.
        protocol: Verification, retrieval, or both.
        seed: Of the folds, of the sampling of pairs where there are too many, and of the bootstrap.
        baselines: Whether the front end's baseline and the untrained network are scored too.
        resamples: Draws of the bootstrap; 0 for no intervals.
        on_phase: Told what comes next.

    Raises:
        DataError: Too little is left to score.
    """
    tell = on_phase or _silent
    scored = scored_rows(model, store)
    labels_N = store.manifest.labels[scored.rows]
    tell("model")
    vectors_ND = embed_rows(model.encoder, store, scored.rows)
    tell("figures")
    figures, intervals = _figures(vectors_ND, labels_N, protocol, seed, resamples)
    beside: dict[str, Mapping[str, Any]] = {}
    if baselines:
        for name, make in ((model.front_end.BASELINE, plain_baseline), ("untrained", untrained)):
            tell(name)
            beside[name], _ = _figures(make(model, store, scored.rows), labels_N, protocol, seed, 0)
    skipped = tuple({"path": skipped.path, "reason": skipped.reason} for skipped in store.manifest.skipped)
    return Evaluation(figures, intervals, beside, scored, skipped, model.fingerprint)


def calibration_rows(model: Model, store: SampleStore, *, target_fmr: float) -> Scored:
    """What of the data a threshold is chosen on.

    Where the data hold the run's validation identities and these give enough impostor pairs for the rate, they alone:
    the test identities stay without part in any choice. Otherwise everybody that the model has not seen, and where
    those are the run's own test identities, a warning says so.

    Raises:
        DataError: Too little is left.
    """
    manifest, hashes = store.manifest, model.split.hashes
    held_out = frozenset(hashes["validation"])
    names = {row.identity for row, mark in zip(manifest.rows, store.hashes, strict=True) if mark in held_out}
    rows = np.array([n for n, row in enumerate(manifest.rows) if row.identity in names], dtype=np.int64)
    count = np.bincount(manifest.labels[rows]) if len(rows) else np.zeros(0, np.int64)
    impostor, genuine = int(len(rows) ** 2 - (count**2).sum()) // 2, int((count * (count - 1)).sum()) // 2
    if 0 < target_fmr < 1 and impostor >= least_impostors(target_fmr) and genuine:
        left_out = tuple(sorted(set(manifest.identities) - names))
        return Scored(rows, len(names), left_out, len(manifest) - len(rows), ())
    scored = scored_rows(model, store)
    if not scored.left_out:
        return scored
    warning = (
        f"the {len(names)} validation identities give too few pairs ({impostor} of different identities), so the "
        "threshold is chosen on the identities that the run keeps for its test; measure its error rates on others"
    )
    return replace(scored, warnings=(*scored.warnings, warning))


def calibrate_run(model: Model, store: SampleStore, *, target_fmr: float, seed: int = 0) -> Calibration:
    """Choose the threshold for a false match rate on identities that the model was not trained on: `calibration_rows`.

    The threshold is not stored; `Model.save_calibration` does that.

    Raises:
        DataError: Too little is left to score.
        InvalidInput: Too few impostor pairs for the rate, or genuine and impostor scores that overlap beyond use.
    """
    rows_N = calibration_rows(model, store, target_fmr=target_fmr).rows
    vectors_ND = embed_rows(model.encoder, store, rows_N)
    pairs = all_pairs(vectors_ND, store.manifest.labels[rows_N], seed=seed)
    return calibrate(pairs.scores, pairs.genuine, target_fmr=target_fmr)


def _figures(
    vectors_ND: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], protocol: Protocol, seed: int, resamples: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a set of vectors, and their intervals."""
    figures: dict[str, Any] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if protocol != "retrieval":
        pairs = all_pairs(vectors_ND, labels_N, seed=seed)
        folds = identity_folds(pairs, labels_N, seed=seed)
        found = verification(pairs.scores, pairs.genuine, folds=folds)
        figures |= {"eer": found.eer, "auc": found.auc, "accuracy": found.accuracy, "tar_at_fmr": found.tar_at_fmr}
        figures |= {"pairs": {"genuine": found.genuine, "impostor": found.impostor}}
        if resamples:
            intervals |= bootstrap_verification(pairs, labels_N, folds=folds, resamples=resamples, seed=seed)
    if protocol != "verification":
        per_query = retrieval_per_query(vectors_ND, labels_N)
        figures |= asdict(per_query.summary())
        if resamples:
            intervals |= bootstrap_retrieval(per_query, labels_N, resamples=resamples, seed=seed)
    return figures, _nested(intervals)


def _nested(intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """{"recall.1": (low, high)} as {"recall": {"1": {"ci95": [low, high]}}}."""
    nested: dict[str, Any] = {}
    for key, (low, high) in intervals.items():
        figure, _, part = key.partition(".")
        place = nested.setdefault(figure, {}) if part else nested
        place[part or figure] = {"ci95": [low, high]}
    return nested


def plain_baseline(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without a network, unit vectors [N, D]: what the front end says of the samples."""
    parts = [model.front_end.baseline(store.take(rows_N[start : start + 256])) for start in range(0, len(rows_N), 256)]
    return np.concatenate(parts)


def untrained(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without training, unit vectors [N, D]: the model's network with the weights that it began with."""
    with torch.random.fork_rng():
        torch.manual_seed(int(model.config["seed"]))
        encoder = build_encoder(model.config["encoder"])
    return embed_rows(encoder, store, rows_N)


def _silent(phase: str) -> None:
    """Tell nobody."""
