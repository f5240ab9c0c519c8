"""How much is taken in: requests at a time, bytes in memory, calls a minute; what is beyond gets an answer at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

from tercet.service.refusal import Refusal

__all__ = ["Admission", "Rate"]

_MOST_CALLERS: Final = 10_000


@final
class Admission:
    """Counts what is inside; for one event loop.

    Nothing waits outside: who cannot be served now is told so at once, and when to come again, so that what is inside
    is served in good time however many want in.
    """

    def __init__(self, at_once: int, bytes_at_once: int) -> None:
        self._at_once = at_once
        self._bytes_at_once = bytes_at_once
        self.working = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        """Whether there is no place among those that are worked on."""
        return self.working >= self._at_once

    def check(self) -> None:
        """Refuse what could not be worked on.

        Raises:
            Refusal: 503.
        """
        if self.full:
            raise Refusal(503, "too many requests at once; come again in a second", retry_s=1, kind="busy")

    @contextmanager
    def memory(self, size: int) -> Iterator[None]:
        """Room for an upload of at most so many bytes.

        Raises:
            Refusal: 503, there is none.
        """
        if self.bytes + size > self._bytes_at_once:
            raise Refusal(503, "too many uploads at once; come again in a few seconds", retry_s=3, kind="busy")
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    @contextmanager
    def work(self) -> Iterator[None]:
        """A place among those that are worked on.

        Raises:
            Refusal: 503, there is none.
        """
        self.check()
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1


@final
class Rate:
    """So many calls a minute for each caller, a sixth of them (ten seconds' worth) in one go; for one event loop.

    A bucket per caller, of the 10,000 that called last.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, per_minute / 6)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float | None = None) -> None:
        """Count one call.

        Raises:
            Refusal: 429, too many.
        """
        now = time.monotonic() if now is None else now
        left, last = self._left.pop(caller, (self._most, now))
        left = min(self._most, left + (now - last) * self._per_second)
        allowed = left >= 1
        self._left[caller] = (left - 1 if allowed else left), now
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        if not allowed:
            wait_s = int((1 - left) / self._per_second) + 1
            raise Refusal(429, f"too many calls; come again in {wait_s} s", retry_s=wait_s, kind="rate")
