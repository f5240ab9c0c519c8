"""`evaluate` and `calibrate`: what a trained model is worth on data it has not seen, and the threshold to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tercet.cli.output import JsonOption, Screen
from tercet.cli.progress import scoring
from tercet.cli.use import LayoutOption, RunArgument, read_store

__all__ = ["calibrate", "evaluate", "show_evaluation"]

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A folder with one folder per identity, or a manifest CSV.", show_default=False
    ),
]


class Protocol(Enum):
    """What is scored."""

    verification = "verification"
    retrieval = "retrieval"
    both = "both"


def evaluate(
    run: RunArgument,
    data: DataArgument,
    protocol: Annotated[Protocol, typer.Option(help="What to score.")] = Protocol.both,
    layout: LayoutOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap, and of the pairs where there are too many.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Score a model beside raw pixels and the untrained network, on the identities of DATA that it has not seen.

    Identities that it was trained or validated on are recognised by their files, left out and counted.
    """
    from tercet.protocol import evaluate_run
    from tercet.run import load
    from tercet.tasks import load_task

    screen = Screen(as_json=as_json)
    model = load(run)
    manifest = load_task(model.task).read(data, layout=layout)
    with read_store(manifest, model, screen) as store, scoring(screen.notes) as tell:
        result = evaluate_run(model, store, protocol=protocol.value, seed=seed, on_phase=tell).to_json()
    show_evaluation(result, screen)
    screen.emit(result)


def calibrate(
    run: RunArgument,
    data: DataArgument,
    fmr: Annotated[
        float,
        typer.Option(help="Share of pairs of different identities that may be accepted at most.", show_default=False),
    ],
    layout: LayoutOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs where there are too many.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose the threshold by which verify decides, on identities that are not in training; it is stored in RUN.

    Refused where the pairs are too few for the rate asked for, or where the scores of both kinds overlap beyond use.
    """
    from tercet.protocol import calibrate_run, calibration_rows
    from tercet.report.words import calibration_text
    from tercet.run import load
    from tercet.tasks import load_task

    screen = Screen(as_json=as_json)
    model = load(run)
    manifest = load_task(model.task).read(data, layout=layout)
    with read_store(manifest, model, screen) as store:
        chosen_on = calibration_rows(model, store, target_fmr=fmr)
        calibration = calibrate_run(model, store, target_fmr=fmr, seed=seed)
        skipped = [{"path": item.path, "reason": item.reason} for item in store.manifest.skipped]
    model.save_calibration(calibration)
    screen.skipped(skipped)
    for line in calibration_text(calibration, str(run)):
        screen.say(line)
    for warning in chosen_on.warnings:
        screen.note(f"warning: {warning}")
    screen.emit(
        {
            **calibration.to_json(),
            "model": model.fingerprint,
            "identities": chosen_on.identities,
            "samples": len(chosen_on.rows),
            "skipped": skipped,
            "warnings": list(chosen_on.warnings),
        }
    )


def show_evaluation(result: Mapping[str, Any], screen: Screen) -> None:
    """An evaluation as text: what was scored, the table, and what else to know."""
    left_out = result["left_out"]
    screen.say(
        f"scored {result['samples']} pictures of {result['identities']} identities that the model has not seen"
        + (f"; left out {left_out['identities']} identities of its training" if left_out["identities"] else "")
    )
    screen.figures(result)
    if "pairs" in result:
        tar = ", ".join(
            f"{100 * float(fmr):g} %: " + ("too few pairs" if value is None else f"{100 * value:.1f} %")
            for fmr, value in result["tar_at_fmr"].items()
        )
        screen.say(f"AUC {100 * result['auc']:.1f} %; true accept rate at a false match rate of {tar}")
    for warning in result["warnings"]:
        screen.note(f"warning: {warning}")
    screen.skipped(result["skipped"])
