from __future__ import annotations

import pytest

from synthetic import read_people, write_people
from tercet.data import Manifest


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Ten made-up identities with six pictures each; read only."""
    return read_people(write_people(tmp_path_factory.mktemp("data") / "people"))
