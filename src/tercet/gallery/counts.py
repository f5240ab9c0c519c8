"""How many templates a search compares with, remembered until a write or an expiry: counting reads them all."""

from __future__ import annotations

import threading
import time
from typing import Final, final

__all__ = ["Counts"]

_MOST: Final = 1000  # different sets of tags


@final
class Counts:
    """Counts by tags, of a gallery that only this process writes to; safe to use from several threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[float, int]] = {}
        self._lock = threading.Lock()
        self.writes = 0

    def get(self, tags: tuple[str, ...]) -> int | None:
        """The count, where it is known to be true now."""
        with self._lock:
            until_ms, count = self._known.get(tags, (0.0, 0))
            return count if time.time() * 1000 < until_ms else None

    def keep(self, tags: tuple[str, ...], count: int, *, until_ms: float, writes: int) -> None:
        """Remember a count that was read when there had been so many `writes`, if no other came since."""
        with self._lock:
            if writes == self.writes and len(self._known) < _MOST:
                self._known[tags] = until_ms, count

    def clear(self) -> None:
        """Forget all: something was written."""
        with self._lock:
            self.writes += 1
            self._known.clear()
