"""Collects what the report shows: scores a run on a store of samples and turns the result into a `Page`.

Legend: N scored samples, D embedding width.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.evaluate import Pairs, all_pairs, retrieval_per_query, roc
from tercet.protocol import evaluate_run, plain_baseline, scored_rows, untrained
from tercet.report import figures
from tercet.report.examples import draw_queries, hardest_false_matches, hardest_false_non_matches
from tercet.report.page import Drawing, Fact, Page, Pair, Picture, Query, Ranked, picture
from tercet.report.words import calibration_text, columns_and_systems, rate, result_text
from tercet.run import Model
from tercet.run.files import read_json
from tercet.run.model import embed_rows
from tercet.tasks import load_task

__all__ = ["collect", "invocation"]

QUERIES = 8
RESULTS = 10
HARDEST = 8
PAIRS_DRAWN = 1_000_000  # scores behind the diagrams; above this many pairs a sample of them


def invocation(model: Model) -> tuple[Path, str]:
    """The data and the layout that a run was trained on: as its command named them, or else as the run notes them."""
    noted = _noted(model.path / "command.json")
    return Path(noted.get("data", model.config["data"]["path"])), str(noted.get("layout", "auto"))


def collect(model: Model, store: SampleStore, *, seed: int = 0, on_phase: Callable[[str], None] | None = None) -> Page:
    """Score the model on those identities of the store that it has not seen, and gather the page.

    Raises:
        DataError: Too little is left to score.
    """
    evaluation = evaluate_run(
        model, store, seed=seed, references=load_task(model.task).references, on_phase=on_phase
    ).to_json()
    rows_N = scored_rows(model, store).rows
    labels_N = store.manifest.labels[rows_N]
    vectors_ND = embed_rows(model.encoder, store, rows_N)
    pairs = all_pairs(vectors_ND, labels_N, seed=seed, max_pairs=PAIRS_DRAWN)
    shown = _Album(store, rows_N)
    columns, systems = columns_and_systems(evaluation)
    per_query = retrieval_per_query(vectors_ND, labels_N, ks=(RESULTS,))
    drawn = draw_queries(labels_N, per_query.included, count=QUERIES, seed=seed)
    queries = tuple(
        Query(
            shown.picture(q),
            tuple(
                Ranked(shown.picture(row), float(score), bool(labels_N[row] == labels_N[q]))
                for row, score in zip(per_query.nearest[q], per_query.scores[q], strict=True)
                if row >= 0
            ),
            there=min(RESULTS, int(per_query.positives[q])),
        )
        for q in drawn
    )
    systems_vectors = {
        "trained model": vectors_ND,
        model.front_end.BASELINE.replace("_", " "): plain_baseline(model, store, rows_N),
        "untrained network": untrained(model, store, rows_N),
    }
    return Page(
        title=f"What a model for {model.task} makes of identities it has never seen",
        summary=(*_what_was_done(model, evaluation), *result_text(evaluation)),
        columns=columns,
        systems=systems,
        reading=_reading(evaluation),
        score_drawings=_score_drawings(model, pairs, systems_vectors, labels_N, seed),
        queries=queries,
        query_note=(
            f"Each of these {len(queries)} samples was compared with all {len(rows_N) - 1:,} other ones. "
            "The queries were drawn at random, not chosen, from as many identities as there are; the best results "
            "stand first. A solid frame and ✓ mark the right identity, a dashed frame and ✗ a wrong one."
        ),
        false_matches=shown.pairs(pairs, hardest_false_matches(pairs, labels_N, count=HARDEST)),
        false_non_matches=shown.pairs(pairs, hardest_false_non_matches(pairs, labels_N, count=HARDEST)),
        calibration=calibration_text(model.calibration, model.path.name),
        training_drawings=_training_drawings(model.path / "history.jsonl"),
        provenance=_provenance(model, evaluation, seed),
        settings=_settings(model),
    )


class _Album:
    """Pictures of scored rows, each made once."""

    def __init__(self, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> None:
        self._store, self._rows = store, rows_N
        self._made: dict[int, Picture] = {}

    def picture(self, n: int) -> Picture:
        n = int(n)
        if n not in self._made:
            row = self._store.manifest.rows[self._rows[n]]
            sample = self._store.take(self._rows[n : n + 1])[0].numpy()
            front_end = self._store.front_end
            self._made[n] = picture(
                front_end.picture(sample),
                identity=row.identity,
                path=self._store.manifest.relative(row),
                sound=front_end.sound(sample),
            )
        return self._made[n]

    def pairs(self, pairs: Pairs, chosen: npt.NDArray[np.int64]) -> tuple[Pair, ...]:
        return tuple(
            Pair(self.picture(pairs.first[i]), self.picture(pairs.second[i]), float(pairs.scores[i])) for i in chosen
        )


def _what_was_done(model: Model, evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    people, samples = model.config["data"]["identities"], model.config["data"]["samples"]
    kept = f" {people['validation']} further identities chose the best weights." if people["validation"] else ""
    left_out = evaluation["left_out"]["identities"]
    return (
        f"The model was trained with triplet loss on {samples['train']:,} samples of {people['train']} "
        f"identities.{kept} This page is about {evaluation['identities']} other identities with "
        f"{evaluation['samples']:,} samples, none of which took part in training or validation"
        + (f"; {left_out} identities that did were left out of the data given." if left_out else "."),
    )


def _reading(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    lines = [
        "In brackets: 95 % intervals, from drawing the scored identities again with replacement. The baseline "
        "without a network and the untrained network (same shape, same front end, the weights it began with) are scored on the same samples: "
        "what training is worth is the distance to both."
    ]
    if evaluation["identities"] < 20:
        lines.append(
            f"With only {evaluation['identities']} identities the intervals are too narrow: other identities may fare "
            "quite differently."
        )
    if evaluation["skipped"]:
        lines.append(f"{len(evaluation['skipped'])} files could not be read and are in none of the figures.")
    return (*lines, *evaluation["warnings"])


def _score_drawings(
    model: Model,
    pairs: Pairs,
    vectors: Mapping[str, npt.NDArray[np.float32]],
    labels_N: npt.NDArray[np.int64],
    seed: int,
) -> tuple[Drawing, ...]:
    curves = {}
    for name, vectors_ND in vectors.items():
        own = all_pairs(vectors_ND, labels_N, seed=seed, max_pairs=PAIRS_DRAWN)
        curve = roc(own.scores, own.genuine)
        curves[name] = (curve.fmr, curve.fnmr)
    genuine, impostor = pairs.scores[pairs.genuine], pairs.scores[~pairs.genuine]
    threshold = None if model.calibration is None else model.calibration.threshold
    overlap = (
        f"Half of the pairs of one identity score above {np.median(genuine):.2f}, half of the pairs of two identities "
        f"below {np.median(impostor):.2f}. The less the two shapes overlap, the better a threshold can part them."
    )
    return (
        Drawing(
            figures.histogram(genuine, impostor, threshold=threshold, title="Histogram of scores by kind of pair"),
            "How scores are spread",
            overlap,
        ),
        Drawing(
            figures.roc_curve(curves, title="ROC: true accept rate over false match rate, three systems"),
            "ROC",
            "How many pairs of one identity are accepted, for every rate at which pairs of two are. Higher is better.",
        ),
        Drawing(
            figures.det_curve(curves, title="DET: false non-match rate over false match rate, three systems"),
            "DET",
            "Both errors against each other, on axes that stretch the small rates. Lower and further left is better; "
            "where a line crosses the dotted diagonal is its EER.",
        ),
    )


def _training_drawings(history: Path) -> tuple[Drawing, ...]:
    looks, scores = [], []
    for line in history.read_text("utf-8").splitlines() if history.is_file() else []:
        entry = json.loads(line)
        if entry["phase"] == "train":
            looks.append(entry)
        elif entry["phase"] == "validate":
            scores.append(entry)
    drawings = []

    def draw(heading: str, caption: str, ylabel: str, series: Mapping[str, tuple[list[dict[str, Any]], str]]) -> None:
        lines = {name: ([e["step"] for e in some], [e[key] for e in some]) for name, (some, key) in series.items()}
        svg = figures.training_curves(
            lines, xlabel="step", ylabel=ylabel, title=f"{heading} over the steps of training"
        )
        drawings.append(Drawing(svg, heading, caption))

    if len(looks) > 1:
        draw("Loss", "Triplet loss of single batches: it jumps, the trend counts.", "loss", {"loss": (looks, "loss")})
        draw(
            "Active triplets",
            "Share of a batch's triplets that still violate the margin: what there is left to learn from.",
            "share",
            {"active": (looks, "active_fraction")},
        )
        draw(
            "Distances",
            "Mean distance within identities and between identities: the gap between the lines is what training makes.",
            "distance",
            {"same identity": (looks, "mean_positive"), "two identities": (looks, "mean_negative")},
        )
    if len(scores) > 1:
        best = min(entry["validation_eer"] for entry in scores)
        draw(
            "Validation EER",
            f"On identities held out for this; the weights of the best point ({rate(best)}) were kept.",
            "EER",
            {"EER": (scores, "validation_eer")},
        )
    return tuple(drawings)


def _provenance(model: Model, evaluation: Mapping[str, Any], seed: int) -> tuple[Fact, ...]:
    config, metrics = model.config, _noted(model.path / "metrics.json")
    noted = _noted(model.path / "command.json")
    packages = ", ".join(f"{name} {version}" for name, version in config["packages"].items())
    facts = [
        Fact("Command", noted["command"], code=True) if "command" in noted else None,
        Fact("Model", config["fingerprint"], code=True),
        Fact("Data", str(noted.get("data", config["data"]["path"])), code=True),
        Fact("Seed", f"{config['seed']} for the training, {seed} for this page"),
        Fact("Training", f"{metrics['steps']:,} steps in {metrics['seconds']:.0f} s") if "steps" in metrics else None,
        Fact("Skipped files", f"{len(config['data']['skipped']) + len(evaluation['skipped'])}"),
        Fact("Versions", f"tercet {config['tercet']}, {packages}"),
        Fact("Page made", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    return tuple(fact for fact in facts if fact is not None)


def _settings(model: Model) -> tuple[Fact, ...]:
    groups = {
        "training": model.config["training"],
        "encoder": model.config["encoder"],
        "front end": model.config["front_end"],
    }
    return tuple(
        Fact(f"{group}: {name.replace('_', ' ')}", json.dumps(value), code=True)
        for group, values in groups.items()
        for name, value in values.items()
        if value is not None
    )


def _noted(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
