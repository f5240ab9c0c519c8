"""`evaluate` and `calibrate`: what a trained model is worth on data it has not seen, and the threshold to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tercet.cli.forgeries import KIND_NAMES, parse_references, show_kinds, show_references
from tercet.cli.output import JsonOption, Screen
from tercet.cli.progress import scoring
from tercet.cli.use import LayoutOption, RunArgument, read_store
from tercet.errors import DataError, InvalidInput, InvalidOption

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
    identification = "identification"
    both = "both"


class Fusion(Enum):
    """How the scores against several references become one."""

    max = "max"
    mean = "mean"
    min = "min"
    median = "median"


class Impostors(Enum):
    """Whom a threshold keeps out."""

    random = "random"
    skilled = "skilled"
    all = "all"


class Norm(Enum):
    """What scores are normalised by."""

    none = "none"
    as_norm = "as-norm"


def evaluate(
    run: RunArgument,
    data: DataArgument,
    protocol: Annotated[Protocol, typer.Option(help="What to score; both: verification and retrieval.")] = (
        Protocol.both
    ),
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Verify exactly the pairs of this list (LFW, VoxCeleb, Kaldi, CN-Celeb, or path path label [fold]).",
            show_default=False,
        ),
    ] = None,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Score pairs of the list also where training has seen an identity.")
    ] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA2", help="Where queries are searched; without it, among themselves.", show_default=False
        ),
    ] = None,
    ignore_same_group: Annotated[
        bool, typer.Option("--ignore-same-group", help="No result of the query's own identity and group.")
    ] = False,
    force_small: Annotated[
        bool, typer.Option("--force-small", help="Give rates also where fewer than 30 errors are to be expected.")
    ] = False,
    references: Annotated[
        str | None,
        typer.Option(
            metavar="1,3,...",
            help="Question samples against so many references of an identity, and its forgeries; none: do not.",
            show_default="by task",
        ),
    ] = None,
    fusion: Annotated[
        Fusion, typer.Option(help="How the scores against several references become one.", show_default=True)
    ] = Fusion.max,
    writer_dependent: Annotated[
        bool,
        typer.Option("--writer-dependent", help="Train a classifier on the references of each identity (an SVM)."),
    ] = False,
    cohort: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Verification with AS-norm besides, by so many of the training identities in DATA; 0: without.",
            show_default="by task",
        ),
    ] = None,
    layout: LayoutOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap, and of the pairs where there are too many.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Score a model beside its baselines, on the identities of DATA that it has not seen.

    Identities that it was trained or validated on are recognised by their files, left out and counted. The figures are
    of genuine samples; where there are forgeries, each kind of impostor has its own besides.
    """
    from tercet.data.trials import read_trials
    from tercet.protocol import evaluate_run
    from tercet.run import load
    from tercet.tasks import load_task

    _check_options(
        protocol,
        pairs=pairs,
        keep_seen=keep_seen,
        gallery=gallery,
        ignore_same_group=ignore_same_group,
        cohort=cohort,
    )
    screen = Screen(as_json=as_json)
    model = load(run)
    task = load_task(model.task)
    manifest = task.read(data, layout=layout)
    against = parse_references(references, task.references, fusion=fusion.value, writer_dependent=writer_dependent)
    trials = None if pairs is None else read_trials(pairs, manifest)
    # Not where the model's own scores are such ones, nor where those that are scored may be in the cohort.
    beside = None if model.norm or keep_seen else task.cohort
    with ExitStack() as stack:
        others = None
        if gallery is not None:
            others = stack.enter_context(read_store(task.read(gallery, layout=layout), model, screen))
        store = stack.enter_context(read_store(manifest, model, screen))
        tell = stack.enter_context(scoring(screen.notes))
        result = evaluate_run(
            model,
            store,
            protocol=protocol.value,
            seed=seed,
            trials=trials,
            keep_seen=keep_seen,
            gallery=others,
            ignore_same_group=ignore_same_group,
            force_small=force_small,
            references=against,
            cohort=beside if cohort is None else cohort or None,
            on_phase=tell,
        ).to_json()
    if cohort and "as_norm" not in result:
        result["warnings"].append(f"--cohort {cohort}: DATA hold fewer than two training identities, so no AS-norm")
    show_evaluation(result, screen)
    screen.emit(result)


def _check_options(
    protocol: Protocol,
    *,
    pairs: Path | None,
    keep_seen: bool,
    gallery: Path | None,
    ignore_same_group: bool,
    cohort: int | None,
) -> None:
    """Refuse an option that would do nothing."""
    if pairs is not None and protocol not in (Protocol.verification, Protocol.both):
        raise InvalidOption(f"--pairs has no part in --protocol {protocol.value}")
    if keep_seen and pairs is None:
        raise InvalidOption("--keep-seen is for the pairs of --pairs")
    if cohort == 1:
        raise InvalidOption("--cohort 1: must be two training identities at least, or 0 for no AS-norm")
    if cohort and protocol not in (Protocol.verification, Protocol.both):
        raise InvalidOption(f"--cohort has no part in --protocol {protocol.value}")
    for name, given in (("--gallery", gallery is not None), ("--ignore-same-group", ignore_same_group)):
        if given and protocol not in (Protocol.retrieval, Protocol.both):
            raise InvalidOption(f"{name} has no part in --protocol {protocol.value}")


def calibrate(
    run: RunArgument,
    data: DataArgument,
    fmr: Annotated[
        float,
        typer.Option(help="Share of pairs of different identities that may be accepted at most.", show_default=False),
    ],
    norm: Annotated[
        Norm, typer.Option(help="as-norm: judge each score by those to a cohort of the training identities in DATA.")
    ] = Norm.none,
    impostors: Annotated[
        Impostors,
        typer.Option(help="Whom --fmr is about: other identities, skilled forgeries of the same (in DATA), or all."),
    ] = Impostors.random,
    cohort: Annotated[int, typer.Option(min=2, help="How many of the cohort judge a score, with as-norm.")] = 300,
    layout: LayoutOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs where there are too many.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose the threshold by which verify decides, on identities that are not in training; it is stored in RUN.

    Refused where the pairs are too few for the rate asked for, or where the scores of both kinds overlap beyond use.
    """
    from tercet.protocol import calibrate_run
    from tercet.report.words import calibration_text
    from tercet.run import load
    from tercet.tasks import load_task

    if not 0 < fmr < 1:
        raise InvalidOption(f"--fmr {fmr:g}: must be a rate above 0 and below 1, such as 0.01")
    screen = Screen(as_json=as_json)
    model = load(run)
    manifest = load_task(model.task).read(data, layout=layout)
    with read_store(manifest, model, screen) as store:
        try:
            found = calibrate_run(
                model, store, target_fmr=fmr, seed=seed, norm=norm.value, cohort=cohort, impostors=impostors.value
            )
        except InvalidInput as error:
            raise DataError(f"{data}: {error}") from error
        skipped = [{"path": item.path, "reason": item.reason} for item in store.manifest.skipped]
    calibration, chosen_on = found.calibration, found.chosen_on
    model.save_calibration(calibration, norm=found.norm, samples=found.samples)
    screen.skipped(skipped)
    for line in calibration_text(calibration, str(run)):
        screen.say(line)
    for kind, share in found.accepted.items() if len(found.accepted) > 1 else ():
        screen.say(f"On those files it accepts {_percent(share)} of {KIND_NAMES.get(kind, kind)}.")
    for warning in chosen_on.warnings:
        screen.note(f"warning: {warning}")
    screen.emit(
        {
            **calibration.to_json(),
            "accepted": dict(found.accepted),
            "model": model.fingerprint,
            "cohort": None if found.norm is None else found.norm.top,
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
        f"scored {result['samples']} samples of {result['identities']} identities that the model has not seen"
        + (f"; left out {left_out['identities']} identities of its training" if left_out["identities"] else "")
    )
    if "identification" not in result:
        screen.figures(result)
    if "pairs" in result:
        _show_verification(result, screen)
    if "as_norm" in result:
        found = result["as_norm"]
        of = " (impostors: other identities)" if "by_kind" in result else ""
        screen.say(f"with AS-norm, by {found['cohort']} training identities: EER {_percent(found['eer'])}{of}")
        _show_rates(found, screen)
    if "recall" in result:
        per_class = ", ".join(f"@{k} {_percent(value)}" for k, value in result["class_recall"].items())
        screen.say(f"recall as a mean over identities: {per_class}; mAP {_percent(result['map'])}")
    if "identification" in result:
        _show_identification(result, screen)
    if "by_kind" in result:
        show_kinds(result, screen)
    if "references" in result:
        show_references(result, screen)
    for warning in result["warnings"]:
        screen.note(f"warning: {warning}")
    screen.skipped(result["skipped"])


def _show_verification(result: Mapping[str, Any], screen: Screen) -> None:
    _show_rates(result, screen)
    if result["cllr"] is not None:
        costs = ", ".join(f"{value:.3f} (prior {prior})" for prior, value in result["act_dcf"].items())
        screen.say(f"with the calibration: actual DCF {costs}; Cllr {result['cllr']:.3f} bits")
    if result["accuracy_standard_error"] is not None:
        error = 100 * result["accuracy_standard_error"]
        screen.say(f"accuracy {_percent(result['accuracy'], digits=2)} ± {error:.2f} % (standard error over the folds)")
    lost, at = result.get("failure_to_acquire"), result.get("at_threshold")
    if lost is not None and lost["failed"]:
        point, where = (result["at_eer"], "at the EER") if at is None else (at, "at the threshold")
        screen.say(
            f"failure to acquire: {lost['failed']} of {lost['of']} {lost['what']} ({_percent(lost['rate'], digits=2)});"
            f" {where} per comparison FMR {_percent(point['fmr'], digits=2)}, FNMR {_percent(point['fnmr'])}, "
            f"per transaction FAR {_percent(point['far'], digits=2)}, FRR {_percent(point['frr'])}"
        )
    if at is not None:
        foreseen = at["foreseen_fmr"]
        promise = "" if foreseen is None else (
            f"; foreseen {100 * foreseen[0]:.2f} to {_percent(foreseen[1], digits=2)}: "
            + ("kept" if at["kept"] else "NOT kept")
        )  # fmt: skip
        screen.say(
            f"at the calibrated threshold {at['threshold']:.4f}: FMR {_percent(at['fmr'], digits=2)} "
            f"(target {_percent(at['target_fmr'], digits=2)}{promise}), FNMR {_percent(at['fnmr'])}"
        )


def _show_rates(result: Mapping[str, Any], screen: Screen) -> None:
    tar = ", ".join(
        f"{100 * float(fmr):g} %: {_percent(value, 'too few pairs')}" for fmr, value in result["tar_at_fmr"].items()
    )
    screen.say(f"AUC {_percent(result['auc'])}; true accept rate at a false match rate of {tar}")
    costs = ", ".join(f"{value:.3f} (prior {prior})" for prior, value in result["min_dcf"].items())
    screen.say(f"minDCF {costs}; minCllr {result['min_cllr']:.3f} bits")


def _show_identification(result: Mapping[str, Any], screen: Screen) -> None:
    found = result["identification"]
    screen.say(
        f"identification among {found['enrolled']} enrolled identities: {found['mated']} searches for one of them, "
        f"{found['non_mated']} for somebody else"
    )
    rows = [("no threshold", "-", *(_percent(value) for value in found["fnir"].values()))]
    for fpir, fnir in found["fnir_at_fpir"].items():
        threshold = found["threshold_at_fpir"][fpir]
        shown = "too few searches" if threshold is None else f"{threshold:.4f}"
        values = found["fnir"] if fnir is None else fnir
        rows.append((_percent(float(fpir)), shown, *("-" if fnir is None else _percent(v) for v in values.values())))
    screen.table(("FPIR", "threshold", *(f"FNIR, rank {r}" for r in found["fnir"])), rows, right=range(4))


def _percent(value: float | None, absent: str = "-", *, digits: int = 1) -> str:
    return absent if value is None else f"{100 * value:.{digits}f} %"
