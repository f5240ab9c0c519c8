from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercet.data import Manifest, Row


@pytest.fixture
def shared_data() -> Path:
    """Real data, which is never part of the project."""
    folder = Path(os.environ.get("TERCET_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; name a folder that has it in $TERCET_DATA")
    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A smooth colour picture that differs in each corner, so that a wrong turn or channel shows."""

    def make(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        rgb = np.stack([255 * x, 255 * y, 127 + 60 * x * y], axis=-1).astype(np.uint8)
        return Image.fromarray(rgb).convert(mode)

    return make


@pytest.fixture
def folder_of_faces(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    """Three identities with 3, 2 and 1 pictures."""
    for identity, count in (("ada", 3), ("bob", 2), ("eve", 1)):
        (tmp_path / "faces" / identity).mkdir(parents=True)
        for n in range(count):
            picture(20 + n, 20).save(tmp_path / "faces" / identity / f"{n}.png")
    return tmp_path / "faces"


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., Manifest]:
    """A manifest without files, from the number of samples of each identity."""

    def make(counts: dict[str, int], splits: dict[str, str] | None = None) -> Manifest:
        root = Path("/nowhere")
        rows = tuple(
            Row(root / name / f"{n}.png", name, split=(splits or {}).get(name, ""))
            for name, count in counts.items()
            for n in range(count)
        )
        return Manifest(root, rows)

    return make
