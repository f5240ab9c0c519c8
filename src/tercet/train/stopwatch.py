"""How much of a training's time is spent in the encoder: what is left over is the price of all else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, final

import torch

__all__ = ["Stopwatch"]


@final
class Stopwatch:
    """Adds up the seconds inside its `with` blocks.

    A GPU works on after the call that gave it the work; so there the block begins and ends when all work is done, which
    costs some microseconds.

    Args:
        device: What does the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inside = 0.0
        self._started = 0.0
        self._since = time.perf_counter()

    def share_outside(self) -> float:
        """The share of the time since the last call that was spent outside, 0 to 1; counts anew from here."""
        now = time.perf_counter()
        whole, inside = now - self._since, self._inside
        self._since, self._inside = now, 0.0
        return min(1.0, max(0.0, 1 - inside / whole)) if whole > 0 else 0.0

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __enter__(self) -> Self:
        self._started = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inside += self._now() - self._started
