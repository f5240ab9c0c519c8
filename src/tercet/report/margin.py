"""What a margin would mean for a trained model, and what a sweep over margins found: figures and plots.

Legend: N samples, D embedding width, L margins.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tercet.data import SampleStore
from tercet.encoders import DescribedEncoder
from tercet.errors import InvalidInput
from tercet.functional import margin_curve
from tercet.protocol import scored_rows
from tercet.run import Model
from tercet.run.files import write_bytes
from tercet.run.model import embed_rows
from tercet.train.sweep import Trial, difference

__all__ = ["RunCurve", "curve_of_run", "curve_of_vectors", "plot_curve", "plot_sweep", "sweep_rows"]

MARGINS: Final = np.concatenate([[0.0], np.geomspace(0.005, 2.0, 48)])
SUFFIXES: Final = (".png", ".svg", ".pdf")
_MOST_ROWS: Final = 4096  # a sample of whole identities gives the same curve; the cost grows with the square


@final
@dataclass(frozen=True)
class RunCurve:
    """Loss and share of active triplets of a model's embeddings, as functions of the margin.

    Args:
        margins: [L], ascending, in units of `distance`.
        loss: [L], mean over all valid triplets.
        active: [L], share of the triplets with a loss.
        distance: The loss's distance that the run was trained with.
        trained_with: The run's own margin: a number, "auto" or "soft".
        samples: N.
        identities: How many they show; none of them was trained on.
    """

    margins: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    active: npt.NDArray[np.float64]
    distance: str
    trained_with: float | str
    samples: int
    identities: int

    def at_share(self, share: float) -> float | None:
        """The margin at which this share of the triplets is active, between the curve's points; None beyond them."""
        if not self.active[0] <= share <= self.active[-1]:
            return None
        return float(np.interp(share, self.active, self.margins))

    def to_json(self) -> dict[str, Any]:
        """The curve as plain JSON values."""
        return {
            "margins": self.margins.tolist(),
            "loss": self.loss.tolist(),
            "active_fraction": self.active.tolist(),
            "distance": self.distance,
            "trained_with": self.trained_with,
            "samples": self.samples,
            "identities": self.identities,
        }


def curve_of_run(model: Model, store: SampleStore, *, margins: Sequence[float] | None = None) -> RunCurve:
    """The exact curve over all triplets of the samples that the model has not been trained on.

    Of more than 4,096 samples whole identities are taken, evenly, until that many.

    Raises:
        DataError: Too little is left to score.
        InvalidInput: A margin that is not finite or below 0.
    """
    rows_N = _some(scored_rows(model, store).rows, store)
    return curve_of_vectors(
        model, embed_rows(model.encoder, store, rows_N), store.manifest.labels[rows_N], margins=margins
    )


def curve_of_vectors(
    model: Model,
    vectors_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    *,
    margins: Sequence[float] | None = None,
) -> RunCurve:
    """The same of the model's embeddings that are there already; whole identities of them, evenly, above 4,096."""
    kept = _some_of(labels_N)
    x_ND, labels_N = torch.from_numpy(vectors_ND[kept]), labels_N[kept]
    if isinstance(model.encoder, DescribedEncoder):  # the margin is one of the network's distances
        x_ND = model.encoder.as_trained(x_ND.to(model.encoder.whitening.device)).cpu()
    training = model.config["training"]
    wanted = sorted(margins) if margins is not None else MARGINS.tolist()
    found = margin_curve(x_ND, torch.from_numpy(labels_N), wanted, distance=str(training["distance"]))
    return RunCurve(
        margins=found.margins.numpy(),
        loss=found.loss.numpy(),
        active=found.active_fraction.numpy(),
        distance=str(training["distance"]),
        trained_with=training["margin"],
        samples=len(labels_N),
        identities=len(np.unique(labels_N)),
    )


def plot_curve(curve: RunCurve, file: Path) -> None:
    """Draw loss and active share over the margin into a PNG, SVG or PDF file.

    Raises:
        InvalidInput: Another suffix.
        RunError: It cannot be written.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(curve.margins, 100 * curve.active, color="#1f5fa8")
    above.set(ylabel="active triplets, %", ylim=(0, 102), title=f"{curve.identities} identities never seen in training")
    below.plot(curve.margins, curve.loss, color="#a8501f")
    below.set(ylabel="mean loss", xlabel=f"margin ({curve.distance} distance)")
    below.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if not isinstance(curve.trained_with, str):
            axes.axvline(curve.trained_with, color="#444444", linestyle=":", label="trained with")
            axes.legend(loc="best")
    _write(figure, file)


def plot_sweep(trials: Sequence[Trial], file: Path) -> None:
    """Draw the error rate of each margin, a dot for each seed and a mark for the mean, into a PNG, SVG or PDF file.

    Raises:
        InvalidInput: Another suffix.
        RunError: It cannot be written.
    """
    order = sorted(trials, key=lambda trial: (isinstance(trial.margin, str), trial.margin))
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, trial in enumerate(order):
        colour = "#999999" if trial.pruned else "#1f5fa8"
        axes.plot(
            [place] * len(trial.eer), [100 * eer for eer in trial.eer], "o", color=colour, alpha=0.5, markersize=4
        )
        axes.plot([place], [100 * trial.mean_eer], "_", color=colour, markersize=22, markeredgewidth=2)
    axes.set_xticks(range(len(order)), [f"{trial.margin}" for trial in order])
    axes.set(xlabel="margin", ylabel="validation EER, %", title="dots: seeds; bars: means; grey: stopped early")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    _write(figure, file)


def sweep_rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """The sweep as table cells: margin, seeds, mean EER, difference to the best over the common seeds, state."""
    best = trials[0]
    rows: list[tuple[str, ...]] = []
    for trial in trials:
        mean, low, high = difference(trial, best)
        off = "" if trial is best else f"{100 * mean:+.1f}"
        if trial is not best and low == low:  # NaN with a single common seed
            off += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        rows.append(
            (
                f"{trial.margin}",
                str(len(trial.eer)),
                f"{100 * trial.mean_eer:.1f} %",
                off,
                "stopped early" if trial.pruned else "",
            )
        )
    return rows


def _write(figure: Figure, file: Path) -> None:
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{file}: a plot ends in {', '.join(SUFFIXES)}")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "tercet"}):
        figure.savefig(buffer, format=file.suffix.lower()[1:], dpi=150)
    write_bytes(file, buffer.getvalue())


def _some(rows_N: npt.NDArray[np.int64], store: SampleStore) -> npt.NDArray[np.int64]:
    return rows_N[_some_of(store.manifest.labels[rows_N])]


def _some_of(labels_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Whole identities, evenly from all of them, up to the most rows."""
    if len(labels_N) <= _MOST_ROWS:
        return np.arange(len(labels_N))
    names = np.unique(labels_N)
    count = max(2, len(names) * _MOST_ROWS // len(labels_N))
    return np.flatnonzero(np.isin(labels_N, names[np.arange(count) * len(names) // count]))
