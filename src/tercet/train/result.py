"""What a training leaves: the best weights, whitened where that helps, as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tercet.data import SampleStore, Skipped
from tercet.encoders import DescribedEncoder
from tercet.run import RunSplit, save_model
from tercet.train.checkpoint import Progress
from tercet.train.description import whitening_of
from tercet.train.plan import Plan
from tercet.train.validation import Validation

__all__ = ["save_result"]


def save_result(
    out: Path,
    plan: Plan,
    encoder: nn.Module,
    best_weights: dict[str, Tensor] | None,
    *,
    progress: Progress,
    finished: bool,
    store: SampleStore,
    split: RunSplit,
    skipped: tuple[Skipped, ...],
    validation: Validation,
) -> float | None:
    """Write the best weights so far, or without a validation those of the encoder, as a run.

    The encoder takes them on, and a network beside a description its whitening: this is the end of its training.
    Checkpoints know nothing of it, so one that goes on does so from the weights as they were trained.

    Returns:
        The equal error rate of what was written, on the held-out identities; None without a validation.
    """
    eer, map_at_r = progress.best_eer, progress.best_map_at_r
    whitening: dict[str, Any] | None = None
    if best_weights is not None:
        encoder.load_state_dict(best_weights)
        if isinstance(encoder, DescribedEncoder):
            before = {"eer": eer, "map_at_r": map_at_r}
            eer, map_at_r, taken = validation.whiten(encoder, whitening_of(encoder, store, split.split.train))
            whitening = {"taken": taken, "before": before}
    save_model(
        out,
        task=plan.task,
        seed=plan.settings.seed,
        front_end=plan.front_end,
        encoder=plan.encoder.to_json(),
        weights=encoder.state_dict(),
        split=split,
        training=plan.settings.to_json(),
        data=_summary(store.manifest.root, split, skipped),
        metrics={
            "steps": progress.step,
            "seconds": progress.elapsed_s,
            "finished": finished,
            "validation": {"eer": eer, "map_at_r": map_at_r, "step": progress.best_step},
            "whitening": whitening,
            "remarks": [remark.to_json() for remark in progress.care.doctor.remarks],
        },
    )
    return eer


def _summary(root: Path, split: RunSplit, skipped: tuple[Skipped, ...]) -> dict[str, Any]:
    return {
        "path": str(root),
        "identities": {part: len(getattr(split.split, part)) for part in ("train", "validation", "test")},
        "samples": {part: len(hashes) for part, hashes in split.hashes.items()},
        "skipped": [{"path": entry.path, "reason": entry.reason} for entry in skipped],
    }
