"""What the report page shows, and its rendering: plain values in, one self-contained HTML text out.

The page loads nothing: styles and pictures are inside it, and its content security policy forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tercet.report.embedding_map import Map

__all__ = [
    "Drawing",
    "Fact",
    "Figure",
    "Page",
    "Pair",
    "Picture",
    "Query",
    "Ranked",
    "Suspect",
    "System",
    "Table",
    "picture",
    "render",
]

_SMALL = 32  # pixels; up to here a picture is kept exactly (PNG) and shown with hard pixel edges


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture inside the page: its data URI, what it is of, where it comes from, and what is heard with it."""

    uri: str
    identity: str
    path: str
    small: bool
    sound: str = ""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One search result."""

    picture: Picture
    score: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A query picture and its ranked results."""

    picture: Picture
    results: tuple[Ranked, ...]
    there: int  # pictures of the query's identity that could have been shown

    @property
    def found(self) -> int:
        """How many of them are shown."""
        return sum(result.correct for result in self.results)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures and their score."""

    first: Picture
    second: Picture
    score: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as text, with its 95 % interval where it is known."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table: a name and its figures, in the order of the page's columns."""

    name: str
    figures: tuple[Figure, ...]
    best: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """A diagram with its caption, which says in words what there is to see."""

    svg: Markup
    heading: str
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text with a caption and what is to be said below it; the first column heads the rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sample whose label may be wrong, beside the sample that says so."""

    picture: Picture
    other: Picture
    reason: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of the provenance list."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Page:
    """All that the report shows; empty parts are left out of the page."""

    title: str
    summary: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()  # heading, what it means
    systems: tuple[System, ...] = ()
    reading: tuple[str, ...] = ()
    score_drawings: tuple[Drawing, ...] = ()
    queries: tuple[Query, ...] = ()
    query_note: str = ""
    false_matches: tuple[Pair, ...] = ()
    false_non_matches: tuple[Pair, ...] = ()
    calibration: tuple[str, ...] = ()
    training_drawings: tuple[Drawing, ...] = ()
    provenance: tuple[Fact, ...] = ()
    settings: tuple[Fact, ...] = ()
    tables: tuple[Table, ...] = ()
    map: Map | None = None
    map_note: str = ""
    suspects: tuple[Suspect, ...] = ()
    suspect_note: str = ""
    calibration_drawings: tuple[Drawing, ...] = ()
    remarks: tuple[str, ...] = ()
    leakage: tuple[str, ...] = ()
    leakage_table: Table | None = None


def picture(
    pixels_CHW: npt.NDArray[np.uint8], *, identity: str, path: str, longest: int = 112, sound: bytes = b""
) -> Picture:
    """A picture from pixels [C, H, W]: PNG when it is small, otherwise a JPEG of at most `longest` pixels a side.

    `sound` is played beside it: an MP3 file's bytes.
    """
    channels, height, width = pixels_CHW.shape
    image = Image.fromarray(pixels_CHW[0] if channels == 1 else np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))
    small = max(height, width) <= _SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((longest, longest))
        image.save(buffer, "JPEG", quality=82)
    kind = "png" if small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    heard = f"data:audio/mpeg;base64,{base64.b64encode(sound).decode('ascii')}" if sound else ""
    return Picture(uri, identity, path, small, heard)


def render(page: Page) -> str:
    """The page as HTML text. Names from the data are escaped."""
    environment = Environment(
        loader=PackageLoader("tercet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = files("tercet.report").joinpath("templates/map.js").read_text("utf-8") if page.map else ""
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # The one script is named by its checksum: the policy lets no other run.
    context: dict[str, Any] = {"page": page, "script": Markup(script), "script_hash": mark if script else ""}
    return environment.get_template("report.html.j2").render(context)
