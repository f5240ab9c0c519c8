"""A gallery of enrolled people over Milvus: enroll, find, identify, forget; durable, and private by default."""

from __future__ import annotations

from tercet.gallery.answers import Enrolled, Match, Person, Removed
from tercet.gallery.audit import Audit
from tercet.gallery.decide import (
    Claim,
    Identification,
    RunnerUp,
    identify,
    identify_nothing,
    runner_up_margin,
    verify_claim,
)
from tercet.gallery.duplicates import alike
from tercet.gallery.engine import is_gallery_folder
from tercet.gallery.enrolment import Doubt, Prepared, prepare, retention_s
from tercet.gallery.gallery import Gallery
from tercet.gallery.opening import open_gallery
from tercet.gallery.quality import Quality, are_pictures, picture_bytes, quality_of
from tercet.gallery.seal import Seal, key_from_environment
from tercet.gallery.templates import Entry, Template, check_name
from tercet.gallery.transfer import export_gallery, import_gallery, read_export

__all__ = [
    "Audit",
    "Claim",
    "Doubt",
    "Enrolled",
    "Entry",
    "Gallery",
    "Identification",
    "Match",
    "Person",
    "Prepared",
    "Quality",
    "Removed",
    "RunnerUp",
    "Seal",
    "Template",
    "alike",
    "are_pictures",
    "check_name",
    "export_gallery",
    "identify",
    "identify_nothing",
    "import_gallery",
    "is_gallery_folder",
    "key_from_environment",
    "open_gallery",
    "picture_bytes",
    "prepare",
    "quality_of",
    "read_export",
    "retention_s",
    "runner_up_margin",
    "verify_claim",
]
