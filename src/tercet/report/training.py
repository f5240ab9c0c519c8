"""What the report says of a training: curves over its steps, how margin and mining moved, and the doctor's remarks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.report import figures
from tercet.report.margin import RunCurve
from tercet.report.page import Drawing
from tercet.report.words import rate

__all__ = ["is_number", "margin_drawing", "read_history", "remark_lines", "training_drawings"]

Entries = Sequence[Mapping[str, Any]]


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl; one that a kill has cut off, or that is no step of a training, is left out."""
    entries = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("phase"), str) and is_number(entry.get("step")):
            entries.append(entry)
    return entries


def is_number(value: object) -> bool:
    """Whether a value of a note can be drawn or printed as a number: no text, no NaN, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def remark_lines(entries: Entries, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """What the doctor said, in order of steps; and when mining changed."""
    noted = metrics.get("remarks")
    said = {
        (int(remark["step"]), str(remark.get("text", "")))
        for remark in (noted if isinstance(noted, list) else ())
        if isinstance(remark, dict) and is_number(remark.get("step"))
    }
    said |= {(int(e["step"]), str(e["remark"])) for e in entries if e["phase"] == "remark" and e.get("remark")}
    mining = [(int(e["step"]), str(e["mining"])) for e in entries if e["phase"] == "train" and e.get("mining")]
    for (_, before), (step, now) in itertools.pairwise(mining):
        if now != before:
            said.add((step, f"mining went from {before} to {now}"))
    return tuple(f"Step {step:,}: {text}" for step, text in sorted(said))


def training_drawings(entries: Entries) -> tuple[Drawing, ...]:
    """A drawing of each curve that the history has at least two points of."""
    looks = [entry for entry in entries if entry["phase"] == "train"]
    scores = [entry for entry in entries if entry["phase"] == "validate"]
    drawings = []

    def draw(heading: str, caption: str, ylabel: str, series: Mapping[str, tuple[Entries, str]]) -> None:
        lines = {}
        for name, (some, key) in series.items():
            known = [(entry["step"], entry[key]) for entry in some if is_number(entry.get(key))]
            if len(known) > 1:
                lines[name] = ([step for step, _ in known], [value for _, value in known])
        if lines:
            svg = figures.training_curves(
                lines, xlabel="step", ylabel=ylabel, title=f"{heading} over the steps of training"
            )
            drawings.append(Drawing(svg, heading, caption))

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
    if len({entry["margin"] for entry in looks if is_number(entry.get("margin"))}) > 1:
        draw("Margin", "The margin that was asked for at each step.", "margin", {"margin": (looks, "margin")})
    draw(
        "Directions",
        "Effective number of directions that the embeddings of a batch use. Towards one or two, they are collapsing.",
        "effective rank",
        {"rank": (looks, "rank")},
    )
    eers = [entry["validation_eer"] for entry in scores if is_number(entry.get("validation_eer"))]
    if eers:
        draw(
            "Validation EER",
            f"On identities held out for this; the weights of the best point ({rate(min(eers))}) were kept.",
            "EER",
            {"EER": (scores, "validation_eer")},
        )
    draw(
        "Validation MAP@R",
        "Quality of the ranking on the same identities.",
        "MAP@R",
        {"MAP@R": (scores, "validation_map_at_r")},
    )
    return tuple(drawings)


def margin_drawing(curve: RunCurve) -> Drawing:
    """Which share of the triplets of identities never trained on a margin would leave active."""
    own = curve.trained_with if isinstance(curve.trained_with, int | float) else None
    few = curve.at_share(0.1)
    caption = (
        f"Of all triplets of {curve.samples:,} samples of {curve.identities} identities that training has not seen, "
        f"the share that each margin ({curve.distance} distance) leaves active. Trained with {curve.trained_with}."
    )
    if few is not None:
        caption += f" From a margin of {few:.2f} on more than a tenth is active."
    svg = figures.share_over_margin(
        curve.margins, curve.active, trained_with=own, title="Active triplets over the margin, on unseen identities"
    )
    return Drawing(svg, "Margin curve", caption)
