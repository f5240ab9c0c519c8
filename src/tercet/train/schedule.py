"""How much of the budget is spent, and the learning rate at that point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from tercet.train.plan import Settings

__all__ = ["Budget", "learning_rate"]

_LEAST = 0.01  # of the peak: the first step of the warm-up already moves the weights


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """A number of steps, or a number of seconds.

    By steps, everything that follows from the share spent is a function of the step, so that a run repeats bit by bit.
    """

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, settings: Settings, batches_per_epoch: int) -> Budget:
        """The budget that the settings name."""
        if settings.epochs is not None:
            return cls(max(1, round(settings.epochs * batches_per_epoch)), None)
        assert settings.minutes is not None  # Settings sees to it
        return cls(None, 60 * settings.minutes)

    def spent(self, step: int, elapsed_s: float) -> float:
        """The share that `step` steps in `elapsed_s` seconds have used; 1 and more: all of it."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        return elapsed_s / self.seconds

    def remaining_s(self, step: int, elapsed_s: float) -> float | None:
        """Seconds to go; None before the first step of a budget in steps."""
        if self.seconds is not None:
            return max(0.0, self.seconds - elapsed_s)
        assert self.steps is not None
        return (self.steps - step) * elapsed_s / step if step else None


def learning_rate(settings: Settings, spent: float) -> float:
    """A straight rise to the peak during the warm-up, then half a cosine down to zero."""
    if spent < settings.warmup:
        return settings.learning_rate * max(_LEAST, spent / settings.warmup)
    after = min(1.0, (spent - settings.warmup) / (1 - settings.warmup))
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * after))
