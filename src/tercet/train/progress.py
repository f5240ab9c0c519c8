"""What a training tells while it runs: to its caller, and to history.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, final

from tercet.errors import RunError
from tercet.run.files import write_bytes

__all__ = ["History", "OnProgress", "TrainingProgress"]


@final
@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One look at a training.

    Args:
        phase: "read" (files into memory), "train", "survey" (of the whole training set, for what is hard), "remark"
            (of the doctor), "validate", "whiten" (the best weights, after the last step) or "done".
        step: Steps done; in phase "read" the files read, in phase "survey" rows embedded and rows searched for.
        fraction_done: Share of the budget spent; in phases "read" and "survey" of these.
        elapsed_s: Seconds of training so far.
        remaining_s: Seconds to go; None where it is not known yet.
        loss: Triplet loss of the last batch.
        active_fraction: Share of its triplets that violate the margin.
        mean_positive: Mean distance within identities, in its batch.
        mean_negative: Mean distance between identities.
        images_per_second: Speed of the steps since the last look.
        outside_encoder: Share of the time since the last look that was spent outside the encoder.
        validation_eer: Equal error rate on held-out identities at the best validation so far, when done that of the
            saved weights; None before the first.
        remark: In phase "remark": what is wrong with the training, and what to do or what was done.
    """

    phase: Literal["read", "train", "survey", "remark", "validate", "whiten", "done"]
    step: int = 0
    fraction_done: float = 0.0
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    loss: float | None = None
    active_fraction: float | None = None
    mean_positive: float | None = None
    mean_negative: float | None = None
    images_per_second: float | None = None
    outside_encoder: float | None = None
    validation_eer: float | None = None
    remark: str | None = None


OnProgress = Callable[[TrainingProgress], None]


@final
class History:
    """history.jsonl: one JSON object a line, what was measured at which step.

    Opening it after a checkpoint of `step` drops the lines of later steps, which will be written again.

    Raises:
        RunError: The file cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        write_bytes(path, "".join(line + "\n" for line in _lines_until(path, step)).encode())

    def add(self, progress: TrainingProgress, **more: float | str) -> None:
        """Append a line."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(progress) | more) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror or error})") from error


def _lines_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # half a line, cut off by a kill
    return kept
