import json
from dataclasses import replace

import pytest
import torch

from synthetic import read_people, tiny_plan, write_people
from tercet.errors import DataError, InvalidInput, InvalidOption, RunError
from tercet.tasks import load_task, resume_plan, task_names
from tercet.tasks.task import Layout
from tercet.train import train


@pytest.mark.parametrize("name", task_names())
def test_a_task_fits_together_and_says_what_it_is(name):
    task = load_task(name)
    assert task.name == name and task.summary and task.suffixes
    plan = task.plan()
    x_B = torch.rand(4, *task.front_end.shape) * 2 - 1
    changed = task.augment(x_B, torch.tensor([0, 0, 1, 1]), torch.Generator().manual_seed(0))
    assert len(changed) == 4 and plan.encoder.takes(tuple(changed.shape[1:])) and changed.abs().max() <= 1 + 1e-5
    assert changed.shape != x_B.shape or not torch.equal(changed, x_B)


def test_the_tasks_there_are_and_one_that_is_not():
    assert {"digits", "faces", "images"} <= set(task_names())
    for unknown in ("birds", "task", "__init__", "../faces"):
        with pytest.raises(InvalidOption, match=r"task=.*'digits', 'faces', 'images'"):
            load_task(unknown)


def test_settings_of_a_plan_can_be_replaced_and_one_budget_replaces_the_other():
    task = load_task("faces")
    plan = task.plan(embedding_dim=32, epochs=3, margin=0.5, seed=9)
    assert plan.encoder.embedding_dim == 32
    settings = plan.settings
    assert (settings.epochs, settings.minutes, settings.margin, settings.seed) == (3, None, 0.5, 9)
    assert task.plan(minutes=1).settings.minutes == 1
    with pytest.raises(InvalidInput, match="minutes, epochs"):
        task.plan(minutes=1, epochs=1)
    with pytest.raises(InvalidInput, match=r"settings: .*speed"):
        task.plan(speed=3)
    with pytest.raises(InvalidOption, match="mining="):
        task.plan(mining="best")


def test_the_plan_of_a_run_is_found_again(tmp_path):
    plan = tiny_plan(epochs=1, margin=0.3)
    train(read_people(write_people(tmp_path / "people")), plan, tmp_path / "run")
    found = resume_plan(tmp_path / "run")
    assert found.to_json() == plan.to_json() and found.augment is load_task("digits").augment


def test_a_missing_or_damaged_plan_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"plan\.json: cannot be read"):
        resume_plan(tmp_path)
    whole = tiny_plan().to_json()
    for damage in (
        {},
        whole | {"task": "birds"},
        whole | {"settings": {}},
        whole | {"encoder": 3},
        whole | {"task": 3},
    ):
        (tmp_path / "plan.json").write_text(json.dumps(damage))
        with pytest.raises(RunError, match=r"plan\.json: damaged"):
            resume_plan(tmp_path)


def test_a_task_reads_its_own_layouts_before_the_general_ones(tmp_path):
    """A layout is asked for by name, or recognised; what no layout recognises is a folder per identity or a CSV."""
    folder = write_people(tmp_path / "people")
    (folder / "names.txt").write_text("a\n")

    def read(path, suffixes):
        raise DataError(f"{path / 'names.txt'}, line 1: not a name")

    listed = Layout("listed", "with names.txt", lambda path: (path / "names.txt").is_file(), read)
    task = replace(load_task("digits"), layouts=(listed,))
    for layout in ("auto", "listed"):
        with pytest.raises(DataError, match=r"names\.txt, line 1: not a name"):
            task.read(folder, layout=layout)
    assert len(task.read(folder, layout="folders")) > 0
    (folder / "names.txt").unlink()
    assert len(task.read(folder)) > 0
    with pytest.raises(InvalidOption, match=r"layout='birds'.*'listed'"):
        task.read(folder, layout="birds")


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("characters", False), ("digits", False), ("signatures", False), ("faces", True), ("images", True)],
)
def test_what_is_written_is_never_mirrored_and_photographs_are(name, mirrored):
    """A bar at the left edge, ink on paper: after every change most of its ink still lies left of the middle."""
    task = load_task(name)
    ink = 1 if name in ("digits", "signatures") else -1  # these are bright on black
    x_BCHW = torch.full((64, *task.front_end.shape), -float(ink))
    width = x_BCHW.shape[3]
    x_BCHW[..., width // 8 : width // 4] = ink
    labels_B, generator = torch.arange(64) // 2, torch.Generator().manual_seed(0)
    ink_BW = ink * task.augment(x_BCHW, labels_B, generator).mean(dim=(1, 2))
    right_B = ink_BW[:, width // 2 :].sum(dim=1) > ink_BW[:, : width // 2].sum(dim=1)
    share = float(right_B.float().mean())
    assert 0.2 < share < 0.8 if mirrored else share == 0
