"""What learns: the encoder with its loss, optimiser and memory bank, and one step of them on a global batch.

A step is taken in two halves, so that somebody may look at the gradient before the weights move: `gradient`, then
`update`, or `leave` where the step is not to be made.

Legend: B rows of the batch, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tercet.encoders import DescribedConfig
from tercet.errors import InvalidInput
from tercet.losses import AutoMargin
from tercet.train.batches import Batch
from tercet.train.checkpoint import Stateful
from tercet.train.engine import Engine, LossScale
from tercet.train.memory import MemoryBank
from tercet.train.plan import Plan, Settings
from tercet.train.step import DividedStep, hold_batch_norm
from tercet.train.stopwatch import Stopwatch
from tercet.train.warm_start import WarmStart

__all__ = ["Gradient", "Learner"]


@final
@dataclass(frozen=True, slots=True)
class Gradient:
    """What the first half of a step has found.

    Args:
        embeddings_BD: Of the batch, without a graph.
        loss: Of the batch; NaN where the embeddings are no numbers.
        norm: Of the gradient, before it is cut to what the settings allow.
        skipped: Whether float16 was too narrow for it: the step will not be made, and that is no fault.
    """

    embeddings_BD: Tensor
    loss: Tensor
    norm: float
    skipped: bool


@final
class Learner:
    """The encoder of a training, and all that moves with it.

    Args:
        plan: What is trained, and how.
        engine: What it runs on.
        labels: Of the samples it is trained on.
    """

    def __init__(self, plan: Plan, engine: Engine, labels: npt.NDArray[np.int64]) -> None:
        settings = plan.settings
        self.plan, self.ranks = plan, engine.ranks
        self.criterion = settings.criterion()
        torch.manual_seed(settings.seed)
        self.encoder: nn.Module = plan.initial().to(engine.device)
        self.warm_start: WarmStart | None = None
        parameters = _decayed(self.encoder, settings.weight_decay)
        if settings.warm_start:
            config = plan.encoder.network if isinstance(plan.encoder, DescribedConfig) else plan.encoder
            width = config.embedding_dim
            self.warm_start = WarmStart(labels, width, seed=settings.seed, device=engine.device)
            parameters.append({"params": list(self.warm_start.parameters()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
        self.scale = LossScale(engine.device, settings.precision)
        self.memory = _memory(settings, self.encoder)
        self.watch = Stopwatch(engine.device)
        self.divided = DividedStep(
            torch.compile(self.encoder) if settings.compile else self.encoder,
            self.encoder,
            self.ranks,
            chunk=settings.chunk,
            autocast=engine.autocast(settings.precision),
            watch=self.watch,
        )

    def gradient(self, batch: Batch, *, mining: str) -> Gradient:
        """Take the gradient of a batch's loss.

        Raises:
            InvalidInput: The embeddings are no numbers any more, and nobody is to look after that.
        """
        self.criterion.mining = mining

        def objective(x_BD: Tensor) -> Tensor:
            if self.warm_start is not None and self.warming(batch.step):
                warm: Tensor = self.warm_start(x_BD, batch.labels_B)
                return warm
            try:
                if self.memory is not None:
                    return self.memory.loss(self.criterion, x_BD, batch.labels_B, batch.samples_B, batch.step)
                loss: Tensor = self.criterion(x_BD, batch.labels_B)
                return loss
            except InvalidInput:
                if not self.plan.settings.doctor:
                    raise
                return x_BD.sum() * math.nan

        x_BD, loss = self.divided.backward(batch.part, len(batch), objective, seed=batch.seed, scaled=self.scale.scaled)
        self.scale.unscale(self.optimizer)
        gradients = [parameter.grad for parameter in self.encoder.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.plan.settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.encoder.parameters(), self.plan.settings.clip, norm)
        found = float(norm)
        skipped = self.scale.used and not math.isfinite(found) and bool(torch.isfinite(loss))
        return Gradient(x_BD, loss, found, skipped)

    def update(self, batch: Batch, gradient: Gradient, *, rate: float) -> None:
        """Move the weights at this learning rate, and keep the batch in the memory bank."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scale.step(self.optimizer)
        if self.memory is not None:
            x_BD = gradient.embeddings_BD
            if self.memory.follower is not None:
                x_BD = self.divided.embed(batch.part, len(batch), self.memory.follower)
                self.memory.follow(self.encoder)
            self.memory.add(x_BD, batch.labels_B, batch.samples_B, batch.step)
        self.leave()

    def leave(self) -> None:
        """End a step, made or not."""
        self.scale.update()
        self.optimizer.zero_grad()

    def go_back(self, weights: dict[str, Tensor] | None) -> None:
        """Begin anew from these weights, or from the first ones."""
        torch.manual_seed(self.plan.settings.seed)
        self.encoder.load_state_dict(weights or self.plan.initial().state_dict())
        self.optimizer.state.clear()
        if self.memory is not None:
            self.memory.clear(self.encoder)
        if self.warm_start is not None:
            self.warm_start.clear()

    def warming(self, step: int) -> bool:
        """Whether the loss of this step is that of the warm start."""
        return step < self.plan.settings.warm_start

    def hold_batch_norm(self, rows: int) -> int:
        """Where a batch of so many rows is divided: see `step.hold_batch_norm`; how many layers are held from now on.

        Raises:
            InvalidInput: A layer cannot be held.
        """
        return len(hold_batch_norm(self.encoder)) if self.divided.is_divided(rows) else 0

    def margin(self) -> float | None:
        """The margin of the step that has just been made; None for the soft one."""
        if isinstance(self.criterion.margin, AutoMargin):
            return self.criterion.margin.value
        margin = self.plan.settings.margin
        return None if isinstance(margin, str) else margin

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.encoder.parameters())

    def more(self) -> dict[str, Stateful]:
        """What has a state beside encoder, optimiser and loss."""
        more: dict[str, Stateful] = {"scale": self.scale}
        more |= {} if self.memory is None else {"memory": self.memory}
        return more | ({} if self.warm_start is None else {"warm_start": self.warm_start})


def _memory(settings: Settings, encoder: nn.Module) -> MemoryBank | None:
    if not settings.memory:
        return None
    return MemoryBank(
        encoder,
        rows=settings.memory,
        age=settings.memory_age,
        warmup=settings.memory_warmup,
        momentum=settings.memory_momentum,
    )


def _decayed(encoder: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels decay, scales and offsets do not."""
    matrices = [parameter for parameter in encoder.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in encoder.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
