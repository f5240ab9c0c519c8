"""A small trained model and its data, shared by the tests of the protocol."""

import pytest

import tercet
from synthetic import read_people, tiny_plan, write_people
from tercet.train import train


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """Twenty made-up people with six pictures each."""
    return write_people(tmp_path_factory.mktemp("protocol") / "people", people=20, pictures=6)


@pytest.fixture(scope="session")
def trained(people, tmp_path_factory):
    """A run trained on them for a moment; copy it before writing into it."""
    return train(read_people(people), tiny_plan(epochs=8), tmp_path_factory.mktemp("protocol-run") / "run")


@pytest.fixture
def model(trained, tmp_path):
    """A run of its own for one test."""
    import shutil

    return tercet.load(shutil.copytree(trained, tmp_path / "run"))
