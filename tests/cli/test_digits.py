from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from tercet.cli.digits import PARTS, write_digits
from tercet.data import ImageFrontEnd, SampleStore, read_data, split_identities


def test_written_digits_are_those_of_scikit_learn_divided_by_digit(tmp_path: Path) -> None:
    found = read_data(write_digits(tmp_path), suffixes=ImageFrontEnd.SUFFIXES)
    digits = load_digits()
    assert len(found) == 1797
    assert found.skipped == ()
    with SampleStore.read(found, ImageFrontEnd(8, 8, 1)) as store:
        assert store.manifest.skipped == ()
        pixels = store.take(np.arange(len(store))).numpy()[:, 0]
    numbers = [int(row.path.stem) for row in found.rows]
    np.testing.assert_array_equal(np.round(pixels / (255 / 16)), digits.images[numbers])
    assert [int(row.identity) for row in found.rows] == digits.target[numbers].tolist()
    split = split_identities(found, seed=0)
    parts = {part: tuple(map(int, getattr(split, part))) for part in PARTS}
    assert parts == PARTS
    assert sorted(digit for some in PARTS.values() for digit in some) == list(range(10))
    # The same folder without its CSV is a plain folder of identities.
    assert len(read_data(tmp_path, suffixes=ImageFrontEnd.SUFFIXES)) == 1797
