"""Made-up identities to train on in a second: each a pattern, each picture of it with its own noise and light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tercet.data import ImageFrontEnd, Manifest, read_data
from tercet.encoders import ConvEncoderConfig, DescribedConfig
from tercet.train import Plan, Settings
from tercet.train.augment import affine


def write_people(folder: Path, *, people: int = 10, pictures: int = 6, seed: int = 0, side: int = 8) -> Path:
    """A folder of one folder per identity, with PNG pictures."""
    random = np.random.default_rng(seed)
    for person in range(people):
        (folder / f"p{person:02d}").mkdir(parents=True)
        pattern = random.normal(size=(side, side)) * 40
        for picture in range(pictures):
            noisy = 128 + pattern + random.normal(size=(side, side)) * 35 + random.normal() * 20
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(folder / f"p{person:02d}" / f"{picture}.png")
    return folder


def read_people(folder: Path) -> Manifest:
    return read_data(folder, suffixes=ImageFrontEnd.SUFFIXES)


def augment(x_BCHW, labels_B, generator):
    return affine(x_BCHW, generator, shift=0.05)


def tiny_plan(*, described: bool = False, **settings) -> Plan:
    """A network of 8 channels on 8 x 8 pictures, or on 16 x 16 beside their description: milliseconds a step."""
    small = {"epochs": 4, "identities_per_batch": 4, "samples_per_identity": 3, "validations": 4}
    if "minutes" in settings:
        small["epochs"] = None
    side = 16 if described else 8
    network = ConvEncoderConfig(1, side, side, embedding_dim=8, base_width=8, pool="flatten")
    encoder = DescribedConfig(network, embedding_dim=14) if described else network
    front_end = ImageFrontEnd(side, side, 1, fit="stretch")
    return Plan("digits", front_end, encoder, augment, Settings(**(small | settings)))
