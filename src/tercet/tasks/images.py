"""Natural photographs of things: products, places, animals; found again by what they show."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.tasks.task import Task
from tercet.train.augment import affine, erase, light, tint
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror, another cut and angle, other light and white balance, a part covered."""
    x_BCHW = affine(x_BCHW, generator, shift=0.1, zoom=(0.85, 1.5), stretch=0.2, degrees=12, flip=True)
    x_BCHW = light(x_BCHW, generator, contrast=0.3, brightness=0.2)
    x_BCHW = tint(x_BCHW, generator, strength=0.1)
    return erase(x_BCHW, generator, side=0.4)


TASK = Task(
    name="images",
    summary="photographs of things: one picture a file, one folder a class",
    front_end=ImageFrontEnd(64, 64, 3),
    encoder=ConvEncoderConfig(3, 64, 64),
    augment=augment,
    settings=Settings(minutes=10.0),
)
