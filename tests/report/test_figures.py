from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.report import figures


def curve(n: int) -> figures.Curve:
    fmr = np.linspace(1, 0, n)
    return fmr, (1 - fmr) ** 2


@pytest.mark.parametrize(
    "svg",
    [
        figures.roc_curve({"a": curve(20), "b": curve(5)}, title="the title"),
        figures.det_curve({"a": curve(20), "b": curve(5)}, title="the title"),
        figures.histogram(np.array([0.2, 0.9]), np.array([-0.4, 0.1]), threshold=0.5, title="the title"),
        figures.training_curves({"a": ([1, 2, 3], [3, 2, 1])}, xlabel="x", ylabel="y", title="the title"),
    ],
)
def test_diagram_is_one_svg_element_in_the_colours_of_the_page(svg: str) -> None:
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert root.get("aria-label") == "the title"
    assert root.get("viewBox")
    assert not re.search(r"#0[1-7]0[2-8]0[3-9]", svg)
    assert "var(--series-1)" in svg
    assert "<style" not in svg
    assert "http" not in svg


def test_two_diagrams_share_no_id() -> None:
    first = figures.roc_curve({"a": curve(20)}, title="one")
    second = figures.roc_curve({"a": curve(20)}, title="two")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_the_same_figures_give_the_same_bytes() -> None:
    assert figures.det_curve({"a": curve(50)}, title="t") == figures.det_curve({"a": curve(50)}, title="t")


@pytest.mark.parametrize("scores", [np.full(10, 0.5), np.full(10, 1.0), np.array([-1.0, 1.0])])
def test_histogram_takes_scores_that_are_all_equal_or_at_the_ends(scores: np.ndarray) -> None:
    assert "<svg" in figures.histogram(scores, scores, threshold=None, title="t")


def test_curves_of_a_perfect_and_of_a_collapsed_model_can_be_drawn() -> None:
    perfect = (np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    collapsed = (np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    curves = {"perfect": perfect, "collapsed": collapsed}
    assert "<svg" in figures.roc_curve(curves, title="t")
    assert "<svg" in figures.det_curve(curves, title="t")


def test_text_stays_text_and_is_escaped() -> None:
    svg = figures.roc_curve({"<b>": curve(5)}, title='a "quoted" <title>')
    assert "<b>" not in svg
    assert "false match rate" in svg
    assert ElementTree.fromstring(svg.replace("xlink:href", "href")).get("aria-label") == 'a "quoted" <title>'


@given(st.integers(2, 5000), st.integers(0, 2**31))
def test_thinning_keeps_both_ends_and_stays_on_the_line(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.random(n)), np.sort(rng.random(n))
    few_x, few_y = figures._thin(x, y)
    assert len(few_x) <= 400 or n <= 400
    assert (few_x[0], few_y[0], few_x[-1], few_y[-1]) == (x[0], y[0], x[-1], y[-1])
    assert set(zip(few_x, few_y, strict=True)) <= set(zip(x, y, strict=True))
