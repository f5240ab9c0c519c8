from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from tercet.cli.digits import PARTS, PICTURES, write_digits
from tercet.data import ImageFrontEnd, Manifest, SampleStore, read_data, split_identities


def test_written_digits_are_those_of_scikit_learn_divided_by_digit(tmp_path: Path) -> None:
    found = read_data(write_digits(tmp_path), suffixes=ImageFrontEnd.SUFFIXES)
    digits = load_digits()
    assert found.skipped == ()
    parts: dict[str, set[int]] = {part: set() for part in PARTS}
    for row in found.rows:
        number = int(row.identity[2:] if row.split == "train" else row.path.stem)
        assert int(row.identity[0]) == digits.target[number]
        parts[row.split].add(int(row.identity[0]))
    assert parts == {part: set(some) for part, some in PARTS.items()}
    assert sorted(digit for some in PARTS.values() for digit in some) == list(range(10))
    split = split_identities(found, seed=0)
    assert split.validation == tuple(map(str, PARTS["validation"]))
    assert split.test == tuple(map(str, PARTS["test"]))
    # Every training picture is an identity of two equal files.
    assert set(found.of(split.train).counts().values()) == {2}
    assert len(split.train) == int(np.isin(digits.target, PARTS["train"]).sum())


def test_the_pictures_themselves_are_a_plain_folder_of_the_ten_digits(tmp_path: Path) -> None:
    write_digits(tmp_path)
    found = read_data(tmp_path / PICTURES, suffixes=ImageFrontEnd.SUFFIXES)
    digits = load_digits()
    assert isinstance(found, Manifest) and len(found) == 1797
    with SampleStore.read(found, ImageFrontEnd(8, 8, 1)) as store:
        pixels = store.take(np.arange(len(store))).numpy()[:, 0]
    numbers = [int(row.path.stem) for row in found.rows]
    np.testing.assert_array_equal(np.round(pixels / (255 / 16)), digits.images[numbers])
    assert [int(row.identity) for row in found.rows] == digits.target[numbers].tolist()
