"""A run folder while it is trained into: started once, resumed only with the plan and the data it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercet.errors import RunError
from tercet.run import RunSplit
from tercet.run.bundle import START, read_split, write_split
from tercet.run.files import read_json, write_json, write_tensors
from tercet.train.plan import Plan, Settings

__all__ = ["fix_split", "open_folder"]

DATA = "data"  # a run folder may come with its own data in a folder of this name, as the demonstration's does
# A longer budget lets a finished training go on; the others change how a step is computed, not what it comes to.
_MAY_CHANGE = ("minutes", "epochs", "chunk", "compile", "checkpoints", "checkpoint_seconds")


def open_folder(out: Path, plan: Plan, *, resume: bool) -> None:
    """Start a run folder with its plan, or see that the one there was started with the same.

    Raises:
        RunError: Something is in the way, there is nothing to resume, the plan is another, or it cannot be written.
        InvalidInput: The settings of the run that is there are none.
    """
    if not resume:
        if out.exists() and not (out.is_dir() and all(entry.name == DATA for entry in out.iterdir())):
            raise RunError(f"{out}: is there already; choose another --out, or go on with --resume")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out}: cannot be made ({error.strerror or error})") from error
    elif not (out / "plan.json").is_file():
        raise RunError(f"{out}: nothing to resume here (no plan.json)")
    else:
        before = read_json(out / "plan.json")
        # A run from before a setting was known stands where that setting's default does.
        started = _flat(before | {"settings": Settings.from_json(before.get("settings", {})).to_json()})
        given = _flat(plan.to_json())
        for key in sorted(given.keys() | started.keys()):
            if given.get(key) != started.get(key) and key.removeprefix("settings.") not in _MAY_CHANGE:
                raise RunError(f"{out}: was started with {key}={started.get(key)!r}, not {given.get(key)!r}")
    if plan.start is not None and not resume:
        write_tensors(out / START, plan.start)
    write_json(out / "plan.json", plan.to_json())


def fix_split(out: Path, split: RunSplit) -> None:
    """Write who is trained on and the checksums of their files; on resuming see that they are the same.

    Raises:
        RunError: The data have changed, or it cannot be written.
    """
    if (out / "split.json").is_file() and read_split(out) != split:
        raise RunError(f"{out}: the data are not those that this training was started with")
    write_split(out, split)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
