from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tercet.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What stands on stdout, which must be exactly one JSON object on one line."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        value = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert isinstance(value, dict)
        return value

    def refused(self, *said: str) -> bool:
        """Whether it ended as bad input does: code 2, nothing on stdout, the last line of stderr saying why."""
        assert self.code == 2, self.err
        assert self.out == ""
        last = self.err.splitlines()[-1]
        assert last.startswith("tercet: ")
        assert "Traceback" not in self.err
        for words in said:
            assert words in last, (words, last)
        return True


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line in this process."""

    def run_now(*args: object) -> Ended:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run_now


PARTS = {"train": (0, 1, 2, 3, 4), "validation": (5, 6), "test": (7, 8, 9)}


def write_some_digits(folder: Path, each: int) -> None:
    """`each` pictures of every digit as folder/<digit>/<number>.png, and digits.csv with a split column."""
    digits = load_digits()
    part_of = {digit: part for part, some in PARTS.items() for digit in some}
    rows = []
    for digit, part in part_of.items():
        (folder / str(digit)).mkdir(parents=True)
        for number in np.flatnonzero(digits.target == digit)[:each]:
            name = f"{digit}/{number:04d}.png"
            Image.fromarray((digits.images[number] * 15.9).astype(np.uint8)).save(folder / name)
            rows.append((name, digit, part))
    with (folder / "digits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "identity", "split"), *rows])


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 25 pictures of each digit, with digits.csv beside them. Not to be changed."""
    folder = tmp_path_factory.mktemp("digits")
    write_some_digits(folder, 25)
    return folder


@pytest.fixture(scope="session")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on digits 0 to 4 for a few steps, not calibrated. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    args = ["train", digits / "digits.csv", "--task", "digits", "--epochs", "6", "--out", out, "--json"]
    assert main([str(arg) for arg in args]) == 0
    return out
