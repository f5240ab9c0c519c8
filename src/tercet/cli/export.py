"""`export`: a model as one ONNX file, for programs without tercet and torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.output import JsonOption, Screen, program
from tercet.cli.use import RunArgument
from tercet.errors import InvalidOption

__all__ = ["export"]


def export(
    run: RunArgument,
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE.onnx", help="Where it goes.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Write a model as one ONNX file: normalisation, network and threshold inside, any batch size, speech any length.

    It is checked with onnxruntime against the run's own vectors to 1e-5 before it is put in its place. The graph takes
    decoded samples (uint8 pixels, int16 speech) and gives unit vectors; docs/export.md says how to use it.
    """
    from tercet.run import load
    from tercet.run.export import export_onnx

    if onnx.suffix.lower() != ".onnx":
        raise InvalidOption(f"--onnx {onnx}: must end in .onnx")
    screen = Screen(as_json=as_json)
    made = export_onnx(load(run), onnx)
    about = made.about
    shape = " x ".join(map(str, about["input"]["shape"]))
    screen.say(f"onnx: {onnx} ({made.size / 1e6:.1f} MB), model {about['fingerprint']}")
    screen.say(
        f"takes {about['input']['name']}, {about['input']['type']} [{shape}]; gives {', '.join(about['outputs'])}"
    )
    screen.say(f"onnxruntime gives the run's vectors to within {made.difference:.1e}")
    if about["threshold"] is None:
        screen.say("threshold: none inside, because the run has no calibration")
        screen.note(f"choose one with: {program()} calibrate {run} DATA --fmr 0.01; then export again")
    else:
        screen.say(f"threshold: {about['threshold']:.4f} inside (target FMR {about['calibration']['target_fmr']:.3g})")
    kept = ("task", "fingerprint", "input", "outputs", "score", "threshold", "calibration")
    screen.emit(
        {
            "onnx": str(onnx),
            "bytes": made.size,
            "difference": made.difference,
            **{"model" if key == "fingerprint" else key: about[key] for key in kept},
        }
    )
