"""Characters, signs, logos, drawings: things of lines, grey, in which left and right matter."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig, DescribedConfig
from tercet.tasks.task import Task
from tercet.train.augment import affine, erase, identity_skews, light
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make other characters of the few there are, by slant and proportion; then move, turn and cover each a little.

    Nothing is mirrored: b is no d.
    """
    skews = identity_skews(labels_B, generator, share=0.5, strength=0.3)
    x_BCHW = affine(x_BCHW, generator, shift=0.08, zoom=(0.85, 1.2), stretch=0.2, degrees=12, skew=0.1, skews_B22=skews)
    x_BCHW = light(x_BCHW, generator, contrast=0.2, brightness=0.1)
    return erase(x_BCHW, generator, side=0.3)


TASK = Task(
    name="characters",
    summary="characters, signs, logos and drawings: never mirrored; one picture a file, one folder a class",
    front_end=ImageFrontEnd(48, 48, 1, fit="pad"),
    encoder=DescribedConfig(ConvEncoderConfig(1, 48, 48, pool="flatten"), embedding_dim=256),
    augment=augment,
    settings=Settings(minutes=5.0, identities_per_batch=32),
)
