"""The audit log of a gallery: who was enrolled, forgotten or purged, and when, without names.

One JSON object per line, appended and flushed to the disk before an operation begins and after it is done. People are
named by a pseudonym, a hash with a key that lies beside the log: with the key at hand one can look up whether a given
name was forgotten; without it, or once it is deleted, the log names nobody.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from tercet.errors import GalleryError
from tercet.gallery.store import Place

__all__ = ["Audit", "home_of"]


def home_of(place: Place) -> Path:
    """Where this machine keeps the audit log of a gallery: in its folder; for a server in the user's state folder."""
    if not place.remote:
        return place.path / "tercet"
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "tercet" / "galleries" / hashlib.sha256(place.shown.encode()).hexdigest()[:16]


@final
class Audit:
    """Appends to the audit log in a folder, which is made where it is not there (mode 0700, files 0600).

    Raises:
        GalleryError: The folder or a file in it cannot be written.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "audit.jsonl"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = _secret(home / "audit.key")
        except OSError as error:
            raise GalleryError(f"{home}: cannot be written ({error.strerror or error})") from error

    def pseudonym(self, identity: str) -> str:
        """What the log calls an identity: 16 hex digits."""
        return hmac.new(self._key, identity.encode(), hashlib.sha256).hexdigest()[:16]

    @contextmanager
    def operation(self, event: str, identities: Sequence[str], **facts: Any) -> Iterator[dict[str, Any]]:
        """Log the begin of an operation, and its end as "done" or "failed"; what the body adds to the dict is logged.

        A line "begin" without its end: the process was killed between, and the operation may or may not have happened.
        """
        entry: dict[str, Any] = {
            "operation": secrets.token_hex(8),
            "event": event,
            "subjects": [self.pseudonym(identity) for identity in identities],
            **facts,
        }
        self._append({"state": "begin", **entry})
        result: dict[str, Any] = {}
        try:
            yield result
        except BaseException:
            self._append({"state": "failed", **entry, **result})
            raise
        self._append({"state": "done", **entry, **result})

    def entries(self) -> list[dict[str, Any]]:
        """Every line of the log; a last one that a kill has cut off is left out."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def _append(self, entry: dict[str, Any]) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        data = json.dumps({"time": time, **entry}, allow_nan=False).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                end = os.fstat(descriptor).st_size
                if end and os.pread(descriptor, 1, end - 1) != b"\n":
                    data = b"\n" + data  # a line that a kill has cut off stays alone
                os.write(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise GalleryError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def _secret(path: Path) -> bytes:
    """The key in a file; drawn and written where there is none or a kill has cut it off."""
    if path.is_file() and path.stat().st_size == 32:
        return path.read_bytes()
    key = secrets.token_bytes(32)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    return key
