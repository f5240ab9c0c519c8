"""Made-up writers: each signs with a curve of its own, and others imitate it, less well and in their own slant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw(points_N2: np.ndarray, *, size: tuple[int, int] = (160, 80), pen: int = 3, paper: int = 255, ink: int = 20):
    """A grey picture of a line through points of the unit square."""
    image = Image.new("L", size, paper)
    at = [(float(x) * (size[0] - 20) + 10, float(y) * (size[1] - 20) + 10) for x, y in points_N2]
    ImageDraw.Draw(image).line(at, fill=ink, width=pen, joint="curve")
    return image


def signature(shape: np.ndarray, random: np.random.Generator, *, jitter: float, slant: float = 0.0) -> np.ndarray:
    """Points [80, 2] of a signature: a drifting sum of waves, its numbers shaken by `jitter`, slanted."""
    amplitude, phase = shape[0], shape[1] + jitter * random.normal(size=shape[1].shape)
    amplitude = amplitude * np.exp(jitter * random.normal(size=amplitude.shape))
    t = np.linspace(0, 1, 80)
    frequency = np.arange(1, shape.shape[-1] + 1)
    wave = (amplitude[:, :, None] * np.sin(2 * np.pi * frequency[:, None] * t + phase[:, :, None])).sum(axis=1)
    x, y = t + 0.15 * wave[0], wave[1]
    x = x + slant * (y - y.mean())
    points = np.stack([x, y], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / np.maximum(high - low, 1e-6)


def write_writers(
    folder: Path, *, writers: int = 10, genuine: int = 6, forged: int = 4, seed: int = 0, name: str = "{:03d}"
) -> Path:
    """A folder of writers, in each genuine/ and forged/, as SigComp 2011 is laid out."""
    random = np.random.default_rng(seed)
    for writer in range(1, writers + 1):
        shape = np.stack([random.uniform(0.2, 1, size=(2, 5)), random.uniform(0, 2 * np.pi, size=(2, 5))])
        place = folder / name.format(writer)
        for kind, count, jitter in (("genuine", genuine, 0.08), ("forged", forged, 0.3)):
            (place / kind).mkdir(parents=True)
            for number in range(1, count + 1):
                slant = 0.1 if kind == "forged" else 0.0
                picture = draw(signature(shape, random, jitter=jitter, slant=slant), pen=int(random.integers(2, 4)))
                stem = (
                    f"{writer:03d}_{number:02d}"
                    if kind == "genuine"
                    else f"{200 + number:04d}{writer:03d}_{number:02d}"
                )
                picture.save(place / kind / f"{stem}.png")
    return folder
