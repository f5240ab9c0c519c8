"""A gallery of enrolled people over Milvus: enroll, find, identify, forget; durable, and private by default."""

from __future__ import annotations

from tercet.gallery.answers import Enrolled, Match, Person, Removed
from tercet.gallery.gallery import Gallery
from tercet.gallery.opening import open_gallery
from tercet.gallery.templates import Entry, Template

__all__ = ["Enrolled", "Entry", "Gallery", "Match", "Person", "Removed", "Template", "open_gallery"]
