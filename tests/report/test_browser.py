"""The page in a real browser, where there is one: nothing is refused by its own policy, and it fits a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercet.report import figures
from tercet.report.embedding_map import make_map
from tercet.report.page import Drawing, Page, Pair, Table, picture, render

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BROWSER, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def text() -> str:
    rng = np.random.default_rng(0)
    shown = [
        picture(rng.integers(0, 256, (1, 64, 64), np.uint8), identity="a" * 30, path="a/" + "b" * 60) for _ in "ab"
    ]
    svg = figures.training_curves({"loss": ([1, 2], [1, 0.5])}, xlabel="step", ylabel="loss", title="training")
    return render(
        Page(
            title="A page",
            summary=("said " * 60,),
            tables=(Table("Costs", ("figure", "value", "what it means"), (("minDCF", "0.5", "words " * 20),)),),
            columns=(("EER", "what it means"),),
            false_matches=(Pair(*shown, 0.5), Pair(*shown, 0.4)),
            training_drawings=(Drawing(svg, "Loss", "falls"),),
            map=make_map(
                rng.normal(size=(30, 4)).astype(np.float32),
                [f"id {n % 5}" for n in range(30)],
                [f"{n}.png" for n in range(30)],
                [rng.integers(0, 256, (1, 8, 8), np.uint8)] * 30,
                seed=0,
            ),
        )
    )


def browse(folder: Path, page: str, *flags: str) -> str:
    (folder / "page.html").write_text(page, "utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, (folder / "page.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def test_the_script_runs_under_the_pages_own_policy(text: str, tmp_path: Path) -> None:
    dom = browse(tmp_path, text, "--dump-dom")
    card = re.search(r'<div id="map-card"[^>]*>', dom)
    assert card is not None and "hidden" not in card.group()
    view = re.search(r'<div id="map-view"[^>]*>', dom)
    assert view is not None and 'tabindex="0"' in view.group() and "Arrow keys" in view.group()


def test_arrow_keys_go_from_sample_to_sample(text: str, tmp_path: Path) -> None:
    keys = "".join(
        f"document.getElementById('map-view').dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}));"
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown")
    )
    free = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"<script>{keys}</script></body>")
    dom = browse(tmp_path, free, "--dump-dom")
    marks = re.findall(r'class="mark([^"]*)"', dom)
    assert len(marks) == 30
    assert sum("here" in mark for mark in marks) == 1 and sum("own" in mark for mark in marks) == 6
    said = re.search(r'<p id="map-text"[^>]*>([^<]*)</p>', dom)
    assert said is not None and re.fullmatch(r"id \d · \d+\.png", said.group(1))


def test_nothing_is_wider_than_a_phone(text: str, tmp_path: Path) -> None:
    """In a frame of 360 pixels, because a window cannot be made so narrow."""
    measured = "<script>document.title = document.documentElement.scrollWidth;</script></body>"
    inner = re.sub(r"<meta http-equiv[^>]*>", "", text).replace(
        "</body>", measured.replace("document.title", "parent.document.title")
    )
    quoted = inner.replace("&", "&amp;").replace('"', "&quot;")
    outer = f'<!DOCTYPE html><iframe srcdoc="{quoted}" style="width:360px;height:800px;border:0"></iframe>'
    dom = browse(tmp_path, outer, "--dump-dom")
    title = re.search(r"<title>(\d+)</title>", dom)
    assert title is not None and int(title.group(1)) <= 360


def test_it_is_drawn_light_dark_and_on_paper(text: str, tmp_path: Path) -> None:
    corners = []
    for mode in (1, 0):
        file = tmp_path / f"{mode}.png"
        browse(
            tmp_path,
            text,
            f"--screenshot={file}",
            "--window-size=900,1200",
            f"--blink-settings=preferredColorScheme={mode}",
        )
        with Image.open(file) as shot:
            pixels = np.asarray(shot.convert("L"))
        assert pixels.std() > 5
        corners.append(int(pixels[2, 2]))
    assert corners[0] > 240 and corners[1] < 40
    browse(tmp_path, text, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
