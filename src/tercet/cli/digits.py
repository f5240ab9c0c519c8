"""The demo's data: scikit-learn's handwritten digits as picture files, divided by digit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["PARTS", "PICTURES", "write_digits"]

# The test is on digits that neither the training nor the choice of the best weights and of the threshold has met. How
# other divisions come out, the worst included, stands in docs/log.md.
PARTS = {"train": (0, 3, 6, 8, 9), "validation": (2, 5), "test": (1, 4, 7)}
PICTURES = "digits"  # the folder with all pictures, one folder a digit


def write_digits(folder: Path) -> Path:
    """Write the 1,797 pictures of `sklearn.datasets.load_digits` as `folder/digits/<digit>/<number>.png`, 8 x 8, grey.

    Returns the manifest `folder/digits.csv`, whose split column says which digits are trained on. Five classes say
    little about what a sixth looks like, but a thousand pictures say a lot about which changes of a picture do not
    matter. So each training picture is an identity of its own there, `training/<digit>-<number>/`, standing twice: the
    augmentation makes two different samples of it. Validation and test identities are the digits.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
    (CC BY 4.0).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    part_of = {digit: part for part, some in PARTS.items() for digit in some}
    rows = []
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        picture = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        names = [f"{PICTURES}/{digit}/{number:04d}.png"]
        _save(picture, folder / names[0])
        part, identity = part_of[int(digit)], str(digit)
        if part == "train":
            identity = f"{digit}-{number:04d}"
            names = [f"training/{identity}/{copy}.png" for copy in ("first", "second")]
            for name in names:
                _save(picture, folder / name)
        rows += [(name, identity, part) for name in names]
    manifest = folder / "digits.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "identity", "split"))
        writer.writerows(rows)
    return manifest


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
