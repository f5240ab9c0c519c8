"""The kinds of data that tercet knows how to train on: one module each, found by its name.

A task says what a sample is (front end), which network suits it, how training samples may be changed without changing
whose they are, and the settings that have proved themselves. A new task is one new module here with a `TASK` in it.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tercet.data import read_front_end
from tercet.encoders import read_encoder
from tercet.errors import InvalidOption, RunError, TercetError
from tercet.run.bundle import START
from tercet.run.files import read_json, read_tensors
from tercet.tasks.task import Task
from tercet.train.plan import Plan, Settings

__all__ = ["Task", "load_task", "resume_plan", "task_names"]

_NO_TASKS = ("backbone", "task")  # the modules here that are none


def task_names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_TASKS))


def load_task(name: str) -> Task:
    """The task of a name.

    Raises:
        InvalidOption: There is none of this name.
    """
    if name not in task_names():
        raise InvalidOption.unknown("task", name, task_names())
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task


def resume_plan(out: Path) -> Plan:
    """The plan that a run was started with, to go on by.

    Raises:
        RunError: The folder holds no plan, or a damaged one.
    """
    values = read_json(out / "plan.json")
    start = read_tensors(out / START) if (out / START).is_file() else None
    try:
        return Plan(
            values["task"],
            read_front_end(values["front_end"]),
            read_encoder(values["encoder"]),
            load_task(values["task"]).augment,
            Settings.from_json(values["settings"]),
            start,
        )
    except (TercetError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{out / 'plan.json'}: damaged ({error})") from error
