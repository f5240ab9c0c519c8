"""Handwritten digits of 8 x 8 pixels, as scikit-learn brings them: the demonstration."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.tasks.task import Task
from tercet.train.augment import affine
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, turn and stretch each as another hand might have written it."""
    return affine(x_BCHW, generator, shift=0.1, zoom=(0.8, 1.2), stretch=0.2, degrees=15)


# Many identities of two samples each, since the demo makes every training picture one (see tercet.cli.digits).
TASK = Task(
    name="digits",
    summary="handwritten digits of 8 x 8 pixels, for the demonstration",
    front_end=ImageFrontEnd(8, 8, 1, fit="stretch"),
    encoder=ConvEncoderConfig(1, 8, 8, embedding_dim=64, pool="flatten"),
    augment=augment,
    settings=Settings(identities_per_batch=120, samples_per_identity=2, minutes=0.75),
)
