"""Faces: aligned or at least centred, one in a picture; grey, since colour is the light's and the camera's."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.data import picture_layouts as published
from tercet.encoders import ConvEncoderConfig, DescribedConfig
from tercet.tasks.task import Layout, Task
from tercet.train.augment import affine, erase, identity_skews, light
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make other faces of the few there are, by their proportions; then mirror, move, light and cover each a little."""
    skews = identity_skews(labels_B, generator, share=0.8, strength=0.2)
    x_BCHW = affine(x_BCHW, generator, shift=0.06, zoom=(0.9, 1.15), stretch=0.1, degrees=8, flip=True, skews_B22=skews)
    x_BCHW = light(x_BCHW, generator, contrast=0.3, brightness=0.2, slope=0.2)
    return erase(x_BCHW, generator, side=0.4)


TASK = Task(
    name="faces",
    summary="faces, cropped or aligned: one picture a file, one folder a person",
    front_end=ImageFrontEnd(64, 64, 1),
    encoder=DescribedConfig(ConvEncoderConfig(1, 64, 64, pool="flatten", flip_test=True), embedding_dim=256),
    augment=augment,
    settings=Settings(minutes=2.0),
    layouts=(
        Layout(
            "vggface2",
            "VGGFace2: train/n000002/0001_01.jpg and test/",
            published.recognises_vggface2,
            published.read_vggface2,
        ),
        Layout(
            "lfw",
            "LFW: Abel_Pacheco/Abel_Pacheco_0001.jpg; its pairs.txt is for --pairs",
            published.LFW.recognise,
            published.LFW.read,
        ),
        Layout("orl", "ORL (AT&T): s1/1.pgm to s40/10.pgm", published.ORL.recognise, published.ORL.read),
        Layout(
            "casia",
            "CASIA-WebFace: 0000045/001.jpg, or 0_0_0000045/0_1.jpg as insightface has it",
            published.CASIA.recognise,
            published.CASIA.read,
        ),
    ),
)
