"""One enrolled sample: as it is handed in, as it comes back, and as the row between."""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import GalleryError, InvalidInput
from tercet.gallery.seal import Seal

__all__ = ["Entry", "Template", "check_name", "entry_of", "key_of", "row_of"]

MAX_PICTURE_BYTES: Final = 32_000
_MAX_RECORD_BYTES: Final = 45_000  # sealed it grows by a third, and Milvus takes 65,535
_MAX_NAME_BYTES: Final = 512
_MAX_TAGS: Final = 64


@final
@dataclass(frozen=True, eq=False)
class Template:
    """One sample to enroll.

    Args:
        identity: Whose it is; kept as `check_name` writes it, tags too.
        vector: [D] float32, unit norm.
        content: A hash of the sample's bytes: the same content enrolled again for the same identity replaces.
        path: Where it came from; "" where nobody may know.
        tags: Words to filter a search by.
        metadata: JSON values that are kept beside it.
        picture: A small JPEG or PNG without metadata; empty: none.

    Raises:
        InvalidInput: A blank or too long name, a vector that is not finite or not of unit norm, too much of anything.
    """

    identity: str
    vector: npt.NDArray[np.float32]
    content: str
    path: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", check_name("identity", self.identity))
        object.__setattr__(self, "tags", tuple(check_name("tag", tag) for tag in self.tags))
        if len(self.tags) > _MAX_TAGS:
            raise InvalidInput(f"tags: {len(self.tags)}, more than the {_MAX_TAGS} allowed")
        if self.vector.ndim != 1 or not math.isclose(float(np.linalg.norm(self.vector)), 1, abs_tol=1e-3):
            raise InvalidInput(f"vector: of {self.identity} must be one row of unit norm")
        if len(self.picture) > MAX_PICTURE_BYTES:
            raise InvalidInput(f"picture: {len(self.picture)} bytes, more than the {MAX_PICTURE_BYTES} allowed")


@final
@dataclass(frozen=True)
class Entry:
    """One enrolled sample, without its vector.

    Args:
        key: Names it in the gallery.
        identity: Whose it is.
        path: Where it came from.
        content: Hash of its bytes.
        tags: Its words.
        metadata: What was kept beside it.
        enrolled: When, ISO 8601, UTC.
        expires: When it may be purged, or None.
        calibration: Id of the calibration that was in force, or None.
    """

    key: str
    identity: str
    path: str
    content: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    enrolled: str
    expires: str | None
    calibration: str | None


def check_name(what: str, text: str) -> str:
    """A name as it is kept: letters composed (NFC), no blanks around it; who types it otherwise means the same person.

    Raises:
        InvalidInput: It cannot name an identity or a tag: blank, too long, no valid text.
    """
    text = unicodedata.normalize("NFC", text).strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what}: {text!a} is not valid text") from error
    if not text.strip():
        raise InvalidInput(f"{what}: must not be blank")
    if size > _MAX_NAME_BYTES:
        raise InvalidInput(f"{what}: {size} bytes, more than the {_MAX_NAME_BYTES} allowed")
    return text


def key_of(subject: str, content: str) -> str:
    """The key of a template: the same for the same content of the same identity."""
    return hashlib.sha256(f"{subject}:{content}".encode()).hexdigest()[:32]


def row_of(
    template: Template, seal: Seal, *, enrolled: str, expires_ms: int, calibration: str | None
) -> dict[str, Any]:
    """A template as Milvus stores it: nothing in clear but what the seal leaves so."""
    subject = seal.token("identity", template.identity)
    try:
        record = json.dumps(
            {
                "identity": template.identity,
                "path": template.path.encode(errors="backslashreplace").decode(),
                "content": template.content,
                "tags": list(template.tags),
                "metadata": dict(template.metadata),
                "enrolled": enrolled,
                "expires_ms": expires_ms,
                "calibration": calibration,
            },
            allow_nan=False,
            ensure_ascii=False,
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"metadata: of {template.identity} is no JSON ({error})") from error
    if len(record.encode()) > _MAX_RECORD_BYTES:
        raise InvalidInput(f"metadata: of {template.identity} is longer than {_MAX_RECORD_BYTES} bytes")
    return {
        "key": key_of(subject, template.content),
        "subject": subject,
        "tags": sorted({seal.token("tag", tag) for tag in template.tags}),
        "record": seal.hide(record),
        "picture": seal.hide(base64.b64encode(template.picture).decode()) if template.picture else "",
        "expires": expires_ms,
        "vector": seal.turn(template.vector[None])[0].tolist(),
    }


def entry_of(row: Mapping[str, Any], seal: Seal) -> Entry:
    """A stored row as an entry.

    Raises:
        GalleryError: It is not one that `row_of` made with this seal.
    """
    try:
        values = json.loads(seal.show(row["record"]))
        return Entry(
            key=row["key"],
            identity=values["identity"],
            path=values["path"],
            content=values["content"],
            tags=tuple(values["tags"]),
            metadata=values["metadata"],
            enrolled=values["enrolled"],
            expires=_iso(values["expires_ms"]) if values["expires_ms"] else None,
            calibration=values["calibration"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise GalleryError(f"a record is damaged ({row.get('key')})") from error


def picture_of(stored: str, seal: Seal) -> bytes:
    """The picture in a row; empty: none."""
    try:
        return base64.b64decode(seal.show(stored), validate=True) if stored else b""
    except binascii.Error as error:
        raise GalleryError("a picture of the gallery is damaged") from error


def _iso(milliseconds: int) -> str:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).isoformat(timespec="seconds")
