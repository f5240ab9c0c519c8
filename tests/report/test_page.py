from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tercet.report import figures
from tercet.report.embedding_map import make_map
from tercet.report.page import (
    Drawing,
    Fact,
    Figure,
    Page,
    Pair,
    Picture,
    Query,
    Ranked,
    Suspect,
    System,
    Table,
    picture,
    render,
)

VOID = {"meta", "img", "br", "link", "path", "use"}


class Outline(HTMLParser):
    """Collects what a page is made of, and checks on the way that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    rng = np.random.default_rng(0)
    small = [
        picture(rng.integers(0, 256, (1, 8, 8), np.uint8), identity=f"id {k}", path=f"id {k}/a.png") for k in range(4)
    ]
    scores = rng.uniform(-1, 1, 50)
    return Page(
        title="a title",
        summary=("a summary",),
        columns=(("EER", "what it means"),),
        systems=(
            System("raw pixels", (Figure("20 %"),)),
            System("trained model", (Figure("10 %", "8, 12"),), best=True),
        ),
        reading=("how to read it",),
        score_drawings=(
            Drawing(figures.histogram(scores, scores, threshold=0.1, title="scores"), "Scores", "a caption"),
            Drawing(figures.roc_curve({"m": (np.linspace(0, 1, 9), np.linspace(1, 0, 9))}, title="roc"), "ROC", "said"),
        ),
        queries=(Query(small[0], (Ranked(small[1], 0.9, True), Ranked(small[2], 0.8, False)), there=1),),
        query_note="drawn at random",
        false_matches=(Pair(small[0], small[1], 0.95),),
        false_non_matches=(Pair(small[2], small[3], -0.1),),
        calibration=("not calibrated",),
        training_drawings=(
            Drawing(
                figures.training_curves({"loss": ([1, 2], [1, 0.5])}, xlabel="step", ylabel="loss", title="training"),
                "Loss",
                "falls",
            ),
        ),
        provenance=(Fact("Command", "tercet train data --out run", code=True),),
        settings=(Fact("margin", "0.2"),),
        tables=(Table("Costs", ("figure", "value"), (("Cllr", "0.3 bits"),), ("a note",)),),
        map=make_map(
            rng.normal(size=(6, 4)).astype(np.float32),
            ["a", "a", "b", "b", "c", "c"],
            [f"{n}.png" for n in range(6)],
            [rng.integers(0, 256, (1, 8, 8), np.uint8)] * 6,
            seed=0,
        ),
        map_note="a map",
        suspects=(Suspect(small[0], small[1], "labelled one, looks like another"),),
        suspect_note="in doubt",
        calibration_drawings=(Drawing(figures.reliability([0.1, 0.9], [0.2, 0.8], title="believed"), "B", "c"),),
        remarks=("Step 5: it shrank",),
        leakage=("nothing was found",),
        leakage_table=Table("Trivial", ("property", "AUC"), (("mean grey", "0.5"),)),
    )


def test_page_nests_and_has_one_title_and_headings_in_order(page: Page) -> None:
    outline = Outline(render(page))
    headings = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert outline.all("html") == [{"lang": "en"}]
    assert len(outline.all("main")) == 1


def test_every_picture_and_diagram_has_a_name_for_those_who_do_not_see_it(page: Page) -> None:
    outline = Outline(render(page))
    alts = [image["alt"] for image in outline.all("img")]
    assert len(alts) == 9
    assert all(alts)
    assert "query, identity id 0" in alts
    assert "result 1, identity id 1, right" in alts
    assert "result 2, identity id 2, wrong" in alts
    assert "in doubt, labelled id 0" in alts
    labels = [str(svg["aria-label"]) for svg in outline.all("svg")]
    assert [label for label in labels if not label.startswith("Map of 6 samples by ")] == [
        "scores",
        "roc",
        "believed",
        "training",
    ]
    assert len(labels) == 5
    assert all(svg["role"] == "img" for svg in outline.all("svg"))


def test_right_and_wrong_differ_by_more_than_colour(page: Page) -> None:
    text = render(page)
    assert "✓" in text and "✗" in text
    assert re.search(r"\.wrong img \{ border: 3px dashed", text)
    assert "1 of 1 found" in text


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(page: Page) -> None:
    outline = Outline(render(page))
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {link["href"] for link in outline.all("a")}
    assert targets
    assert targets <= {f"#{name}" for name in ids}


def test_page_asks_nothing_of_any_host(page: Page) -> None:
    text = render(page)
    plain = re.sub(r"(?:base64,|sha256-)[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"(?:https?:)?//[a-z0-9]", plain, flags=re.IGNORECASE)
    assert "@import" not in text
    assert all((image["src"] or "").startswith("data:image/") for image in Outline(text).all("img"))
    assert [script for script in Outline(text).all("script") if script.get("src")] == []
    assert not Outline(text).all("link")
    assert "default-src 'none'" in text


def test_the_one_script_is_the_one_that_the_policy_names(page: Page) -> None:
    text = render(page)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (m["content"] for m in Outline(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and f"script-src 'sha256-{mark}';" in policy
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|import|eval)\b", script)
    plain = render(Page(title="t", summary=("s",)))
    assert "<script" not in plain and "script-src" not in plain


def test_the_map_is_there_without_its_script(page: Page) -> None:
    outline = Outline(render(page))
    marks = [attrs for name, attrs in outline.tags if name == "path" and "mark" in (attrs.get("class") or "")]
    assert [mark["data-who"] for mark in marks] == ["a", "a", "b", "b", "c", "c"]
    assert {attrs.get("id"): attrs for _, attrs in outline.tags}["map-card"].keys() >= {"hidden"}
    assert "".join(outline.text).count("Map of the samples") == 1
    assert "tabindex" not in {attrs.get("id"): attrs for _, attrs in outline.tags}["map-view"]


def test_what_is_told_of_leakage_remarks_and_costs_stands_in_the_page(page: Page) -> None:
    said = " ".join("".join(Outline(render(page)).text).split())
    for words in (
        "Step 5: it shrank",
        "nothing was found",
        "mean grey",
        "Cllr",
        "0.3 bits",
        "a note",
        "looks like another",
    ):
        assert words in said


def test_what_is_heard_is_played_beside_its_picture_and_has_a_name() -> None:
    seen = np.zeros((1, 80, 100), np.uint8)
    spoken = [picture(seen, identity="ann", path=f"ann/{k}.wav", sound=b"an MP3 file") for k in range(2)]
    shown = Outline(render(Page(title="t", summary=("s",), false_matches=(Pair(*spoken, score=0.5),))))
    heard = shown.all("audio")
    assert [player["src"] for player in heard] == ["data:audio/mpeg;base64,YW4gTVAzIGZpbGU="] * 2
    assert [player["aria-label"] for player in heard] == [f"{n} sample, identity ann" for n in ("first", "second")]
    assert "controls" in heard[0] and "autoplay" not in heard[0]
    (policy,) = (meta["content"] for meta in shown.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "media-src data:;" in policy


def test_names_from_the_data_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    bad = Picture("data:image/png;base64,AA==", evil, evil, True)
    text = render(
        Page(
            title=evil,
            summary=(evil,),
            queries=(Query(bad, (Ranked(bad, 1.0, True),), there=1),),
            false_matches=(Pair(bad, bad, 1.0),),
        )
    )
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_page_without_material_leaves_its_parts_out() -> None:
    outline = Outline(render(Page(title="t", summary=("s",), calibration=("none",))))
    ids = {attrs["id"] for _, attrs in outline.tags if "id" in attrs}
    assert ids == {"content", "calibration", "provenance"}


def test_small_pictures_are_kept_exactly_and_large_ones_are_made_small() -> None:
    rng = np.random.default_rng(1)
    exact = rng.integers(0, 256, (1, 8, 8), np.uint8)
    kept = picture(exact, identity="x", path="p")
    assert kept.small
    np.testing.assert_array_equal(_pixels(kept), exact[0])
    large = picture(rng.integers(0, 256, (3, 300, 150), np.uint8), identity="x", path="p", longest=100)
    assert not large.small
    assert _pixels(large).shape == (100, 50, 3)


def _pixels(shown: Picture) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(shown.uri.partition("base64,")[2]))) as image:
        return np.asarray(image)


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_colours_have_the_contrast_that_wcag_aa_asks_in_light_and_dark(page: Page) -> None:
    modes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", render(page), re.DOTALL)
    ]
    assert len(modes) == 2
    for colours in modes:
        for ink in ("ink", "muted", "link", "right", "wrong", "series-1", "series-2", "series-3"):
            for ground in ("paper", "panel"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
