from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synthetic import read_people, tiny_plan, write_people
from tercet.data import split_identities
from tercet.encoders import build_encoder
from tercet.run import RunSplit, save_model


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_people(tmp_path / "people")


@pytest.fixture
def save(people: Path):
    """Write a run with fresh weights; returns its fingerprint."""

    def write(path: Path, *, seed: int = 0) -> str:
        plan = tiny_plan(seed=seed)
        torch.manual_seed(seed)
        return save_model(
            path,
            task="digits",
            seed=seed,
            front_end=plan.front_end,
            encoder=plan.encoder.to_json(),
            weights=build_encoder(plan.encoder.to_json()).state_dict(),
            split=RunSplit(split_identities(read_people(people), seed=0), {"train": ("a" * 32,), "validation": ()}),
            training=plan.settings.to_json(),
            data={"path": str(people)},
            metrics={"steps": 0},
        )

    return write


@pytest.fixture
def run(tmp_path: Path, save) -> Path:
    save(tmp_path / "run")
    return tmp_path / "run"
