"""The measurements of `bench losses` as a picture: time and memory against the batch, both axes logarithmic."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["plot"]

SHOWN: Final = ("all", "hard", "semihard")
# Colours that differ in lightness too, by who is measured; tercet's engines are the same blue with other strokes.
COLOURS: Final = {
    "tercet": "#1f5fbf",
    "pytorch-metric-learning": "#d1620a",
    "sentence-transformers": "#7a3fa0",
    "torch, broadcast": "#4d7d31",
    "torch.nn, index triplets": "#a31f3c",
}
STROKES: Final = ("-", "--", "-.", ":")


def plot(result: Mapping[str, Any]) -> bytes:
    """A PNG: one row per case (at most three), seconds on the left, extra memory on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    measured = {entry["case"] for entry in result["entries"]}
    cases = [case for case in SHOWN if case in measured] or sorted(measured)[:1]
    figure = Figure(figsize=(11, 0.6 + 3.9 * max(1, len(cases))), layout="constrained")
    axes = figure.subplots(max(1, len(cases)), 2, squeeze=False, sharex=True)
    for (time, memory), case in zip(axes, cases, strict=False):
        _lines(time, memory, [entry for entry in result["entries"] if entry["case"] == case])
        unit = result["unit"]["steps"]
        time.plot(*_points(unit, "seconds", 1e3), color="0.55", linewidth=1, zorder=1)
        memory.plot(*_points(unit, "extra", 1e-6), color="0.55", linewidth=1, label="one product x @ x.T", zorder=1)
        limit = result["setting"]["memory"] / 1e6
        memory.axhline(limit, color="0.2", linewidth=0.8, linestyle=(0, (1, 2)))
        memory.annotate(
            f"limit {limit:,.0f} MB", (0.01, limit), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
        )
        time.set_title(f"{case}: time of a step, ms", loc="left", fontsize=10)
        memory.set_title(f"{case}: memory beside the batch, MB", loc="left", fontsize=10)
        for axis in (time, memory):
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(True, which="major", color="0.9", linewidth=0.7)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        memory.set_ylim(bottom=0.1)
        memory.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axis in axes[-1]:
        axis.set_xlabel("rows of the batch")
    setting, machine = result["setting"], result["machine"]
    figure.suptitle(
        f"loss with gradient, {setting['width']} columns, {setting['samples_per_class']} per class, "
        f"{machine['device']}, {setting['threads']} threads; tercet {machine['tercet']}, torch {machine['torch']}",
        fontsize=10,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def _points(steps: list[dict[str, float]], key: str, scale: float) -> tuple[list[float], list[float]]:
    # A step that takes no more than the allocator had at hand is shown at the lower edge.
    return [step["rows"] for step in steps], [max(scale * step[key], 0.1 if key == "extra" else 0.0) for step in steps]


def _lines(time: Any, memory: Any, entries: list[dict[str, Any]]) -> None:
    strokes = iter(STROKES * len(entries))
    for entry in entries:
        name = entry["contender"]
        ours = name.startswith("tercet")
        style = {
            "color": COLOURS["tercet" if ours else name],
            "linestyle": next(strokes) if ours else "-",
            "linewidth": 2.2 if ours else 1.6,
            "marker": "o",
            "markersize": 4 if ours else 3,
        }
        time.plot(*_points(entry["steps"], "seconds", 1e3), **style)
        memory.plot(*_points(entry["steps"], "extra", 1e-6), label=name, **style)
