"""What a command writes: one JSON object or readable text on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tercet.report.page import Figure

__all__ = ["JsonOption", "Screen", "plain", "program"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]

WIDE = 10_000
SHOWN = ("EER", "recall@1", "MAP@R")


def plain(text: str) -> str:
    """The text with control characters escaped: a file's name must not steer the reader's terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def program() -> str:
    """How the reader can call tercet from here: by name where the shell finds it, else by the path of this one."""
    beside = Path(sys.argv[0])
    if shutil.which("tercet") or beside.name != "tercet":
        return "tercet"
    inside = beside.absolute()
    return str(inside.relative_to(Path.cwd()) if inside.is_relative_to(Path.cwd()) else inside)


@final
class Screen:
    """Where one command writes.

    Without `--json`, results are text on stdout; with it, stdout carries exactly one JSON object and the same text
    goes to stderr. Notes and progress always go to stderr.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # File names may hold [brackets] and :colons:, which must not be read as markup.
        self.notes = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self.results = Console(stderr=as_json, markup=False, highlight=False, emoji=False)
        if not self.results.is_terminal:
            self.results.width = WIDE  # a file or a pipe has no edge at which rows must be folded

    def note(self, text: str) -> None:
        """One line on stderr."""
        self.notes.print(_lines(text), soft_wrap=True)

    def say(self, text: str = "") -> None:
        """One line of the result as text."""
        self.results.print(_lines(text), soft_wrap=True)

    def title(self, text: str) -> None:
        """A heading in the result's text."""
        self.results.print()
        self.results.print(Text(text, style="bold"))

    def emit(self, result: Mapping[str, Any]) -> None:
        """The result as one JSON object on stdout; nothing without `--json`."""
        if self.as_json:
            if sys.stdout is None:  # closed by whoever called: an answer that nobody gets is none
                raise BrokenPipeError(errno.EPIPE, "stdout is closed")
            typer.echo(json.dumps(_plain(result), allow_nan=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """A table; `right` names the columns that are set flush right."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(Text(plain(column)), justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self.results.print()
        self.results.print(table)
        self.results.print()

    def figures(self, evaluation: Mapping[str, Any]) -> None:
        """The short table of an evaluation: the baselines, then the model, with 95 % intervals where they are known."""
        from tercet.report.words import columns_and_systems

        def cell(figure: Figure) -> str:
            return f"{figure.value} [{figure.interval}]" if figure.interval else figure.value

        columns, systems = columns_and_systems(evaluation)
        shown = [i for i, (heading, _) in enumerate(columns) if heading in SHOWN]
        self.table(
            ("", *(columns[i][0] for i in shown)),
            [(system.name, *(cell(system.figures[i]) for i in shown)) for system in systems],
            right=range(1, len(shown) + 1),
        )

    def skipped(self, skipped: Sequence[Mapping[str, str]], *, most: int = 5) -> None:
        """Say how many files were left out, and name the first few with their reasons."""
        if not skipped:
            return
        self.note(f"skipped {len(skipped)} {'file' if len(skipped) == 1 else 'files'}:")
        for item in skipped[:most]:
            self.note(plain(f"  {item['path']}: {item['reason']}"))
        if len(skipped) > most:
            self.note(f"  and {len(skipped) - most} more")


def _plain(value: Any) -> Any:
    """The value in JSON's own types; a figure that does not exist (NaN, infinity) becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
