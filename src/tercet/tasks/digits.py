"""Handwritten digits of 8 x 8 pixels, as scikit-learn brings them: the demonstration."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.tasks.task import Task
from tercet.train.augment import affine, light
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, turn and stretch a little; never mirror, a mirrored digit is another sign."""
    x_BCHW = affine(x_BCHW, generator, shift=0.1, zoom=(0.85, 1.2), stretch=0.2, degrees=12)
    return light(x_BCHW, generator, contrast=0.2, brightness=0.1)


TASK = Task(
    name="digits",
    summary="handwritten digits of 8 x 8 pixels, for the demonstration",
    front_end=ImageFrontEnd(8, 8, 1, fit="stretch"),
    encoder=ConvEncoderConfig(1, 8, 8, embedding_dim=64, pool="flatten"),
    augment=augment,
    settings=Settings(minutes=0.5),
)
