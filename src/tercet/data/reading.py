"""The bytes of a sample's file: a regular file, not too large, or one line that says why not."""

from __future__ import annotations

import stat
from pathlib import Path

from tercet.errors import DataError

__all__ = ["read_file"]


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file of at most `max_bytes`.

    Raises:
        DataError: where there is no such file, it cannot be read, or it is too large: "path: reason".
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path}: is not a file")
        if found.st_size > max_bytes:
            raise DataError(f"{path}: is larger than {max_bytes} bytes")
        with path.open("rb") as file:
            return file.read(found.st_size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
