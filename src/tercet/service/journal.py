"""The service's log: one JSON object a line on stderr; no media, vectors, file names, or people's names in clear."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
import traceback
from typing import Any, TextIO, final

__all__ = ["Journal", "ServerLog"]


@final
class Journal:
    """Writes lines; safe to use from several threads. A reader that has gone costs the lines, not the service."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **facts: Any) -> None:
        """One line; facts that are None are left out."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": event} | {k: v for k, v in facts.items() if v is not None})
        with self._lock:
            try:
                stream = self._stream or sys.stderr
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):
                return

    def defect(self, error: BaseException, **facts: Any) -> None:
        """An error that nobody foresaw: its kind and where it was raised. Its text may name people, and is left out."""
        frames = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        self.write("defect", error=type(error).__name__, at=frames[-12:], **facts)


@final
class ServerLog(logging.Handler):
    """Brings what the HTTP server logs of its own into the journal: the message's form, not what it is about."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._journal.write("server", level=record.levelname.lower(), message=str(record.msg).strip()[:200])
