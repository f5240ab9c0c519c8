"""The training loop: from a manifest and a plan to a run folder.

    read       every picture decoded once into memory; the steps never wait for a file
    survey     now and then, where it is asked for: the whole training set is searched for what is hard (survey.py)
    step       P x K batch -> augment -> encoder -> triplet loss -> AdamW, its learning rate by the budget spent
    doctor     each step is looked at before the weights move; on an alarm they go back to the best so far
    validate   `validations` times: EER and MAP@R on held-out identities; the best weights are kept
    save       a checkpoint now and then; at the end, or at Ctrl-C, the best weights as a run (result.py)

Every random draw is a function of the seed and the number of the step. So a training with a budget in epochs gives the
same weights bit by bit on the same machine, whether it ran through or was stopped and resumed.

In several processes (torchrun, `accelerate launch`) all do the same steps with their share of each batch (step.py);
the first one validates, writes and tells.

Legend: B batch, D embedding width.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.data import Manifest, SampleStore, Skipped, split_identities
from tercet.encoders import DescribedEncoder
from tercet.errors import InvalidInput, RunError
from tercet.functional import batch_statistics
from tercet.run import RunSplit
from tercet.train.batches import Batch, Batches
from tercet.train.care import Care
from tercet.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from tercet.train.description import with_description
from tercet.train.doctor import Remark
from tercet.train.engine import Engine
from tercet.train.folder import fix_split, open_folder
from tercet.train.interrupt import ctrl_c_waits
from tercet.train.learner import Gradient, Learner
from tercet.train.misfiled import misfiled_in
from tercet.train.plan import Plan
from tercet.train.progress import History, OnProgress, TrainingProgress
from tercet.train.result import save_result
from tercet.train.rows import rows_of
from tercet.train.schedule import Budget, learning_rate
from tercet.train.survey import Survey
from tercet.train.validation import Validation

__all__ = ["train"]

CHECKPOINTS = "checkpoints"
SURVEY = "survey"
_LOOK_SECONDS = 0.5  # between two looks at the numbers, which cost a little


def train(
    manifest: Manifest,
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    timeout_s: float = 600.0,
    tensorboard: bool = False,
) -> Path:
    """Train an encoder on the identities of a manifest and write it to a run folder; returns the folder.

    The identities are split by the plan's seed; those for validation choose the best weights, those for the test are
    not read at all. A picture that cannot be read is skipped and noted in run.json.

    In a process that torchrun or `accelerate launch` has started, it trains together with the others; all need to see
    the same data and the same `out`. Only the first one tells and writes.

    Args:
        manifest: The samples.
        plan: Everything else.
        out: The run folder; must not be there yet, or be empty.
        resume: Go on where the last checkpoint in `out` stands. Plan and data must be those it was started with;
            only the budget may be another, the number of processes, and how a batch is divided.
        on_progress: Told how it goes, a few times a second.
        timeout_s: How long a process waits for the others before it gives up.
        tensorboard: Whether the figures of history.jsonl go to tensorboard files in `out` too.

    Raises:
        RunError: `out` is in the way or cannot be written, does not fit the plan or data on resuming, the training
            has diverged, or another process has gone.
        DataError: Too few identities, or no picture that can be read.
        MissingExtra: tensorboard is not installed.
        KeyboardInterrupt: Ctrl-C; the last checkpoint and the best model so far are in `out`.
    """
    with Engine(out, timeout_s=timeout_s, tensorboard=tensorboard) as engine:
        tell = on_progress if on_progress is not None and engine.ranks.first else _silent
        split = split_identities(manifest, seed=plan.settings.seed)
        engine.ranks.by_first(lambda: open_folder(out, plan, resume=resume))
        seen = manifest.of({*split.train, *split.validation})
        with SampleStore.read(seen, plan.front_end, spill_dir=out, progress=_read_progress(tell)) as store:
            run_split = RunSplit(
                split, {part: _hashes(store, getattr(split, part)) for part in ("train", "validation")}
            )
            engine.ranks.require_equal("the data", (), texts=(h for part in run_split.hashes.values() for h in part))
            engine.ranks.by_first(lambda: fix_split(out, run_split))
            plan = with_description(plan, store, split.train, engine.ranks)
            with torch.random.fork_rng(devices=[]), ctrl_c_waits() as interrupted:
                _Training(engine, store, plan, out, run_split, manifest.skipped, tell).go(interrupted)
            if interrupted.is_set():
                raise KeyboardInterrupt
    return out


class _Training:
    """One training: what it works with, and its steps."""

    def __init__(
        self,
        engine: Engine,
        store: SampleStore,
        plan: Plan,
        out: Path,
        split: RunSplit,
        skipped: tuple[Skipped, ...],
        tell: OnProgress,
    ) -> None:
        settings = plan.settings
        self.engine, self.ranks, self.store, self.plan = engine, engine.ranks, store, plan
        self.out, self.split, self.tell = out, split, tell
        self.skipped = skipped + store.manifest.skipped
        self.batches = Batches(store, rows_of(store, split.split.train), plan, engine.device)
        self.validation = Validation(store, split.split.validation)
        self.budget = Budget.of(settings, self.batches.sampler.batches_per_epoch)
        self.learner = learner = Learner(plan, engine, self.batches.owners_N[self.batches.rows])
        self.survey = Survey(
            store,
            self.batches.rows,
            self.ranks,
            out / SURVEY,
            every=settings.mine_every,
            skip=settings.mine_skip,
            batch=settings.chunk,
        )
        self.stateful = learner.more() | ({"survey": self.survey} if settings.mine_every else {})
        self.progress = Progress(care=Care(settings.mining))
        self.signs: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] | None = None
        if found := load_checkpoint(
            out / CHECKPOINTS, learner.encoder, learner.optimizer, learner.criterion, self.stateful
        ):
            self.progress, self.best_weights = found
        self.ranks.require_equal("the weights", learner.encoder.state_dict().values())
        self.history = History(out / "history.jsonl", self.progress.step) if self.ranks.first else None
        engine.begin_tracking()

    def go(self, interrupted: threading.Event) -> None:
        """Step until the budget is spent or Ctrl-C was pressed, then save."""
        progress, settings, first = self.progress, self.plan.settings, self.progress.step
        started = time.monotonic() - progress.elapsed_s
        looked, saved, images = time.monotonic(), progress.elapsed_s, 0

        def tick() -> bool:
            """Have all processes see the same clock, and whether to stop."""
            progress.elapsed_s, stop = self.ranks.agreed(time.monotonic() - started, interrupted.is_set())
            return stop

        if settings.doctor and (misfiled := misfiled_in(self.store)):
            self._note_once("misfiled", misfiled)
        stop = tick()
        while self._spent() < 1 and not stop:
            if self.survey.due(progress.step):
                stop = not self._survey(tick) or tick()
                looked, images, saved = time.monotonic(), 0, progress.elapsed_s if self.survey.long else saved
                continue
            batch = self.batches.at(progress.step, self.survey.found)
            embeddings_BD, loss = self._step(batch)
            progress.step += 1
            images += len(batch)
            stop = tick()
            now = time.monotonic()
            if now - looked > _LOOK_SECONDS or self._spent() >= 1:
                self._look(embeddings_BD, batch.labels_B, loss, images / (now - looked))
                looked, images = now, 0
            if math.floor(self._spent() * settings.validations) > progress.validations:
                progress.validations = math.floor(self._spent() * settings.validations)
                self._validate()
                looked, images = time.monotonic(), 0
                stop = tick()
            if progress.elapsed_s - saved > settings.checkpoint_seconds:
                self._checkpoint()
                stop = tick()
                saved = progress.elapsed_s
        if progress.step > first:
            self._checkpoint()
        if self.best_weights is not None and isinstance(self.learner.encoder, DescribedEncoder):
            self.tell(self._told("whiten"))
        eer = self.ranks.by_first(self._save)
        self.tell(self._told("done") if eer is None else self._told("done", validation_eer=eer))

    def _spent(self) -> float:
        return self.budget.spent(self.progress.step, self.progress.elapsed_s)

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns embeddings and loss of the batch."""
        learner, care = self.learner, self.progress.care
        if held := learner.hold_batch_norm(len(batch)):
            layers = f"{held} batch-normalisation layers"
            self._note_once("batch-norm", f"{layers} use their stored statistics, since batches are divided")
        try:
            gradient = learner.gradient(batch, mining=care.mining_now)
        except InvalidInput as error:
            raise self._diverged() from error
        if gradient.skipped or not self._alarming(gradient, batch.labels_B):
            learner.update(batch, gradient, rate=learning_rate(self.plan.settings, self._spent()) * care.rate)
        else:
            learner.leave()
        return gradient.embeddings_BD, gradient.loss

    def _note_once(self, kind: str, text: str) -> None:
        """Keep and tell a remark of the loop's own, where it has not been made yet."""
        doctor = self.progress.care.doctor
        if not any(remark.kind == kind for remark in doctor.remarks):
            self._remark(doctor.note(self.progress.step, kind, text))

    def _alarming(self, gradient: Gradient, labels_B: Tensor) -> bool:
        """Have the doctor look at the step; on an alarm put the weights back: the step is not to be made."""
        progress, settings = self.progress, self.plan.settings
        vitals, verdict = progress.care.look(
            progress.step,
            gradient.embeddings_BD,
            labels_B,
            loss=gradient.loss,
            margin=self.learner.margin(),
            distance=settings.distance,
            gradient_norm=gradient.norm,
            triplets=not self.learner.warming(progress.step),
            agree=self.ranks.as_first,
        )
        signs = {"spread": vitals.spread, "rank": vitals.rank, "gradient_norm": gradient.norm}
        self.signs = {name: value for name, value in signs.items() if math.isfinite(value)}
        if not settings.doctor:
            return False
        for remark in verdict.remarks:
            self._remark(remark)
        if verdict.alarm is None:
            return False
        try:
            remark = progress.care.alarm(progress.step, verdict.alarm, learning_rate=settings.learning_rate)
            self._remark(remark)
        except RunError as error:
            raise RunError(f"{self.out}: {error}") from error
        if not progress.best_healthy:  # the best so far were already on the way down
            self.best_weights, progress.best_eer, progress.best_map_at_r, progress.best_step = None, None, None, None
        self.learner.go_back(self.best_weights)
        self.survey.forget()  # what is hard is the last that helps a network that has collapsed
        return True

    def _survey(self, tick: Callable[[], bool]) -> bool:
        """Search the whole training set for what is hard; whether that came to its end before Ctrl-C."""
        step = self.progress.step
        self._require_finite()
        if self.survey.long:
            self._checkpoint()  # its tiles are kept: a training that is killed has them again, if it has these weights

        def tell(done: int, rows: int) -> None:
            self.tell(replace(self._told("survey"), step=done, fraction_done=done / rows))

        return self.survey.take(step, self.learner.encoder, goes_on=lambda: not tick(), tell=tell)

    def _remark(self, remark: Remark) -> None:
        """Tell and note what the doctor has to say."""
        self._note(self._told("remark", remark=remark.text), kind=remark.kind)

    def _note(self, at: TrainingProgress, **more: float | str) -> None:
        """Tell, keep in history.jsonl, and give to the trackers."""
        self.tell(at)
        if self.history is not None:
            self.history.add(at, **more)
        self.engine.track(asdict(at) | more, at.step)

    def _look(self, embeddings_BD: Tensor, labels_B: Tensor, loss: Tensor, speed: float) -> None:
        """Tell and note how the batch was; nothing can be said of embeddings that are no numbers."""
        if not self.ranks.first or not bool(torch.isfinite(embeddings_BD).all()):
            return
        settings = self.plan.settings
        margin = self.learner.margin()
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
            outside_encoder=self.learner.watch.share_outside(),
        )
        mining = "softmax" if self.learner.warming(at.step - 1) else self.progress.care.mining_now
        rate = self.learner.optimizer.param_groups[0]["lr"]
        moving = {} if margin is None else {"margin": margin}
        if (hardness := self.survey.mean_hardness()) is not None:
            moving |= {"survey": self.survey.step, "hardness": hardness}
        self._note(at, learning_rate=rate, mining=mining, **moving, **self.signs)

    def _validate(self) -> None:
        """Score the held-out identities, and keep the weights if they are the best so far."""
        progress = self.progress
        if not self.validation:
            return
        self._require_finite()
        eer, map_at_r = self.validation.score(self.learner.encoder, self.ranks)
        rank = self.validation.rank
        if progress.best_eer is None or rank(eer, map_at_r) < rank(progress.best_eer, progress.best_map_at_r or 0.0):
            progress.best_eer, progress.best_map_at_r, progress.best_step = eer, map_at_r, progress.step
            progress.best_healthy = progress.care.doctor.healthy
            self.best_weights = {name: tensor.clone() for name, tensor in self.learner.encoder.state_dict().items()}
        self._note(self._told("validate", validation_eer=eer), validation_map_at_r=map_at_r)

    def _checkpoint(self) -> None:
        self._require_finite()
        self.ranks.require_equal("the weights", self.learner.encoder.state_dict().values())
        self.ranks.by_first(
            lambda: save_checkpoint(
                self.out / CHECKPOINTS,
                self.progress,
                self.learner.encoder,
                self.learner.optimizer,
                self.best_weights,
                self.learner.criterion,
                self.stateful,
                kept=self.plan.settings.checkpoints,
            )
        )

    def _save(self) -> float | None:
        return save_result(
            self.out,
            self.plan,
            self.learner.encoder,
            self.best_weights,
            progress=self.progress,
            finished=self._spent() >= 1,
            store=self.store,
            split=self.split,
            skipped=self.skipped,
            validation=self.validation,
        )

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
        if not self.learner.is_finite():
            raise self._diverged()

    def _diverged(self) -> RunError:
        return RunError(
            f"{self.out}: training diverged at step {self.progress.step}: the weights are no longer finite; "
            "try a lower learning rate"
        )


def _hashes(store: SampleStore, identities: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(store.hashes[row] for row in rows_of(store, identities))


def _read_progress(tell: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: tell(TrainingProgress("read", step=done, fraction_done=done / total))


def _silent(progress: TrainingProgress) -> None:
    """Tell nobody."""
