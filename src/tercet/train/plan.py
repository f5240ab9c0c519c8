"""What to train and how: the plan of one run, all of it JSON but the augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, final

import torch
from torch import nn

from tercet.data import FrontEnd
from tercet.encoders import EncoderConfig
from tercet.errors import InvalidInput, InvalidOption
from tercet.functional.options import MINING, check_choice
from tercet.losses import AutoMargin, TripletLoss
from tercet.train.care import AUTO_MINING, Care

__all__ = ["Augment", "Plan", "Settings"]

PRECISIONS: Final = ("float32", "bfloat16", "float16")
# Settings that came later than the first runs; their defaults are what those did.
_YOUNGER: Final = frozenset(
    ("temper", "chunk", "clip", "compile", "checkpoints", "memory", "memory_age", "memory_warmup", "memory_momentum")
) | {"categories", "mine_every", "mine_skip", "warm_start"}

Augment = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""(x [B, ...] as the front end normalises it, labels [B], generator on the CPU) -> changed samples of these labels."""


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How to train. One of `minutes` and `epochs` is set.

    Args:
        seed: Every random draw follows from it: split, initial weights, batches, augmentation.
        identities_per_batch: P identities in a batch ...
        samples_per_identity: ... with K samples each.
        forgeries_per_identity: ... and with so many forgeries of each besides, where there are any.
        temper: How much more often identities with more samples come: from 0, all alike, to 1, in proportion.
        margin: Of the triplet loss; a number, "soft", or "auto" (`tercet.AutoMargin`).
        distance: Of the triplet loss.
        mining: Which triplets of a batch count; "auto" hardens from all to semi-hard to hard as fewer are active.
        reduction: How their losses become one number.
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled, as in AdamW.
        warmup: Share of the budget in which the learning rate rises; after it falls along half a cosine to zero.
        minutes: Budget as a time; what one gets depends on the machine.
        epochs: Budget as passes over the data; the same on every repetition.
        validations: How often the held-out identities are scored; the best weights are kept.
        checkpoint_seconds: Time between two checkpoints.
        precision: Of the encoder: "float32", or "bfloat16" or "float16" (mixed precision); the loss has float32.
        chunk: Rows that go through the encoder at once, so that the batch need not fit; None: all of a process's share.
        clip: The largest norm of the gradient; a longer one is shortened to it. None: no limit.
        compile: Whether the encoder runs as `torch.compile` makes it.
        checkpoints: How many are kept.
        memory: Rows of the memory bank with which anchors are compared beside the batch; 0: none.
        memory_age: Steps after which its rows do not count any more; None: no limit.
        memory_warmup: Steps before it is used.
        memory_momentum: Share of its weights that the encoder of its rows keeps at a step; None: the trained encoder.
        categories: How many categories a batch is of; None: any.
        mine_every: Steps after which the whole training set is searched for what is hard, of which batches are then
            made (survey.py); 0: never.
        mine_skip: Share of the hardest samples that such a search leaves out.
        doctor: Whether a training that collapses or diverges goes back to good weights, and says why.
        warm_start: Steps with a softmax over the identities before those with triplets.

    Raises:
        InvalidInput: A number out of range, or not exactly one budget.
        InvalidOption: An unknown option of the loss or the precision.
    """

    seed: int = 0
    identities_per_batch: int = 16
    samples_per_identity: int = 4
    forgeries_per_identity: int = 2
    margin: float | Literal["auto", "soft"] = "auto"
    distance: str = "squared"
    mining: str = AUTO_MINING
    reduction: str = "active"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    minutes: float | None = None
    epochs: float | None = None
    validations: int = 12
    checkpoint_seconds: float = 30.0
    precision: str = "float32"
    doctor: bool = True
    warm_start: int = 0
    temper: float = 0.0
    chunk: int | None = None
    clip: float | None = None
    compile: bool = False
    checkpoints: int = 2
    memory: int = 0
    memory_age: int | None = None
    memory_warmup: int = 0
    memory_momentum: float | None = None
    categories: int | None = None
    mine_every: int = 0
    mine_skip: float = 0.02

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.epochs is None):
            raise InvalidInput("minutes, epochs: give one of them")
        leasts = {"identities_per_batch": 2, "samples_per_identity": 2, "forgeries_per_identity": 0}
        leasts |= {
            "warm_start": 0,
            "validations": 1,
            "seed": 0,
            "checkpoints": 2,
            "memory": 0,
            "memory_warmup": 0,
            "mine_every": 0,
        }
        optional = {"chunk": 1, "memory_age": 1, "categories": 1}
        for name, least in (leasts | optional).items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if type(value) is not int or not least <= value < 2**63:
                raise InvalidInput(f"{name}={value!r} must be a whole number of {least} or more, below 2^63")
        for name in ("minutes", "epochs", "learning_rate", "clip"):
            value = getattr(self, name)
            if name != "learning_rate" and value is None:
                continue
            if not (_is_number(value) and value > 0):
                raise InvalidInput(f"{name}={value!r} must be a number above 0")
        for name in ("weight_decay", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (_is_number(value) and value >= 0):
                raise InvalidInput(f"{name}={value!r} must be a number of 0 or more")
        if not (_is_number(self.warmup) and 0 <= self.warmup < 1):
            raise InvalidInput(f"warmup={self.warmup!r} must be a share, from 0 to below 1")
        if not (_is_number(self.temper) and 0 <= self.temper <= 1):
            raise InvalidInput(f"temper={self.temper!r} must be a number from 0 to 1")
        if not (_is_number(self.mine_skip) and 0 <= self.mine_skip < 1):
            raise InvalidInput(f"mine_skip={self.mine_skip!r} must be a share, from 0 to below 1")
        if self.temper and (self.categories or self.mine_every):
            raise InvalidOption(
                "temper: batches by categories or by mining have every identity in its turn; leave it 0"
            )
        if self.categories is not None and 2 * self.categories > self.identities_per_batch:
            raise InvalidInput(
                f"categories={self.categories} must be at most half of the identities of a batch, "
                f"which are {self.identities_per_batch}"
            )
        if self.memory_momentum is not None and not (
            _is_number(self.memory_momentum) and 0 <= self.memory_momentum < 1
        ):
            raise InvalidInput(f"memory_momentum={self.memory_momentum!r} must be a number from 0 to below 1")
        for name in ("memory_age", "memory_warmup", "memory_momentum"):
            if getattr(self, name) and not self.memory:
                raise InvalidOption(f"{name} has no meaning without memory: set its rows")
        if self.precision not in PRECISIONS:
            raise InvalidOption.unknown("precision", self.precision, PRECISIONS)
        for name in ("doctor", "compile"):
            if type(getattr(self, name)) is not bool:
                raise InvalidInput(f"{name}={getattr(self, name)!r} must be true or false")
        check_choice("mining", self.mining, (AUTO_MINING, *MINING))
        self.criterion()

    def criterion(self) -> TripletLoss:
        """The loss that these settings name; with mining "auto" as it begins."""
        margin = AutoMargin() if self.margin == "auto" else self.margin
        return TripletLoss(margin, self.distance, Care(self.mining).mining_now, self.reduction)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Read what `to_json` wrote; what an older version did not know of stands as it was then.

        Raises:
            InvalidInput: A key that is missing or unknown, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        if not known - _YOUNGER <= set(values) <= known:
            raise InvalidInput(f"settings: keys {sorted(values)} where {sorted(known)} are needed")
        return cls(**values)


@final
@dataclass(frozen=True)
class Plan:
    """Everything that a training needs beside the data.

    Args:
        task: Name of the task.
        front_end: Turns a file into a sample.
        encoder: Shape of the network.
        augment: Changes a batch of training samples at random.
        settings: How to train.
        start: Weights that the encoder begins with, a part of its `state_dict`, such as a pretrained backbone's; those
            that are not in it are drawn. Not in the JSON: a run keeps them in a file of their own.

    Raises:
        InvalidInput: The front end does not make what the encoder takes.
    """

    task: str
    front_end: FrontEnd
    encoder: EncoderConfig
    augment: Augment
    settings: Settings
    start: Mapping[str, torch.Tensor] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.encoder.takes(self.front_end.shape):
            raise InvalidInput(f"front_end: makes {self.front_end.shape}, which this encoder does not take")

    def initial(self) -> nn.Module:
        """The encoder as training begins with it: `start`, and the rest drawn from torch's global generator.

        Raises:
            InvalidInput: `start` holds weights that the encoder does not have.
        """
        encoder = self.encoder.build()
        if self.start is not None:
            unknown = encoder.load_state_dict(dict(self.start), strict=False).unexpected_keys
            if unknown:
                raise InvalidInput(f"start: the encoder has no weights {unknown[0]!r}")
        return encoder

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; the task's name stands for the augmentation."""
        return {
            "task": self.task,
            "front_end": self.front_end.to_json(),
            "encoder": self.encoder.to_json(),
            "settings": self.settings.to_json(),
        }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
