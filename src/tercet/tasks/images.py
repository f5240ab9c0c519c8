"""Natural photographs of things: products, places, animals; found again by what they show."""

from __future__ import annotations

import torch

from tercet.data import ImageFrontEnd
from tercet.data import picture_layouts as published
from tercet.encoders import ConvEncoderConfig, DescribedConfig
from tercet.tasks.task import Layout, Task
from tercet.train.augment import affine, erase, light
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror, another cut and angle, other light and white balance, a part covered."""
    x_BCHW = affine(x_BCHW, generator, shift=0.1, zoom=(0.85, 1.5), stretch=0.2, degrees=12, flip=True)
    x_BCHW = light(x_BCHW, generator, contrast=0.3, brightness=0.2, tint=0.1)
    return erase(x_BCHW, generator, side=0.4)


TASK = Task(
    name="images",
    summary="photographs of things: one picture a file, one folder a class",
    front_end=ImageFrontEnd(64, 64, 3),
    encoder=DescribedConfig(ConvEncoderConfig(3, 64, 64), embedding_dim=256),
    augment=augment,
    settings=Settings(minutes=10.0),
    layouts=(
        Layout(
            "cub",
            "CUB-200-2011: images.txt, image_class_labels.txt, images/",
            published.recognises_cub,
            published.read_cub,
        ),
        Layout("cars", "Cars-196: cars_annos.mat", published.recognises_cars, published.read_cars),
        Layout(
            "sop",
            "Stanford Online Products: Ebay_train.txt, Ebay_test.txt",
            published.recognises_sop,
            published.read_sop,
        ),
        Layout(
            "in-shop",
            "In-Shop Clothes Retrieval: list_eval_partition.txt",
            published.recognises_in_shop,
            published.read_in_shop,
        ),
        Layout(
            "oml",
            "open-metric-learning's CSV: label, path, split",
            published.recognises_oml,
            published.read_oml,
        ),
    ),
)
