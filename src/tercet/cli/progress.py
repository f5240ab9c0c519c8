"""Progress on stderr: a live bar on a terminal, an occasional plain line anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from tercet.train import TrainingProgress

__all__ = ["Counting", "Training", "scoring"]

SECONDS_BETWEEN_LINES = 10.0


@final
class Counting:
    """Counts files as they are read: `with Counting(console, "reading samples") as progress: read(progress=progress)`.

    A terminal shows no bar for fewer than `least` items, which are done before it is of use.
    """

    def __init__(self, console: Console, what: str, *, least: int = 200) -> None:
        self._console = console
        self._what = what
        self._least = least
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
        )
        self._task = self._bar.add_task(what, total=None)
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` items are finished."""
        if self._console.is_terminal:
            if total >= self._least:
                self._bar.start()
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._console.print(f"{self._what}: {done} of {total}", soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar.live.is_started:  # a bar that was never shown would still end with a blank line
            self._bar.stop()


@final
class Training:
    """Shows a training run: pass the object itself as `on_progress`.

    On a terminal a bar with the time left and, below it, loss, share of active triplets, mean distance of positives
    (d+) and of negatives (d-), images per second, the share of time outside the encoder and the validation EER.
    Elsewhere one line at most every ten seconds, and the last.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task("training", total=1.0, left="")
        self._live = Live(self._bar, console=console, refresh_per_second=5)
        self._figures = ""
        self._last: TrainingProgress | None = None
        self._looked: TrainingProgress | None = None
        self._printed: TrainingProgress | None = None

    def __call__(self, now: TrainingProgress) -> None:
        """Take in one report of the training loop."""
        self._last = now
        if now.phase == "train":
            self._looked = now
        if now.phase in ("train", "done"):  # the weights that are saved need not be those of the last look
            looked = self._looked or now
            self._figures = _in_figures(replace(looked, validation_eer=now.validation_eer or looked.validation_eer))
        if now.phase == "remark":
            self._console.print(f"remark at step {now.step}: {now.remark}", soft_wrap=True)
        elif self._console.is_terminal:
            left = "" if now.remaining_s is None else f"{now.remaining_s:.0f} s left"
            self._bar.update(self._task, completed=now.fraction_done, description=_PHASES[now.phase], left=left)
            self._live.update(Group(self._bar, Text(self._figures)))
        elif now.phase in ("train", "survey") and (
            self._printed is None or now.elapsed_s - self._printed.elapsed_s >= SECONDS_BETWEEN_LINES
        ):
            self._print(now)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()
        last, printed = self._last, self._printed
        if last and not self._console.is_terminal and (printed is None or _at(printed) != _at(last)):
            self._print(last)

    def _print(self, now: TrainingProgress) -> None:
        self._printed = now
        figures = "" if now.phase == "survey" else f"  {self._figures}"
        what = _PHASES["survey"] if now.phase == "survey" else "training"
        self._console.print(f"{what} {100 * now.fraction_done:.0f} %{figures}", soft_wrap=True)


@contextmanager
def scoring(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is being scored; gives the function to pass as `on_phase`."""
    if not console.is_terminal:
        yield lambda phase: None
        return
    with console.status("scoring") as status:
        yield lambda phase: status.update(f"scoring: {phase.replace('_', ' ')}")


_PHASES = {
    "read": "reading samples",
    "train": "training",
    "survey": "searching for what is hard",
    "validate": "validating",
    "whiten": "whitening",
    "done": "trained",
}


def _at(now: TrainingProgress) -> tuple[int, float | None]:
    return now.step, now.validation_eer


def _in_figures(now: TrainingProgress) -> str:
    parts = [
        (now.loss, "loss {:.4f}"),
        (now.active_fraction and 100 * now.active_fraction, "active {:.1f} %"),
        (now.mean_positive, "d+ {:.3f}"),
        (now.mean_negative, "d- {:.3f}"),
        (now.images_per_second, "{:,.0f} images/s"),
        (now.outside_encoder and 100 * now.outside_encoder, "{:.0f} % outside the encoder"),
        (now.validation_eer and 100 * now.validation_eer, "validation EER {:.1f} %"),
    ]
    return "  ".join(form.format(value) for value, form in parts if value is not None)
