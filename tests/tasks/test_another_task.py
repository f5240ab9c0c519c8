"""A further application is one new file: it is found, named, trained, tested and used, and nothing else is changed."""

from __future__ import annotations

import json

import pytest

import tercet.tasks
from synthetic import write_people
from tercet.cli.main import main
from tercet.errors import InvalidOption
from tercet.tasks import load_task, task_names

LEAVES = '''"""Leaves: pressed and scanned, one picture a file; kept in one folder, the plant's name before a dash."""

from tercet.data import ImageFrontEnd, Manifest, Row
from tercet.encoders import ConvEncoderConfig
from tercet.tasks.task import Layout, Task
from tercet.train.augment import affine
from tercet.train.plan import Settings


def recognise(path):
    return (path / "leaves.txt").is_file()


def read(path, suffixes):
    files = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    return Manifest(path, tuple(Row(file.resolve(), file.name.split("-")[0]) for file in files))


def augment(x_BCHW, labels_B, generator):
    return affine(x_BCHW, generator, degrees=180, flip=True)


TASK = Task(
    name="leaves",
    summary="leaves of plants",
    front_end=ImageFrontEnd(8, 8, 1),
    encoder=ConvEncoderConfig(1, 8, 8, embedding_dim=8, base_width=8),
    augment=augment,
    settings=Settings(epochs=1, identities_per_batch=4, samples_per_identity=3, validations=2),
    layouts=(Layout("herbarium", "one folder, the plant's name before a dash", recognise, read),),
)
'''


@pytest.fixture
def leaves(tmp_path, monkeypatch):
    """A folder of leaves, and a file beside the tasks of tercet that knows what they are."""
    added = tmp_path / "added"
    added.mkdir()
    (added / "leaves.py").write_text(LEAVES)
    monkeypatch.setattr(tercet.tasks, "__path__", [*tercet.tasks.__path__, str(added)])
    written = write_people(tmp_path / "written", people=9, pictures=4)
    folder = tmp_path / "herbarium"
    folder.mkdir()
    (folder / "leaves.txt").write_text("pressed\n")
    for picture in written.glob("*/*.png"):
        picture.rename(folder / f"{picture.parent.name}-{picture.name}")
    return folder


def test_one_new_file_is_a_whole_application(leaves, tmp_path, capsys):
    assert "leaves" in task_names() and load_task("leaves").summary == "leaves of plants"
    out = tmp_path / "run"
    assert main(["train", str(leaves), "--task", "leaves", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "leaves" and found["trained_on"] == {"train": 5, "validation": 2, "test": 2}
    assert main(["train", "--resume", str(leaves), "--out", str(out), "--epochs", "2"]) == 0
    one, other = str(leaves / "p00-0.png"), str(leaves / "p00-1.png")
    assert main(["verify", str(out), one, other]) == 3, "no threshold yet"


def test_what_asks_for_a_task_names_it(leaves, tmp_path, capsys):
    assert main(["train", str(leaves), "--out", str(tmp_path / "run")]) == 2
    assert "--task is needed: " in (said := capsys.readouterr().err) and "leaves" in said
    with pytest.raises(InvalidOption, match="'leaves'"):
        load_task("birds")
