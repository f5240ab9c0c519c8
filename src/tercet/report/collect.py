"""Collects what the report shows: scores a run on a store of samples and turns the result into a `Page`.

Legend: N scored samples, D embedding width.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.evaluate import Pairs, RetrievalPerQuery, all_pairs, cllr, retrieval_per_query, roc, verification
from tercet.protocol import baselines_of, evaluate_run, scored_rows
from tercet.protocol.baselines import Baseline
from tercet.protocol.calibration import normalised_pairs
from tercet.report import figures, tables
from tercet.report.doubts import doubtful_labels
from tercet.report.embedding_map import Map, make_map, map_rows
from tercet.report.examples import draw_queries, hardest_false_matches, hardest_false_non_matches
from tercet.report.margin import curve_of_vectors
from tercet.report.page import Drawing, Fact, Page, Pair, Picture, Query, Ranked, Suspect, Table, picture
from tercet.report.training import is_number, margin_drawing, read_history, remark_lines, training_drawings
from tercet.report.words import calibration_text, columns_and_systems, result_text, system_name
from tercet.run import Model
from tercet.run.files import read_json
from tercet.run.model import embed_rows
from tercet.tasks import load_task

__all__ = ["collect", "invocation"]

QUERIES = 8
RESULTS = 10
HARDEST = 8
_LEAST_IN_BIN = 10  # pairs
PAIRS_DRAWN = 1_000_000  # scores behind the diagrams; above this many pairs a sample of them


def invocation(model: Model) -> tuple[Path, str]:
    """The data and the layout that a run was trained on: as its command named them, or else as the run notes them."""
    noted = _noted(model.path / "command.json")
    return Path(str(noted.get("data", model.config["data"]["path"]))), str(noted.get("layout", "auto"))


def collect(
    model: Model,
    store: SampleStore,
    *,
    seed: int = 0,
    commands: Sequence[tuple[str, str]] = (),
    on_phase: Callable[[str], None] | None = None,
) -> Page:
    """Score the model on those identities of the store that it has not seen, and gather the page.

    `commands` are named command lines that the page shows beside that of the training.

    Raises:
        DataError: Too little is left to score.
    """
    task = load_task(model.task)
    evaluation = evaluate_run(
        model,
        store,
        seed=seed,
        references=task.references,
        cohort=None if model.norm else task.cohort,
        on_phase=on_phase,
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
        **{system_name(name): make(model, store, rows_N) for name, make in _drawn_beside(model).items()},
    }
    suspects, suspect_note = _suspects(shown, vectors_ND, labels_N, pairs, per_query)
    history, metrics = read_history(model.path / "history.jsonl"), _noted(model.path / "metrics.json")
    drawn_map = _map(store, rows_N, vectors_ND, seed)
    margin = (margin_drawing(curve_of_vectors(model, vectors_ND, labels_N)),)
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
        calibration_drawings=_calibration_drawings(model, vectors_ND, labels_N, seed),
        training_drawings=(*training_drawings(history), *margin),
        remarks=remark_lines(history, metrics),
        provenance=_provenance(model, evaluation, metrics, seed, commands),
        settings=_settings(model),
        tables=_known(tables.cost_table(evaluation), tables.kind_table(evaluation), tables.reference_table(evaluation)),
        map=drawn_map,
        map_note=(
            f"{len(drawn_map.marks)} of the {len(rows_N):,} scored samples, laid out by {drawn_map.how}: samples that "
            "are alike to the model lie near each other, and distances across the map mean little. A shape in a colour "
            "stands for an identity; where there are more than 24, several share one."
        ),
        suspects=suspects,
        suspect_note=suspect_note,
        leakage=tables.leakage_lines(evaluation),
        leakage_table=tables.leakage_table(evaluation),
    )


def _drawn_beside(model: Model) -> dict[str, Baseline]:
    """The two baselines that stand in the diagrams: others than the plain one say more than an untrained network."""
    found = dict(baselines_of(model))
    if len(found) > 2:
        del found["untrained"]
    return found


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
        "without a network and the untrained network (same shape, same front end, random weights), and where there "
        "is one the description beside the network alone, or a pretrained network as it was published (frozen), are "
        "scored on the same samples: what training is worth is the distance to them."
    ]
    if evaluation["identities"] < 20:
        lines.append(
            f"With only {evaluation['identities']} identities the intervals are too narrow: other identities may fare "
            "quite differently."
        )
    if evaluation["skipped"]:
        lines.append(f"{len(evaluation['skipped'])} files could not be read and are in none of the figures.")
    warned = (line for line in evaluation["warnings"] if not line.startswith("leakage: "))
    return (*lines, *(f"{line[0].upper()}{line[1:].rstrip('.')}." for line in warned))


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
    # A threshold on normalised scores has no place among plain ones.
    threshold = None if model.calibration is None or model.norm is not None else model.calibration.threshold
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


def _known(*found: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in found if table is not None)


def _map(store: SampleStore, rows_N: npt.NDArray[np.int64], vectors_ND: npt.NDArray[np.float32], seed: int) -> Map:
    kept = map_rows(store.manifest.labels[rows_N], seed=seed)
    rows = [store.manifest.rows[n] for n in rows_N[kept]]
    samples = store.take(rows_N[kept]).numpy()
    return make_map(
        vectors_ND[kept],
        [row.identity for row in rows],
        [store.manifest.relative(row) for row in rows],
        [store.front_end.picture(sample) for sample in samples],
        seed=seed,
    )


def _suspects(
    shown: _Album,
    vectors_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    pairs: Pairs,
    per_query: RetrievalPerQuery,
) -> tuple[tuple[Suspect, ...], str]:
    """The samples whose label may be wrong, and how to read them."""
    stranger = float(np.median(pairs.scores[~pairs.genuine]))
    doubts, found = doubtful_labels(vectors_ND, labels_N, per_query, stranger=stranger)
    suspects = []
    for doubt in doubts:
        own = shown.picture(doubt.row)
        other = shown.picture(doubt.neighbour)
        reason = (
            f"Labelled {own.identity}; its {doubt.agreeing} nearest are all {other.identity} ({doubt.other:.2f} alike, "
            f"{doubt.own:.2f} to the nearest of its own)."
            if doubt.suggested is not None and doubt.other is not None
            else f"Labelled {own.identity}; even the nearest sample of that identity, beside it, is only "
            f"{doubt.own:.2f} alike, less than usual between strangers. Nobody is suggested."
        )
        suspects.append(Suspect(own, other, reason))
    if not doubts:
        return (), (
            f"Of {len(labels_N):,} samples none has neighbours that are all of one other identity, or is unlike all "
            "others of its own. That is no proof: what the model cannot tell apart, it cannot doubt."
        )
    note = (
        f"In doubt: {found} of {len(labels_N):,} samples. Shown, each beside the sample that raises the doubt: "
        f"{len(suspects)}, the clearest. This is what the model sees: where it is weak, it is the model that is wrong "
        "and not the label. Look at each before changing anything."
    )
    return tuple(suspects), note


def _calibration_drawings(
    model: Model, vectors_ND: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], seed: int
) -> tuple[Drawing, ...]:
    """How far the calibrated likelihood ratios can be believed on the scored samples."""
    llr_map = None if model.calibration is None else model.calibration.llr
    if llr_map is None:
        return ()
    pairs = normalised_pairs(vectors_ND, labels_N, model.norm, seed=seed)
    llr = llr_map(pairs.scores)
    cost, knowing = cllr(llr, pairs.genuine), verification(pairs.scores, pairs.genuine).min_cllr
    own, other = llr[pairs.genuine], llr[~pairs.genuine]
    stated, seen = [], []
    posterior = 1 / (1 + np.exp(-np.clip(llr, -500, 500)))
    edges = np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        inside = (posterior >= low) & ((posterior < high) | (high == 1))
        genuine, impostor = (inside & pairs.genuine).sum() / len(own), (inside & ~pairs.genuine).sum() / len(other)
        if inside.sum() >= _LEAST_IN_BIN:
            stated.append(float(posterior[inside].mean()))
            seen.append(float(genuine / (genuine + impostor)))
    spread = Drawing(
        figures.likelihoods(own, other, title="Histogram of log-likelihood ratios by kind of pair"),
        "Evidence of a score",
        f"Right of 0 speaks for one identity, left for two. Cllr {cost:.3f} bits, {knowing:.3f} with the best possible "
        "map; 1 bit is knowing nothing.",
    )
    if len(stated) < 2:
        return (spread,)
    believed = Drawing(
        figures.reliability(stated, seen, title="Reliability: stated chance against the share that is genuine"),
        "Can the stated chance be believed?",
        "Scores by the chance that the calibration gives them, both kinds of pair taken as equally frequent. Below the "
        "diagonal it claims too much for one identity.",
    )
    return (spread, believed)


def _provenance(
    model: Model,
    evaluation: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seed: int,
    commands: Sequence[tuple[str, str]],
) -> tuple[Fact, ...]:
    config = model.config
    noted = _noted(model.path / "command.json")
    packages = ", ".join(f"{name} {version}" for name, version in config["packages"].items())
    facts = [
        Fact("Trained with", str(noted["command"]), code=True) if "command" in noted else None,
        *(Fact(name, command, code=True) for name, command in commands),
        Fact("Model", config["fingerprint"], code=True),
        Fact("Data", str(noted.get("data", config["data"]["path"])), code=True),
        Fact("Seed", f"{config['seed']} for the training, {seed} for this page"),
        Fact("Training", f"{metrics['steps']:,} steps in {metrics['seconds']:.0f} s")
        if is_number(metrics.get("steps")) and is_number(metrics.get("seconds"))
        else None,
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
