"""`margin`: what margins mean for a trained run, and a sweep that finds the best one for data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tercet.cli.output import JsonOption, Screen
from tercet.cli.progress import Training
from tercet.cli.train import parse_margin
from tercet.cli.use import LayoutOption, read_store
from tercet.errors import DataError, InvalidOption

if TYPE_CHECKING:
    from tercet.train.sweep import Trial

__all__ = ["margin"]

SHOWN = 13  # rows of the printed curve; the plot and --json have all of it
SHARES = (0.5, 0.1, 0.01)


def margin(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN|DATA", help="A trained run; with --sweep, the data.", show_default=False),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]", help="What to embed; without it the data that the run was trained on.", show_default=False
        ),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Train with several margins on the same seeds.")] = False,
    task: Annotated[str | None, typer.Option(help="Of the sweep: what the data are.", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of the sweep: its trainings; one that is there is gone on with."),
    ] = None,
    margins: Annotated[
        str | None,
        typer.Option(
            help="Margins, separated by commas; of a sweep also auto and soft.", show_default="auto, 0.02 to 1, soft"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the sweep: how many, for the margins that last.")] = 4,
    minutes: Annotated[
        float | None, typer.Option(help="Of the sweep: for each training.", show_default="by task")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Or so many passes over the data.", show_default=False)] = None,
    mining: Annotated[str | None, typer.Option(help="Of the sweep.", show_default="auto")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sweep: the first seed.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.", show_default=False)
    ] = None,
    layout: LayoutOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show how loss and active triplets of a run depend on the margin; or sweep over margins to find the best.

    The curve is exact, over all triplets of identities never seen in training. The sweep trains each margin on the
    same seeds, drops the worse half after one, two and four of them, and compares on the validation identities.
    """
    screen = Screen(as_json=as_json)
    wanted = None if margins is None else [parse_margin(part.strip()) for part in margins.split(",")]
    if sweep:
        if task is None or out is None:
            raise InvalidOption("--sweep needs --task and --out")
        if data is not None:
            raise InvalidOption("--sweep takes one path, the data")
        budget = {} if minutes is None and epochs is None else {"minutes": minutes, "epochs": epochs}
        chosen = {} if mining is None else {"mining": mining}
        _sweep(path, task, out, wanted, seeds, {"seed": seed, **budget, **chosen}, plot, layout, screen)
    else:
        numbers = None if wanted is None else [number for number in wanted if not isinstance(number, str)]
        if wanted is not None and numbers != wanted:
            raise InvalidOption("--margins: a curve has numbers only; auto and soft belong to --sweep")
        _curve(path, data, numbers, plot, layout, screen)


def _curve(
    run: Path, data: Path | None, margins: list[float] | None, plot: Path | None, layout: str, screen: Screen
) -> None:
    from tercet.report.collect import invocation
    from tercet.report.margin import curve_of_run, plot_curve
    from tercet.run import load
    from tercet.tasks import load_task

    model = load(run)
    if data is None:
        data, layout = invocation(model)
        if not data.exists():
            raise DataError(f"{data}: the run's data are not there any more; name other data: tercet margin {run} DATA")
    with read_store(load_task(model.task).read(data, layout=layout), model, screen) as store:
        curve = curve_of_run(model, store, margins=margins)
    if plot is not None:
        plot_curve(curve, plot)
    screen.say(
        f"{curve.samples} samples of {curve.identities} identities never seen in training; {curve.distance} distance; "
        f"trained with margin {curve.trained_with}"
    )
    step = max(1, (len(curve.margins) - 1) // (SHOWN - 1))
    rows = [
        (f"{curve.margins[i]:.3f}", f"{curve.loss[i]:.4f}", f"{100 * curve.active[i]:.2f} %")
        for i in range(0, len(curve.margins), step)
    ]
    screen.table(("margin", "mean loss", "active triplets"), rows, right=(0, 1, 2))
    for share in SHARES:
        at = curve.at_share(share)
        if at is not None:
            screen.say(f"{100 * share:g} % of the triplets are active at a margin of {at:.3f}")
    if plot is not None:
        screen.say(f"plot: {plot}")
    shares = {str(share): curve.at_share(share) for share in SHARES}
    screen.emit({**curve.to_json(), "margin_at_share": shares, "model": model.fingerprint, "plot": plot and str(plot)})


def _sweep(
    data: Path,
    task: str,
    out: Path,
    margins: list[float | Literal["auto", "soft"]] | None,
    seeds: int,
    settings: dict[str, Any],
    plot: Path | None,
    layout: str,
    screen: Screen,
) -> None:
    from tercet.report.margin import plot_sweep, sweep_rows
    from tercet.tasks import load_task
    from tercet.train.sweep import MARGINS, sweep

    known = load_task(task)
    manifest = known.read(data, layout=layout)

    def done(trial: Trial) -> None:
        rates = ", ".join(f"{100 * eer:.1f}" for eer in trial.eer)
        state = "; stopped early" if trial.pruned else ""
        screen.note(f"margin {trial.margin}: validation EER {rates} %{state}")

    with Training(screen.notes) as progress:
        trials = sweep(
            manifest,
            known.plan(**settings),
            out,
            margins=margins or MARGINS,
            seeds=seeds,
            on_trial=done,
            on_progress=progress,
        )
    if plot is not None:
        plot_sweep(trials, plot)
    screen.table(
        ("margin", "seeds", "validation EER", "worse than the best, points [95 %]", ""),
        sweep_rows(trials),
        right=(0, 1, 2, 3),
    )
    screen.say(f"best: {trials[0].margin}; the trainings are in {out}")
    if plot is not None:
        screen.say(f"plot: {plot}")
    screen.emit({"best": trials[0].margin, "trials": [trial.to_json() for trial in trials], "plot": plot and str(plot)})
