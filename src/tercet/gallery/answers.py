"""What a gallery answers: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tercet.gallery.templates import Entry

__all__ = ["Enrolled", "Match", "Person", "Removed"]


@final
@dataclass(frozen=True)
class Enrolled:
    """What an enrolment did: `templates` are stored now, `replaced` of them (or of older files) were there before."""

    templates: int
    identities: int
    replaced: int


@final
@dataclass(frozen=True)
class Match:
    """One template that a search found, with its cosine similarity to the probe."""

    identity: str
    path: str
    score: float
    entry: Entry


@final
@dataclass(frozen=True)
class Person:
    """One enrolled identity."""

    identity: str
    templates: int
    tags: tuple[str, ...]
    enrolled: str
    expires: str | None


@final
@dataclass(frozen=True)
class Removed:
    """What was removed: templates and pictures, where they had come from, and whether the bytes are gone from the disk.

    `erased` is False on a server, which rewrites its files when it sees fit.
    """

    identities: tuple[str, ...]
    templates: int
    pictures: int
    paths: tuple[str, ...]
    erased: bool
