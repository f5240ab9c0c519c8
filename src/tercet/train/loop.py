"""The training loop: from a manifest and a plan to a run folder.

    read       every picture decoded once into memory; the steps never wait for a file
    step       P x K batch -> augment -> encoder -> triplet loss -> AdamW, its learning rate by the budget spent
    doctor     each step is looked at before the weights move; on an alarm they go back to the best so far
    validate   `validations` times: EER and MAP@R on held-out identities; the best weights are kept
    save       a checkpoint now and then; at the end, or at Ctrl-C, the best weights as a run

Every random draw is a function of the seed and the number of the step. So a training with a budget in epochs gives the
same weights bit by bit on the same machine, whether it ran through or was stopped and resumed.

Legend: B batch, D embedding width.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from tercet.data import Manifest, PKSampler, SampleStore, Skipped, split_identities
from tercet.errors import DataError, InvalidInput, RunError
from tercet.functional import batch_statistics
from tercet.losses import AutoMargin
from tercet.run import RunSplit, save_model
from tercet.train.care import Care
from tercet.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from tercet.train.doctor import Remark
from tercet.train.folder import fix_split, open_folder
from tercet.train.interrupt import ctrl_c_waits
from tercet.train.plan import Plan
from tercet.train.progress import History, OnProgress, TrainingProgress
from tercet.train.schedule import Budget, learning_rate
from tercet.train.validation import Validation, rows_of

__all__ = ["train"]

_LOOK_SECONDS = 0.5  # between two looks at the numbers, which cost a little


def train(
    manifest: Manifest, plan: Plan, out: Path, *, resume: bool = False, on_progress: OnProgress | None = None
) -> Path:
    """Train an encoder on the identities of a manifest and write it to a run folder; returns the folder.

    The identities are split by the plan's seed; those for validation choose the best weights, those for the test are
    not read at all. A picture that cannot be read is skipped and noted in run.json.

    Args:
        manifest: The samples.
        plan: Everything else.
        out: The run folder; must not be there yet, or be empty.
        resume: Go on where the last checkpoint in `out` stands. Plan and data must be those it was started with;
            only the budget may be another.
        on_progress: Told how it goes, a few times a second.

    Raises:
        RunError: `out` is in the way or cannot be written, does not fit the plan or data on resuming, or the training
            has diverged.
        DataError: Too few identities, or no picture that can be read.
        KeyboardInterrupt: Ctrl-C; the last checkpoint and the best model so far are in `out`.
    """
    tell = on_progress or _silent
    accelerator = _engine(plan.settings.precision)
    split = split_identities(manifest, seed=plan.settings.seed)
    open_folder(out, plan, resume=resume)
    seen = manifest.of({*split.train, *split.validation})
    with SampleStore.read(seen, plan.front_end, spill_dir=out, progress=_read_progress(tell)) as store:
        run_split = RunSplit(split, {part: _hashes(store, getattr(split, part)) for part in ("train", "validation")})
        fix_split(out, run_split)
        with torch.random.fork_rng(devices=[]), ctrl_c_waits() as interrupted:
            _Training(accelerator, store, plan, out, run_split, manifest.skipped, tell).go(interrupted)
        if interrupted.is_set():
            raise KeyboardInterrupt
    return out


class _Training:
    """One training: what it works with, and its steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        store: SampleStore,
        plan: Plan,
        out: Path,
        split: RunSplit,
        skipped: tuple[Skipped, ...],
        tell: OnProgress,
    ) -> None:
        settings = plan.settings
        self.accelerator, self.store, self.plan = accelerator, store, plan
        self.out, self.split, self.tell = out, split, tell
        self.skipped = skipped + store.manifest.skipped
        self.labels_N = store.manifest.labels
        # To the loss a forgery is nobody's; augmentation and sampler know it by the identity that it pretends to be.
        self.owners_N = np.where(store.manifest.genuine, self.labels_N, -1)
        self.train_rows = rows_of(store, split.split.train)
        self.validation = Validation(store, split.split.validation)
        try:
            self.sampler = PKSampler(
                self.labels_N[self.train_rows],
                identities_per_batch=settings.identities_per_batch,
                samples_per_identity=settings.samples_per_identity,
                seed=settings.seed,
                forged=~store.manifest.genuine[self.train_rows],
                forgeries_per_identity=settings.forgeries_per_identity,
                groups=_groups_of(store)[self.train_rows],
            )
        except InvalidInput as error:  # unreadable files have left too little
            raise DataError(f"{store.manifest.root}: cannot be trained on ({error})") from error
        self.budget = Budget.of(settings, self.sampler.batches_per_epoch)
        self.criterion = settings.criterion()
        torch.manual_seed(settings.seed)
        self.encoder: nn.Module = plan.initial().to(accelerator.device)
        self.optimizer = torch.optim.AdamW(_decayed(self.encoder, settings.weight_decay), lr=settings.learning_rate)
        self.progress = Progress(care=Care(settings.mining))
        self.signs: dict[str, float] = {}
        self.best_weights: dict[str, torch.Tensor] | None = None
        if found := load_checkpoint(out / "checkpoints", self.encoder, self.optimizer, self.criterion):
            self.progress, self.best_weights = found
        self.model, self.stepper = accelerator.prepare(self.encoder, self.optimizer)
        self.history = History(out / "history.jsonl", self.progress.step)

    def go(self, interrupted: threading.Event) -> None:
        """Step until the budget is spent or Ctrl-C was pressed, then save."""
        progress, settings, first = self.progress, self.plan.settings, self.progress.step
        started = time.monotonic() - progress.elapsed_s
        looked = saved = time.monotonic()
        images = 0
        while self._spent() < 1 and not interrupted.is_set():
            rows_B = self.train_rows[self.sampler.batch(progress.step)]
            embeddings_BD, labels_B, loss = self._step(rows_B)
            progress.step += 1
            images += len(rows_B)
            now = time.monotonic()
            progress.elapsed_s = now - started
            if now - looked > _LOOK_SECONDS or self._spent() >= 1:
                self._look(embeddings_BD, labels_B, loss, images / (now - looked))
                looked, images = now, 0
            if math.floor(self._spent() * settings.validations) > progress.validations:
                progress.validations = math.floor(self._spent() * settings.validations)
                self._validate()
                looked, images = time.monotonic(), 0
            if time.monotonic() - saved > settings.checkpoint_seconds:
                self._checkpoint()
                saved = time.monotonic()
            progress.elapsed_s = time.monotonic() - started
        if progress.step > first:
            self._checkpoint()
        self._save()

    def _spent(self) -> float:
        return self.budget.spent(self.progress.step, self.progress.elapsed_s)

    def _step(self, rows_B: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One optimiser step; returns embeddings, labels and loss of the batch."""
        device = self.accelerator.device
        generator = torch.Generator().manual_seed(_seed_of(self.plan.settings.seed, self.progress.step))
        torch.manual_seed(generator.initial_seed())  # for what draws by itself: dropout, mining that samples
        x_B = self.plan.front_end.normalise(self.store.take(rows_B).to(device))
        with self.accelerator.autocast():
            embeddings_BD = self.model(
                self.plan.augment(x_B, torch.from_numpy(self.labels_N[rows_B]).to(device), generator)
            )
        labels_B = torch.from_numpy(self.owners_N[rows_B]).to(device)
        care = self.progress.care
        self.criterion.mining = care.mining_now
        try:
            loss = self.criterion(embeddings_BD, labels_B)
        except InvalidInput as error:  # embeddings that are not finite
            if not self.plan.settings.doctor:
                raise self._diverged() from error
            loss = torch.full((), math.nan, device=device)
        else:
            self.accelerator.backward(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan.settings, self._spent()) * care.rate
        if not self._alarming(embeddings_BD.detach(), labels_B, loss.detach()):
            self.stepper.step()
        self.stepper.zero_grad()
        return embeddings_BD.detach(), labels_B, loss.detach()

    def _alarming(self, embeddings_BD: torch.Tensor, labels_B: torch.Tensor, loss: torch.Tensor) -> bool:
        """Have the doctor look at the step; on an alarm put the weights back: the step is not to be made."""
        progress, settings = self.progress, self.plan.settings
        gradients = [parameter.grad for parameter in self.encoder.parameters() if parameter.grad is not None]
        gradient_norm = float(torch.nn.utils.get_total_norm(gradients))
        vitals, verdict = progress.care.look(
            progress.step,
            embeddings_BD,
            labels_B,
            loss=loss,
            margin=self._margin(),
            distance=settings.distance,
            gradient_norm=gradient_norm,
        )
        signs = {"spread": vitals.spread, "rank": vitals.rank, "gradient_norm": gradient_norm}
        self.signs = {name: value for name, value in signs.items() if math.isfinite(value)}
        if not settings.doctor:
            return False
        for remark in verdict.remarks:
            self._remark(remark)
        if verdict.alarm is None:
            return False
        try:
            self._remark(progress.care.alarm(progress.step, verdict.alarm))
        except RunError as error:
            raise RunError(f"{self.out}: {error}") from error
        torch.manual_seed(settings.seed)
        if not progress.best_healthy:  # the best so far were already on the way down
            self.best_weights, progress.best_eer = None, None
        self.encoder.load_state_dict(self.best_weights or self.plan.initial().state_dict())
        self.optimizer.state.clear()
        return True

    def _margin(self) -> float | None:
        """The margin of the step that has just been made; None for the soft one."""
        if isinstance(self.criterion.margin, AutoMargin):
            return self.criterion.margin.value
        margin = self.plan.settings.margin
        return None if isinstance(margin, str) else margin

    def _remark(self, remark: Remark) -> None:
        """Tell and note what the doctor has to say."""
        at = self._told("remark", remark=remark.text)
        self.tell(at)
        self.history.add(at, kind=remark.kind)

    def _look(self, embeddings_BD: torch.Tensor, labels_B: torch.Tensor, loss: torch.Tensor, speed: float) -> None:
        """Tell and note how the batch was."""
        settings = self.plan.settings
        margin = self._margin()
        numbers = batch_statistics(
            embeddings_BD.float(), labels_B, margin="soft" if margin is None else margin, distance=settings.distance
        )
        at = self._told(
            "train",
            loss=float(loss),
            active_fraction=numbers.active_fraction,
            mean_positive=numbers.mean_positive,
            mean_negative=numbers.mean_negative,
            images_per_second=speed,
        )
        self.tell(at)
        care = self.progress.care
        rate = self.optimizer.param_groups[0]["lr"]
        moving = {} if margin is None else {"margin": margin}
        self.history.add(at, learning_rate=rate, mining=care.mining_now, **moving, **self.signs)

    def _validate(self) -> None:
        """Score the held-out identities, and keep the weights if they are the best so far."""
        progress = self.progress
        if not self.validation:
            return
        self._require_finite()
        eer, map_at_r = self.validation.score(self.encoder)
        if progress.best_eer is None or (eer, -map_at_r) < (progress.best_eer, -(progress.best_map_at_r or 0.0)):
            progress.best_eer, progress.best_map_at_r, progress.best_step = eer, map_at_r, progress.step
            progress.best_healthy = progress.care.doctor.healthy
            self.best_weights = {name: tensor.clone() for name, tensor in self.encoder.state_dict().items()}
        at = self._told("validate", validation_eer=eer)
        self.tell(at)
        self.history.add(at, validation_map_at_r=map_at_r)

    def _checkpoint(self) -> None:
        self._require_finite()
        place = self.out / "checkpoints"
        save_checkpoint(place, self.progress, self.encoder, self.optimizer, self.best_weights, self.criterion)

    def _save(self) -> None:
        """Write the best weights so far, or without a validation the last ones, as a run."""
        progress = self.progress
        save_model(
            self.out,
            task=self.plan.task,
            seed=self.plan.settings.seed,
            front_end=self.plan.front_end,
            encoder=self.plan.encoder.to_json(),
            weights=self.best_weights or self.encoder.state_dict(),
            split=self.split,
            training=self.plan.settings.to_json(),
            data=_summary(self.store.manifest.root, self.split, self.skipped),
            metrics={
                "steps": progress.step,
                "seconds": progress.elapsed_s,
                "finished": self._spent() >= 1,
                "validation": {
                    "eer": progress.best_eer,
                    "map_at_r": progress.best_map_at_r,
                    "step": progress.best_step,
                },
                "remarks": [remark.to_json() for remark in progress.care.doctor.remarks],
            },
        )
        self.tell(self._told("done"))

    def _told(self, phase: Any, **more: Any) -> TrainingProgress:
        progress = self.progress
        known = {
            "step": progress.step,
            "fraction_done": min(1.0, self._spent()),
            "elapsed_s": progress.elapsed_s,
            "remaining_s": self.budget.remaining_s(progress.step, progress.elapsed_s),
            "validation_eer": progress.best_eer,
        }
        return TrainingProgress(phase, **known | more)

    def _require_finite(self) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.encoder.parameters()):
            raise self._diverged()

    def _diverged(self) -> RunError:
        return RunError(
            f"{self.out}: training diverged at step {self.progress.step}: the weights are no longer finite; "
            "try a lower learning rate"
        )


def _engine(precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # else the precision of a process's first training would bind all later ones
    return Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")


def _seed_of(seed: int, step: int) -> int:
    """The seed of a step's draws: far apart for neighbouring steps and seeds."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint32)[0])


def _decayed(encoder: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels decay, scales and offsets do not."""
    matrices = [parameter for parameter in encoder.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in encoder.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _groups_of(store: SampleStore) -> npt.NDArray[np.int64]:
    """For each row the number of its group: what samples share without being good evidence for one identity."""
    groups_N: npt.NDArray[np.int64] = np.unique([row.group for row in store.manifest.rows], return_inverse=True)[1]
    return groups_N


def _hashes(store: SampleStore, identities: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(store.hashes[row] for row in rows_of(store, identities))


def _summary(root: Path, split: RunSplit, skipped: tuple[Skipped, ...]) -> dict[str, Any]:
    return {
        "path": str(root),
        "identities": {part: len(getattr(split.split, part)) for part in ("train", "validation", "test")},
        "samples": {part: len(hashes) for part, hashes in split.hashes.items()},
        "skipped": [{"path": entry.path, "reason": entry.reason} for entry in skipped],
    }


def _read_progress(tell: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: tell(TrainingProgress("read", step=done, fraction_done=done / total))


def _silent(progress: TrainingProgress) -> None:
    """Tell nobody."""
