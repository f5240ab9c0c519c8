"""`bench`: tables measured on the user's own machine, against peers that are installed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tercet.cli.output import JsonOption, Screen
from tercet.cli.progress import SECONDS_BETWEEN_LINES
from tercet.errors import InvalidInput

__all__ = ["app"]

app = typer.Typer(
    help="Measure tercet on this machine, against peers that are installed.", no_args_is_help=True, add_completion=False
)

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@app.callback()
def _root() -> None:
    """One table per sub-command."""


@app.command("losses")
def losses(
    rows: Annotated[
        int, typer.Option(help="Rows of the batch in the table.", show_default="512; 256 with --quick")
    ] = 0,
    width: Annotated[int, typer.Option(help="Columns of the embeddings.")] = 128,
    samples_per_class: Annotated[int, typer.Option(help="Rows of each class.")] = 4,
    threads: Annotated[int, typer.Option(help="Threads.", show_default="all cores")] = 0,
    rounds: Annotated[
        int, typer.Option(help="How often everyone is timed, by turns.", show_default="7; 3 with --quick")
    ] = 0,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What a step may take beside its batch, as 500MB or 2GB.")
    ] = "1GB",
    seconds: Annotated[
        float,
        typer.Option(
            help="How long a step may take in the search for the largest batch.", show_default="1; 0.25 with --quick"
        ),
    ] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Whether installed libraries take part.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Two cases, a small batch, a coarse search.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw time and memory against the batch.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all figures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time, peak memory and largest batch of every mining mode, beside one matrix product and installed peers.

    Loss and gradient of everyone are compared with the definition before any time is taken; who differs is left out.
    """
    import os

    from tercet.bench.contenders import CASES, QUICK
    from tercet.bench.losses import Plan, bench_losses, resolve_device
    from tercet.run.files import write_bytes, write_json

    plan = Plan(
        rows=rows or (256 if quick else 512),
        width=width,
        samples_per_class=samples_per_class,
        threads=threads or os.cpu_count() or 1,
        rounds=rounds or (3 if quick else 7),
        device=resolve_device(device),
        memory=_bytes(memory),
        seconds=seconds or (0.25 if quick else 1.0),
        cases=QUICK if quick else tuple(CASES),
        peers=peers,
        closer=not quick,
    )
    for option, path in (("plot", plot), ("out", out)):
        if path is not None and not path.parent.is_dir():
            raise InvalidInput(f"{option}: {path.parent} is no folder")
    screen = Screen(as_json=as_json)
    with _Measuring(screen.notes) as tell:
        result = bench_losses(plan, tell)
    _print(result, screen)
    if plot is not None:
        from tercet.bench.plot import plot as draw

        write_bytes(plot, draw(result))
        screen.say(f"plot: {plot}")
    if out is not None:
        write_json(out, result)
        screen.say(f"figures: {out}")
    screen.emit(result)


@final
class _Measuring:
    """Shows what a benchmark is doing: a bar on a terminal, elsewhere one line at most every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console, transient=True
        )
        self._task = self._bar.add_task("", total=None)
        self._next_line = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that piece `done` of `total`, `what`, begins."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, description=what)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._console.print(f"{what} ({done} of {total})", soft_wrap=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._bar.stop()


def _bytes(text: str) -> int:
    """`500MB`, `2 GiB` or a plain number as bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", text.upper())
    if found is None:
        raise InvalidInput(f"memory must be a size such as 500MB or 2GB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2] or ""])


def _print(result: dict[str, Any], screen: Screen) -> None:
    setting, machine, unit = result["setting"], result["machine"], result["unit"]
    about = ", ".join(f"{name} {machine[name]}" for name in machine if name not in ("date", "device", "load"))
    screen.say(f"{about}, {machine['device']}, {setting['threads']} threads, load {machine['load']}, {machine['date']}")
    product = "" if unit["ms"] is None else f": {unit['ms']:.2f} ms"
    screen.say(
        f"loss with gradient, {setting['rows']} x {setting['width']}, {setting['samples_per_class']} per class; "
        f"unit: {unit['what']}{product}"
    )
    limit = setting["memory"] / 1e6
    rows = []
    for entry in result["entries"]:
        more = "at least " if entry["ended_by"] == "time" else ""
        largest = f"{more}{entry['largest_rows']:,}" if entry["largest_rows"] else "none"
        if entry["ms"] is None:
            why = "too large" if entry["ended_by"] == "memory" else "too slow"
            figures: tuple[str, ...] = (why, "", "", f"over {limit:,.0f}" if why == "too large" else "", "")
        else:
            figures = (
                f"{entry['ms']:.2f}",
                f"{entry['times_unit']:.1f}",
                f"{entry['times_tercet']:.1f}" if entry["times_tercet"] is not None else "",
                f"{entry['extra_bytes'] / 1e6:,.1f}",
                f"{entry['gradient_error']:.0e}" if entry["gradient_error"] is not None else "",
            )
        rows.append((entry["case"], entry["contender"], *figures, largest))
    screen.table(
        ("case", "", "ms", "x unit", "x tercet", "MB", "gradient off", f"rows in {limit:,.0f} MB"),
        rows,
        right=range(2, 8),
    )
    screen.say(
        f"All agree with the definition on a small batch within {setting['tolerance']:g}, value and gradient; "
        '"gradient off" is the error in float32 on this one. "at least": the search ended by time, not by memory.'
    )
    if result["left_out"]:
        screen.title("left out")
        for item in result["left_out"]:
            case = f"{item['case']}, " if item["case"] else ""
            screen.say(f"  {case}{item['contender']}: {item['reason']}")
