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


@app.command("evaluation")
def evaluation(
    rows: Annotated[int, typer.Option(help="Embeddings that are ranked.", show_default="5000; 500 with --quick")] = 0,
    width: Annotated[int, typer.Option(help="Columns of the embeddings.")] = 128,
    samples_per_class: Annotated[int, typer.Option(help="Embeddings of each identity.")] = 5,
    pairs: Annotated[int, typer.Option(help="Scored pairs.", show_default="1,000,000; 20,000 with --quick")] = 0,
    threads: Annotated[int, typer.Option(help="Threads.", show_default="all cores")] = 0,
    rounds: Annotated[
        int, typer.Option(help="How often everyone is timed, by turns.", show_default="5; 2 with --quick")
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Who has used so many is not timed again.")] = 10.0,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="What figures may take beside the sample.")] = "4GB",
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Whether installed libraries take part.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Few embeddings and pairs, two rounds.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all figures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time and peak memory of AUC, EER, recall, MAP@R and mAP beside scikit-learn, pytorch-metric-learning and torch.

    The figures of everyone are compared with tercet's before any time is taken; who differs is left out, and by how
    much is said.
    """
    import os

    from tercet.bench.evaluation import EvaluationPlan, bench_evaluation

    plan = EvaluationPlan(
        rows=rows or (500 if quick else 5000),
        width=width,
        samples_per_class=samples_per_class,
        pairs=pairs or (20_000 if quick else 1_000_000),
        threads=threads or os.cpu_count() or 1,
        rounds=rounds or (2 if quick else 5),
        seconds=seconds,
        memory=_bytes(memory),
        peers=peers,
    )
    screen = _ready(out, as_json)
    with _Measuring(screen.notes) as tell:
        result = bench_evaluation(plan, tell)
    _print_machine(result, screen)
    screen.say(
        f"{plan.pairs:,} pairs; {plan.rows:,} x {plan.width}, {plan.samples_per_class} per identity; "
        f"{plan.threads} threads"
    )
    rows_shown = [
        (
            entry["case"],
            entry["contender"],
            f"{entry['ms']:,.1f}",
            "" if entry["times_tercet"] is None else f"{entry['times_tercet']:.2g}",
            "over" if entry["extra_bytes"] is None else f"{entry['extra_bytes'] / 1e6:,.1f}",
        )
        for entry in result["entries"]
    ]
    screen.table(("case", "", "ms", "x tercet", "MB"), rows_shown, right=(2, 3, 4))
    screen.say(f"All give tercet's figures on a small sample within {result['setting']['tolerance']:g}.")
    _finish(result, screen, out)


@app.command("gallery")
def gallery(
    templates: Annotated[
        int, typer.Option(help="Templates in the gallery.", show_default="10,000; 500 with --quick")
    ] = 0,
    width: Annotated[int, typer.Option(help="Columns of the embeddings.")] = 128,
    probes: Annotated[int, typer.Option(help="Searches, one at a time.", show_default="200; 20 with --quick")] = 0,
    results: Annotated[int, typer.Option("-k", help="Results of a search.")] = 10,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Whether installed libraries take part.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="A small gallery, few searches.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all figures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Enrolment, search time and recall of every index, beside one product in memory and faiss.

    Recall is measured against an exact search; a library that claims to be exact and is not is left out.
    """
    from tercet.bench.gallery import GalleryPlan, bench_gallery

    plan = GalleryPlan(
        templates=templates or (500 if quick else 10_000),
        width=width,
        probes=probes or (20 if quick else 200),
        results=results,
        peers=peers,
    )
    screen = _ready(out, as_json)
    with _Measuring(screen.notes) as tell:
        result = bench_gallery(plan, tell)
    _print_machine(result, screen)
    screen.say(f"{plan.templates:,} templates of width {plan.width}, {plan.probes:,} probes one at a time")
    rows_shown = [
        (
            entry["contender"],
            f"{entry['enroll_seconds']:.2f}",
            f"{entry['search_ms']:.2f}",
            f"{entry['search_ms_p99']:.2f}",
            "" if entry["times_tercet"] is None else f"{entry['times_tercet']:.2g}",
            f"{entry['recall']:.4f}",
        )
        for entry in result["entries"]
    ]
    heads = ("", "enrol, s", "search, ms", "p99, ms", "x tercet", f"recall@{plan.results}")
    screen.table(heads, rows_shown, right=range(1, 6))
    screen.say(
        "A gallery of tercet is on the disk when enrol returns, and knows names; the others hold rows in memory."
    )
    _finish(result, screen, out)


def _ready(out: Path | None, as_json: bool) -> Screen:
    """The screen, once it is known that the figures can be written."""
    if out is not None and not out.parent.is_dir():
        raise InvalidInput(f"out: {out.parent} is no folder")
    return Screen(as_json=as_json)


def _finish(result: dict[str, Any], screen: Screen, out: Path | None) -> None:
    """Who was left out, the file, and the object."""
    from tercet.run.files import write_json

    _print_left_out(result, screen)
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
    setting, unit = result["setting"], result["unit"]
    _print_machine(result, screen)
    product = "" if unit["ms"] is None else f": {unit['ms']:.2f} ms"
    screen.say(
        f"loss with gradient, {setting['rows']} x {setting['width']}, {setting['samples_per_class']} per class, "
        f"{setting['threads']} threads; "
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
    _print_left_out(result, screen)


def _print_machine(result: dict[str, Any], screen: Screen) -> None:
    machine = result["machine"]
    about = ", ".join(f"{name} {machine[name]}" for name in machine if name not in ("date", "device", "load"))
    screen.say(f"{about}, {machine['device']}, load {machine['load']}, {machine['date']}")


def _print_left_out(result: dict[str, Any], screen: Screen) -> None:
    if result["left_out"]:
        screen.title("left out")
        for item in result["left_out"]:
            case = f"{item['case']}, " if item.get("case") else ""
            screen.say(f"  {case}{item['contender']}: {item['reason']}")
