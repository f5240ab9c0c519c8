"""How a service is run: who may call it, how much one request may bring, how many are served at a time."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, final

from tercet.errors import DataError, InvalidOption

__all__ = ["LOOPBACK", "Settings", "check_key", "is_loopback", "read_keys"]

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_LEAST_KEY: Final = 16  # characters
_MOST_KEY_FILE: Final = 2**16


@final
@dataclass(frozen=True)
class Settings:
    """Limits and keys of a service.

    Args:
        keys: Whoever names one of them may call; empty: no key is asked for.
        names: Without a key: the names by which a browser may call this machine, so that no foreign page can make one
            of its own point here. None: any.
        max_file_bytes: Of one uploaded file.
        max_files: Of one enrolment.
        max_pixels: A picture whose header names more is refused before it is decoded.
        max_seconds: A recording whose header names more is refused before it is decoded.
        at_once: Requests that are worked on at a time, two for each core unless told; who comes beyond is refused.
        bytes_at_once: Bytes of uploads in memory at a time.
        upload_s: Seconds in which an upload must have arrived.
        per_minute: Verifications, identifications and searches a minute for each key (without keys: each address).
        purge_s: Seconds between removals of templates whose time is over.

    Raises:
        InvalidOption: A number that is not above 0.
    """

    keys: tuple[str, ...] = ()
    names: frozenset[str] | None = LOOPBACK
    max_file_bytes: int = 16 * 2**20
    max_files: int = 10
    max_pixels: int = 50_000_000
    max_seconds: float = 300.0
    at_once: int = field(default_factory=lambda: 2 * max(2, os.cpu_count() or 2))
    bytes_at_once: int = 256 * 2**20
    upload_s: float = 60.0
    per_minute: float = 120.0
    purge_s: float = 3600.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise InvalidOption(f"{one.name}={value}: must be above 0")

    def body_bytes(self, files: int) -> int:
        """Of one request that may bring so many files."""
        return min(files * self.max_file_bytes, self.bytes_at_once - 2**16) + 2**16


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in LOOPBACK or host.startswith("127.")


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file: one a line, blank lines and those that begin with # left out.

    Raises:
        DataError: It cannot be read, others than its owner may read it, or a key is too short or holds blanks.
    """
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise DataError(f"{path}: others may read it; first: chmod 600 {path}")
        with path.open("rb") as file:
            text = file.read(_MOST_KEY_FILE).decode()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text") from error
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise DataError(f"{path}: holds no key")
    for key in keys:
        check_key(key, str(path))
    return keys


def check_key(key: str, where: str) -> str:
    """The key, if it can be one; what is wrong with it is said without it.

    Raises:
        DataError: It is too short, or has letters that a header cannot carry.
    """
    if len(key) < _LEAST_KEY:
        raise DataError(
            f"{where}: a key of {len(key)} characters; {_LEAST_KEY} at least, for example: openssl rand -hex 32"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise DataError(f"{where}: a key may hold letters, digits and signs of ASCII, no blanks")
    return key
