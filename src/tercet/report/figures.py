"""The report's diagrams as inline SVG that follows the page's light or dark colours.

Drawn by matplotlib's SVG writer with placeholder colours, which are then replaced by the page's CSS variables; text
stays text. Every line has its own dash pattern as well as its own colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.stats import norm

__all__ = [
    "det_curve",
    "histogram",
    "likelihoods",
    "reliability",
    "roc_curve",
    "share_over_margin",
    "training_curves",
]

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # false match rate, false non-match rate

# Placeholder -> CSS variable. Odd values, so that no other colour of a drawing is one of them.
_COLOURS = {
    "#010203": "var(--ink)",
    "#020304": "var(--muted)",
    "#030405": "var(--line)",
    "#040506": "var(--series-1)",
    "#050607": "var(--series-2)",
    "#060708": "var(--series-3)",
    "#070809": "var(--paper)",
}
_INK, _MUTED, _LINE, *_SERIES, _PAPER = _COLOURS
_DASHES = ("-", "--", ":")
_POINTS = 400

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": True,
    "legend.facecolor": _PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
}


def roc_curve(curves: Mapping[str, Curve], *, title: str) -> Markup:
    """True accept rate over false match rate (logarithmic) for each named system."""

    def draw(axes: Axes) -> None:
        for i, (name, (fmr, fnmr)) in enumerate(curves.items()):
            x, y = _thin(np.maximum(fmr, 1e-6), 1 - fnmr)
            axes.plot(x, y, label=name, **_line(i))
        smallest = min((float(fmr[fmr > 0].min(initial=1.0)) for fmr, _ in curves.values()), default=1e-3)
        axes.set(xscale="log", xlim=(max(smallest, 1e-5) / 1.2, 1), ylim=(0, 1.02))
        axes.xaxis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
        axes.yaxis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
        axes.set(xlabel="false match rate (impostors accepted)", ylabel="true accept rate (genuine accepted)")
        axes.legend(loc="lower right")

    return _svg(draw, title)


def det_curve(curves: Mapping[str, Curve], *, title: str) -> Markup:
    """False non-match rate over false match rate on normal-deviate axes; the diagonal crosses each line at its EER."""
    ticks = np.array([0.001, 0.01, 0.05, 0.2, 0.5, 0.8])

    def draw(axes: Axes) -> None:
        lowest = 0.0007
        for i, (name, (fmr, fnmr)) in enumerate(curves.items()):
            inside = (fmr > 0) & (fnmr > 0) & (fmr < 1) & (fnmr < 1)
            x, y = _thin(norm.ppf(np.maximum(fmr[inside], lowest)), norm.ppf(np.maximum(fnmr[inside], lowest)))
            axes.plot(x, y, label=name, **_line(i))
        limits = norm.ppf([lowest, 0.9])
        axes.plot(limits, limits, color=_MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        labels = [f"{100 * t:g} %" for t in ticks]
        axes.set(xlim=limits, ylim=limits, xlabel="false match rate", ylabel="false non-match rate")
        axes.set_xticks(norm.ppf(ticks), labels)
        axes.set_yticks(norm.ppf(ticks), labels)
        axes.legend(loc="upper right")

    return _svg(draw, title)


def histogram(
    genuine: npt.NDArray[np.floating[Any]],
    impostor: npt.NDArray[np.floating[Any]],
    *,
    threshold: float | None,
    title: str,
) -> Markup:
    """How the scores of pairs of one identity and of two identities are spread, each as shares of its own pairs."""
    low = float(min(genuine.min(initial=1.0), impostor.min(initial=1.0)))
    edges = np.linspace(min(low, 0.99), 1.0, 61)

    def draw(axes: Axes) -> None:
        for i, (name, scores) in enumerate((("same identity (genuine)", genuine), ("two identities", impostor))):
            share = np.histogram(np.clip(scores, edges[0], 1.0), edges)[0] / max(1, len(scores))
            axes.stairs(100 * share, edges, fill=True, color=_SERIES[i], alpha=0.25)
            axes.stairs(100 * share, edges, label=name, color=_SERIES[i], linewidth=1.8, linestyle=_DASHES[i])
        if threshold is not None:
            axes.axvline(threshold, color=_INK, linewidth=1.2, label=f"threshold {threshold:.3f}")
        axes.set(xlabel="score (cosine similarity)", ylabel="share of pairs, %", xlim=(edges[0], 1.0))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")

    return _svg(draw, title)


def likelihoods(
    genuine: npt.NDArray[np.floating[Any]], impostor: npt.NDArray[np.floating[Any]], *, title: str
) -> Markup:
    """How the log-likelihood ratios (base 10) of both kinds of pair are spread, with 0, where the evidence is even."""
    own, other = (np.clip(llr / np.log(10), -6, 6) for llr in (genuine, impostor))
    edges = np.linspace(min(own.min(), other.min(), -1), max(own.max(), other.max(), 1), 51)

    def draw(axes: Axes) -> None:
        for i, (name, values) in enumerate((("same identity (genuine)", own), ("two identities", other))):
            share = 100 * np.histogram(values, edges)[0] / max(1, len(values))
            axes.stairs(share, edges, fill=True, color=_SERIES[i], alpha=0.25)
            axes.stairs(share, edges, label=name, color=_SERIES[i], linewidth=1.8, linestyle=_DASHES[i])
        axes.axvline(0, color=_INK, linewidth=1.0)
        axes.set(xlabel="log10 likelihood ratio", ylabel="share of pairs, %", xlim=(edges[0], edges[-1]))
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")

    return _svg(draw, title)


def reliability(stated: Sequence[float], seen: Sequence[float], *, title: str) -> Markup:
    """Posterior that the calibration states against the share that is genuine, at even prior; the diagonal is right."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (1, 3)), label="as it should be")
        axes.plot(stated, seen, marker="o", markersize=5, label="as it is", **_line(0))
        axes.set(xlabel="stated chance of one identity", ylabel="share that is of one", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="upper left")

    return _svg(draw, title)


def share_over_margin(
    margins: npt.NDArray[np.float64], active: npt.NDArray[np.float64], *, trained_with: float | None, title: str
) -> Markup:
    """Share of active triplets over the margin, with the margin of the training where it is a number."""

    def draw(axes: Axes) -> None:
        axes.plot(margins, 100 * active, **_line(0))
        if trained_with is not None:
            axes.axvline(trained_with, color=_INK, linewidth=1.2, label=f"trained with {trained_with:g}")
            axes.legend(loc="best")
        axes.set(xlabel="margin", ylabel="active triplets, %", xlim=(0, float(margins.max())), ylim=(0, 102))

    return _svg(draw, title)


def training_curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str, title: str
) -> Markup:
    """Lines over the course of training: name -> (x, y)."""

    def draw(axes: Axes) -> None:
        for i, (name, (x, y)) in enumerate(series.items()):
            axes.plot(*_thin(np.asarray(x, np.float64), np.asarray(y, np.float64)), label=name, **_line(i))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        if len(series) > 1:
            axes.legend(loc="best")

    return _svg(draw, title)


def _line(i: int) -> dict[str, Any]:
    return {"color": _SERIES[i % 3], "linestyle": _DASHES[i % 3], "linewidth": 1.8}


def _thin(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Curve:
    """At most a few hundred points of a line, spread evenly along it as it is drawn; both ends stay."""
    if len(x) <= _POINTS:
        return x, y
    # Along the line, not along the index: a steep part with few pairs keeps its corners.
    steps = np.abs(np.diff(np.log10(np.maximum(np.abs(x), 1e-6)))) + np.abs(np.diff(y)) + 1e-9
    along = np.concatenate([[0.0], np.cumsum(steps)])
    keep = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _POINTS)).clip(0, len(x) - 1))
    return x[keep], y[keep]


def _svg(draw: Callable[[Axes], None], title: str) -> Markup:
    """Run a drawing and return the SVG element, with its title as the accessible name."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):  # the salt keeps ids apart between the page's figures
        figure = Figure(figsize=(6.0, 3.9), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)  # that style would reach the whole page
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # names such as axes_1 would repeat from figure to figure
    text = re.sub(r"<svg\b[^>]*>", lambda match: _accessible(match.group(), title), text, count=1)
    for placeholder, variable in _COLOURS.items():
        text = text.replace(placeholder, variable)
    return Markup(text)


def _accessible(tag: str, title: str) -> str:
    box = re.search(r'viewBox="([^"]*)"', tag)
    assert box is not None, "matplotlib writes a viewBox"
    label = Markup.escape(title)
    # The drawing's own xmlns attributes are addresses in form only; inline SVG in HTML needs none of them.
    return f'<svg viewBox="{box.group(1)}" role="img" aria-label="{label}">'
