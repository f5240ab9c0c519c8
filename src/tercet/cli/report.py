"""`report`: one self-contained HTML page about a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.output import JsonOption, Screen
from tercet.cli.progress import scoring
from tercet.cli.use import LayoutOption, RunArgument, read_store

__all__ = ["make_report", "report"]

PAGE = "report.html"


def report(
    run: RunArgument,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]", help="What to score; without it the data that the run was trained on.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Where the page goes.", show_default="RUN/report.html")
    ] = None,
    layout: LayoutOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a page with figures, baselines, real search results, the hardest pairs, training curves and provenance.

    The page holds samples from DATA: treat it as you treat the data.
    """
    from tercet.errors import InvalidInput

    screen = Screen(as_json=as_json)
    if out is not None and out.exists() and not _is_report(out):
        raise InvalidInput(f"{out}: is there already and is no report of tercet; name another file or remove it")
    page = make_report(run, data, out or run / PAGE, layout, screen)
    screen.say(f"report: {page}")
    screen.emit({"report": str(page), "run": str(run)})


def _is_report(file: Path) -> bool:
    """Whether a file is empty or a page that this command wrote, which may be written again."""
    if not file.is_file():
        return False
    with file.open("rb") as text:
        start = text.read(4096)
    return not start or b'<meta name="generator" content="tercet">' in start


def make_report(run: Path, data: Path | None, out: Path, layout: str, screen: Screen) -> Path:
    """Score the run on the data and write the page."""
    from tercet.errors import DataError
    from tercet.report.collect import collect, invocation
    from tercet.report.page import render
    from tercet.run import load
    from tercet.run.files import write_bytes
    from tercet.tasks import load_task

    model = load(run)
    given = data
    if data is None:
        data, layout = invocation(model)
        if not data.exists():
            raise DataError(f"{data}: the run's data are not there any more; name other data: tercet report {run} DATA")
    manifest = load_task(model.task).read(data, layout=layout)
    with read_store(manifest, model, screen) as store, scoring(screen.notes) as tell:
        page = collect(model, store, commands=_commands(run, data, given, layout), on_phase=tell)
    write_bytes(out, render(page).encode())
    return out


def _commands(run: Path, data: Path, given: Path | None, layout: str) -> tuple[tuple[str, str], ...]:
    """The command lines that make the page and its figures again."""
    how = [] if layout == "auto" else ["--layout", layout]
    page = [str(run)] if given is None else [str(run), str(given), *how]
    return (
        ("This page", shlex.join(["tercet", "report", *page])),
        ("Its figures", shlex.join(["tercet", "evaluate", str(run), str(data), *how, "--seed", "0", "--json"])),
    )
