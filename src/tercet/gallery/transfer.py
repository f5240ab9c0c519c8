"""A gallery as one file, and back: an .npz of arrays and JSON text, without pickle.

The file is also one of `tercet embed`: its vectors, paths and identities can be searched as they are. It is in clear,
also where the gallery is sealed: whoever keeps it keeps people's templates.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tercet.errors import DataError, GalleryError, InvalidInput
from tercet.gallery.answers import Enrolled
from tercet.gallery.gallery import Gallery
from tercet.gallery.templates import Template

__all__ = ["export_gallery", "import_gallery", "read_export"]

_MOST_RECORD_BYTES: Final = 2**31
Progress = Callable[[int, int], None]


def export_gallery(gallery: Gallery, path: Path) -> int:
    """Write every template that is not expired, with metadata and pictures; their number. Mode 0600.

    Retention times are not taken along: they count from the enrolment, and importing is one.

    Raises:
        GalleryError: There is nothing to export.
        RunError: The file cannot be written.
    """
    from tercet.run.files import write_bytes  # with torch, which the rest of a gallery does without

    vectors, records, paths, identities = [], [], [], []
    for entry, vector_D, picture in gallery.entries():
        vectors.append(vector_D)
        paths.append(entry.path)
        identities.append(entry.identity)
        records.append(
            {
                "content": entry.content,
                "tags": list(entry.tags),
                "metadata": dict(entry.metadata),
                "enrolled": entry.enrolled,
                "picture": base64.b64encode(picture).decode(),
            }
        )
    if not vectors:
        raise GalleryError(f"{gallery.name}: nothing to export")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        vectors=np.stack(vectors),
        paths=np.array(paths, dtype=np.str_),
        identities=np.array(identities, dtype=np.str_),
        fingerprint=np.array(gallery.model),
        records=np.frombuffer(json.dumps(records, allow_nan=False).encode(), np.uint8),
    )
    write_bytes(path, buffer.getvalue())
    path.chmod(0o600)
    return len(vectors)


def read_export(path: Path) -> tuple[str, list[Template]]:
    """The model's fingerprint and the templates in a file of `export_gallery`, or of `tercet embed`.

    Raises:
        DataError: It is missing, damaged, or holds a row without an identity.
    """
    from tercet.run import Vectors

    vectors = Vectors.read(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            text = arrays["records"].tobytes() if "records" in arrays else b"null"
        if len(text) > _MOST_RECORD_BYTES:
            raise DataError(f"{path}: records of more than {_MOST_RECORD_BYTES} bytes")
        records: list[dict[str, Any]] | None = json.loads(text)
        if records is None:
            # Vectors without records: rows of one file are told apart by their path.
            records = [{"content": name, "tags": [], "metadata": {}, "picture": ""} for name in vectors.paths]
        if len(records) != len(vectors):
            raise DataError(f"{path}: vectors and records differ in number")
        templates = [
            Template(
                identity=vectors.identities[n],
                vector=vectors.vectors[n],
                content=str(record["content"]),
                path=vectors.paths[n],
                tags=tuple(map(str, record["tags"])),
                metadata=dict(record["metadata"]),
                picture=base64.b64decode(record["picture"], validate=True),
            )
            for n, record in enumerate(records)
        ]
    except InvalidInput as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise DataError(f"{path}: damaged, its records cannot be read") from error
    return vectors.fingerprint, templates


def import_gallery(gallery: Gallery, path: Path, *, progress: Progress | None = None) -> Enrolled:
    """Enroll what `export_gallery` wrote.

    Raises:
        DataError: The file is damaged.
        GalleryError: Its vectors are of another model than the gallery's.
    """
    model, templates = read_export(path)
    if model != gallery.model:
        raise GalleryError(f"{path}: vectors of model {model}; {gallery.name} holds those of {gallery.model}")
    return gallery.enroll(templates, progress=progress)
