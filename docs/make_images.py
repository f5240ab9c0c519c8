"""Makes the picture of the README, docs/images/retrieval.png, from a run of the demonstration.

    tercet demo --out demo-run
    python docs/make_images.py demo-run

Queries are drawn, not chosen: the same draw as in the run's report. Test digits only, which the model has not been
trained on. A solid frame and a tick mark the right digit, a dashed frame and a cross a wrong one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tercet
from tercet.data import Manifest, SampleStore, read_data
from tercet.evaluate import retrieval_per_query
from tercet.report.examples import draw_queries

QUERIES, RESULTS = 6, 10
INK, RIGHT, WRONG = "#1b1f24", "#1c6b33", "#b3261e"
OUT = Path(__file__).parent / "images" / "retrieval.png"


def main(run: Path) -> None:
    """Search for drawn test digits among all other test digits and draw what comes up."""
    model = tercet.load(run)
    found = read_data(run / "data" / "digits", suffixes=model.front_end.SUFFIXES)
    with SampleStore.read(test_digits(found, model), model.front_end) as store:
        labels_N = store.manifest.labels
        pixels_NCHW = store.take(np.arange(len(store))).numpy()
        per_query = retrieval_per_query(model.embed(store), labels_N, ks=(RESULTS,))
    queries = draw_queries(labels_N, per_query.included, count=QUERIES, seed=0)

    figure = Figure(figsize=(8.8, 0.9 * len(queries) + 0.35), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(queries), RESULTS + 2, width_ratios=[1, 0.25] + [1] * RESULTS, left=0.02, right=0.98, top=0.93, bottom=0.02
    )
    for row, query in enumerate(queries):
        shown = [
            (0, query, None),
            *((place + 2, hit, labels_N[hit] == labels_N[query]) for place, hit in enumerate(per_query.nearest[query])),
        ]
        for column, picture, right in shown:
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(pixels_NCHW[picture, 0], cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            if right is not None:
                colour = RIGHT if right else WRONG
                frame = Rectangle((-0.5, -0.5), 8, 8, fill=False, edgecolor=colour, linewidth=4)
                frame.set_linestyle("-" if right else (0, (2, 1)))
                axes.add_patch(frame)
                axes.text(
                    7.2,
                    7.2,
                    "✓" if right else "✗",
                    color="white",
                    backgroundcolor=colour,
                    size=7,
                    ha="right",
                    va="bottom",
                )
            if row == 0 and column == 0:
                axes.set_title("query", size=10, color=INK, pad=5)
            elif row == 0 and column == 2:
                axes.set_title("most alike, best first", size=10, color=INK, pad=5, loc="left")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(OUT)


def test_digits(found: Manifest, model: tercet.Model) -> Manifest:
    """The pictures of the digits that the run kept for its test."""
    return found.of(model.split.split.test)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
