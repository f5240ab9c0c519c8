"""`demo`: the whole way on real handwritten digits, judged on digits that the training has never seen."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.digits import PARTS, PICTURES, write_digits
from tercet.cli.output import JsonOption, Screen, program
from tercet.cli.report import PAGE, make_report
from tercet.cli.train import run_training
from tercet.errors import RunError

if TYPE_CHECKING:
    from tercet.data import Manifest
    from tercet.run import Model

__all__ = ["demo"]

TARGET_FMR = 0.01
EPOCHS = 20.0  # not a time: everybody gets the same figures, whatever else their machine does


def demo(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder to make.", show_default="demo-run, or the next free name"),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Train for so many passes over the training pictures.")] = EPOCHS,
    seed: Annotated[int, typer.Option(min=0, help="Every random draw follows from it.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train on some of the ten handwritten digits, then verify and retrieve digits never seen in training."""
    from tercet.data import read_data
    from tercet.report.words import result_text
    from tercet.run import load
    from tercet.tasks import load_task

    screen = Screen(as_json=as_json)
    run = out or _free_name()
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run}: is there already; choose another --out")
    plan = load_task("digits").plan(epochs=epochs, seed=seed)
    named = {part: " ".join(map(str, digits)) for part, digits in PARTS.items()}
    screen.note(
        "1,797 real handwritten digits, 8 x 8 pixels, that come with scikit-learn: "
        f"training sees pictures of {named['train']}, each with its copies as an identity of its own; "
        f"{named['validation']} choose the best weights and the threshold; "
        f"the test is on {named['test']}, which the model never sees before "
        "(ten classes are few: other divisions give other figures, see docs/log.md)"
    )
    listed = write_digits(run / "data")
    manifest = read_data(listed, suffixes=plan.front_end.SUFFIXES)
    result = run_training(manifest, plan, run, screen, resume=False, command=context.obj, data=listed, layout="auto")

    for line in result_text(result):
        screen.say(line)

    model = load(run)
    validation = manifest.of(tuple(map(str, PARTS["validation"])))
    test = manifest.of(tuple(map(str, PARTS["test"])))
    calibration = _calibrate(model, validation, test, screen)
    decisions = _verify_some(model, test, screen)
    query, hits = _search_one(model, test, screen)
    page = make_report(run, None, run / PAGE, "auto", screen)
    _say_what_is_there(run, page, test, screen)
    screen.emit(
        result
        | {
            "calibration": calibration,
            "verify": decisions,
            "search": {"query": query, "results": hits},
            "report": str(page),
        }
    )


def _free_name() -> Path:
    """demo-run, or the first of demo-run-2, demo-run-3, ... that is not there."""
    names = (Path("demo-run" if n == 1 else f"demo-run-{n}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _calibrate(model: Model, validation: Manifest, test: Manifest, screen: Screen) -> dict[str, Any] | None:
    """Choose the threshold on the validation digits, and say what it does to the test digits."""
    from tercet.errors import InvalidInput
    from tercet.evaluate import all_pairs, calibrate

    pairs = all_pairs(model.embed([row.path for row in validation.rows]), validation.labels)
    screen.title(f"Threshold for at most {100 * TARGET_FMR:g} % false matches, chosen on the validation digits")
    try:
        calibration = calibrate(pairs.scores, pairs.genuine, target_fmr=TARGET_FMR)
    except InvalidInput as error:
        screen.say(f"  none: {error}")
        return None
    model.save_calibration(calibration)
    own = all_pairs(model.embed([row.path for row in test.rows]), test.labels)
    accepted = own.scores >= calibration.threshold
    fmr, fnmr = float(accepted[~own.genuine].mean()), float((~accepted[own.genuine]).mean())
    screen.say(
        f"  {calibration.threshold:.3f}. On the test digits it accepts {100 * fmr:.1f} % of pairs of different digits "
        f"and rejects {100 * fnmr:.1f} % of pairs of the same: two validation digits are few to choose it on."
    )
    return {**calibration.to_json(), "test_fmr": fmr, "test_fnmr": fnmr}


def _verify_some(model: Model, test: Manifest, screen: Screen) -> list[dict[str, Any]]:
    """Verify the first picture of each test digit against the second one, and against the first of the next digit."""
    first = {identity: test.of([identity]).rows for identity in test.identities}
    names = list(first)
    decisions = []
    screen.title("Verify: is it the same digit? (the first pictures of each)")
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        for a, b in ((first[name][0], first[name][1]), (first[name][0], first[following][0])):
            decision = model.verify(a.path, b.path)
            truth = "same" if a.identity == b.identity else "different"
            right = {"match": truth == "same", "no-match": truth == "different"}.get(decision.decision)
            judged = "" if right is None else ", right" if right else ", WRONG"
            screen.say(f"  a {a.identity} and a {b.identity}: {decision.decision}, score {decision.score:.3f}{judged}")
            decisions.append({"a": test.relative(a), "b": test.relative(b), "truth": truth, **decision.to_json()})
    return decisions


def _search_one(model: Model, test: Manifest, screen: Screen) -> tuple[str, list[dict[str, Any]]]:
    """Search the first picture of the first test digit among all other pictures of test digits."""
    from tercet.run import Vectors

    probe, *others = test.rows
    vectors_ND = model.embed([row.path for row in others])
    gallery = Vectors(
        vectors_ND, tuple(map(test.relative, others)), tuple(row.identity for row in others), model.fingerprint
    )
    hits = model.search(probe.path, gallery, k=10)
    right = sum(hit.identity == probe.identity for hit in hits)
    screen.title("Search")
    screen.say(
        f"  the ten pictures most like {test.relative(probe)} (a {probe.identity}), out of {len(others)}: "
        f"{' '.join(hit.identity for hit in hits)} ({right} of {len(hits)} right)"
    )
    return test.relative(probe), [{"identity": hit.identity, "path": hit.path, "score": hit.score} for hit in hits]


def _say_what_is_there(run: Path, page: Path, test: Manifest, screen: Screen) -> None:
    data = run / "data" / PICTURES
    a, b = (run / "data" / test.relative(row) for row in test.rows[:2])
    screen.title("What is there now")
    screen.say(f"  {run}  the model, with its pictures in {data}")
    screen.say(f"  {page}  the report: open it in a browser")
    screen.title("Try next")
    screen.say(f"  {program()} verify {run} {a} {b}")
    screen.say(f"  {program()} search {run} {a} --gallery {data} -k 5")
    screen.say(f"  {program()} train FOLDER --task images --out RUN    FOLDER: one folder of pictures per identity")
