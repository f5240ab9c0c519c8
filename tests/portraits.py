"""Made-up faces in photographs: one portrait that ships with matplotlib, bent into other people and taken anew."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageEnhance

PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def portrait(
    random: np.random.Generator, proportions: np.ndarray, *, width: int = 150, height: int = 180
) -> Image.Image:
    """The face with these proportions [2, 2], as one more photograph: moved a little, in another light."""
    face = Image.open(PORTRAIT).convert("RGB").crop((120, 30, 420, 390)).resize((width, height))
    shift = random.normal(size=2) * 2
    centre = np.array([width / 2, height / 2])
    offset = centre - proportions @ centre + shift
    bent = face.transform(
        face.size,
        Image.Transform.AFFINE,
        (*proportions[0], offset[0], *proportions[1], offset[1]),
        Image.Resampling.BICUBIC,
        fillcolor="grey",
    )
    return ImageEnhance.Brightness(bent).enhance(random.uniform(0.8, 1.2))


def write_portraits(folder: Path, *, people: int, pictures: int, first: int = 0) -> Path:
    """A folder of one folder per made-up person, with JPEG pictures."""
    for person in range(first, first + people):
        random = np.random.default_rng(person)
        proportions = np.diag(random.uniform(0.85, 1.1, size=2)) + random.uniform(-0.04, 0.04, size=(2, 2))
        place = folder / f"person{person:02d}"
        place.mkdir(parents=True)
        for picture in range(pictures):
            portrait(random, proportions).save(place / f"{picture}.jpg", quality=92)
    return folder
