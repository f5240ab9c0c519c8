"""Handwritten digits of 8 x 8 pixels, as scikit-learn brings them: the demonstration."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.tasks.task import Task
from tercet.train.augment import affine, light, turn_identities
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make other signs of the few there are, turning all samples of one; then slant, move and light each a little."""
    x_BCHW = turn_identities(x_BCHW, labels_B, generator, share=0.9)
    x_BCHW = affine(x_BCHW, generator, shift=0.12, skew=0.35)
    return light(x_BCHW, generator, contrast=0.3, brightness=0.2)


# Five digits are soon learnt by heart, and pressing all ways to write one into a single point is of no help to a digit
# that is not among them. So each sample is drawn to its nearest positive only (Xuan, Stylianou and Pless, Improved
# Embeddings with Easy Positive Triplet Mining, 2020), in small steps.
TASK = Task(
    name="digits",
    summary="handwritten digits of 8 x 8 pixels, for the demonstration",
    front_end=ImageFrontEnd(8, 8, 1, fit="stretch"),
    encoder=ConvEncoderConfig(1, 8, 8, embedding_dim=64, pool="flatten"),
    augment=augment,
    settings=Settings(
        identities_per_batch=8,
        samples_per_identity=12,
        mining="easy_positive",
        learning_rate=3e-4,
        minutes=0.75,
    ),
)
