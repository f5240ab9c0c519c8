"""`train`: from a folder of labelled samples to a run folder, with the test figures at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tercet.cli.encoder import (
    DetectOption,
    DownloadOption,
    EncoderOption,
    FlipTestOption,
    FreezeOption,
    check_resumed,
    encoder_in_words,
    equip,
)
from tercet.cli.forgeries import show_kinds
from tercet.cli.held_out import FoldOption, PairsOption, held_out
from tercet.cli.output import JsonOption, Screen, program
from tercet.cli.progress import Training, scoring
from tercet.cli.report import PAGE, make_report
from tercet.cli.scale import (
    BatchSizeOption,
    CategoriesOption,
    CheckpointsOption,
    ChunkOption,
    ClipOption,
    CompileOption,
    MemoryAgeOption,
    MemoryMomentumOption,
    MemoryOption,
    MemoryWarmupOption,
    MineEveryOption,
    MineSkipOption,
    PrecisionOption,
    SamplesOption,
    TemperOption,
    TensorboardOption,
    TimeoutOption,
    batch_settings,
)
from tercet.cli.use import read_store
from tercet.errors import DataError, InvalidOption, RunError

if TYPE_CHECKING:
    from tercet.data import Manifest
    from tercet.data.trials import Trials
    from tercet.train import Plan

__all__ = ["parse_margin", "run_training", "train"]

EXIT_FAILED = 2
EXIT_INTERRUPTED = 130
COMMAND = "command.json"
EVALUATION = "evaluation.json"


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A folder with one folder per identity, or a manifest CSV.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to make.", show_default=False)],
    task: Annotated[
        str | None,
        typer.Option(
            help="What the samples are: images, characters, faces, signatures or speakers.", show_default=False
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for this long.", show_default="by task")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Or: train for so many passes over the data.", show_default=False)
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Margin of the triplet loss: a number, soft, or auto (it follows the distances).", show_default="auto"
        ),
    ] = None,
    mining: Annotated[
        str | None,
        typer.Option(
            help="Which triplets of a batch count: all, hard, semihard, ..., or auto (all, then harder).",
            show_default="auto",
        ),
    ] = None,
    embedding_dim: Annotated[
        int | None,
        typer.Option(
            help="Width of the embedding, of which a description beside the network has half.", show_default="by task"
        ),
    ] = None,
    encoder: EncoderOption = None,
    freeze: FreezeOption = False,
    download: DownloadOption = False,
    flip_test: FlipTestOption = None,
    detect: DetectOption = False,
    seed: Annotated[int | None, typer.Option(help="Every random draw follows from it.", show_default="0")] = None,
    layout: Annotated[
        str, typer.Option(help="How DATA is laid out: folders (one per identity), manifest (a CSV), or auto.")
    ] = "auto",
    doctor: Annotated[
        bool | None,
        typer.Option(
            "--doctor/--no-doctor",
            help="Go back to healthy weights when the training collapses or diverges, and say why.",
            show_default="--doctor",
        ),
    ] = None,
    warm_start: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS", help="Begin with so many steps of a softmax over the identities.", show_default="0"
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    samples_per_identity: SamplesOption = None,
    temper: TemperOption = None,
    categories: CategoriesOption = None,
    mine_every: MineEveryOption = None,
    mine_skip: MineSkipOption = None,
    chunk: ChunkOption = None,
    memory: MemoryOption = None,
    memory_age: MemoryAgeOption = None,
    memory_warmup: MemoryWarmupOption = None,
    memory_momentum: MemoryMomentumOption = None,
    precision: PrecisionOption = None,
    clip: ClipOption = None,
    compile: CompileOption = None,
    checkpoints: CheckpointsOption = None,
    timeout: TimeoutOption = 600.0,
    tensorboard: TensorboardOption = False,
    pairs: PairsOption = None,
    fold: FoldOption = None,
    with_report: Annotated[
        bool, typer.Option("--report", help="Write RUN/report.html too, as tercet report RUN does.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last checkpoint in RUN stands.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on some of the identities, and test it on others that it has never seen.

    The identities are divided by the seed (or by a split column of the manifest) into train, validation and test.
    Ctrl-C keeps the last checkpoint and the best model so far; --resume goes on from there.

    Under torchrun or accelerate launch, all processes train one model together, and the first one tests it.
    """
    from tercet.tasks import load_task, resume_plan, task_names

    screen = Screen(as_json=as_json)
    if minutes is not None and epochs is not None:
        raise InvalidOption("--minutes and --epochs: give one of them")
    given: dict[str, Any] = {"mining": mining, "seed": seed, "margin": None if margin is None else parse_margin(margin)}
    given |= {
        "warm_start": warm_start,
        "doctor": doctor,
        "chunk": chunk,
        "precision": precision,
        "clip": clip,
        "compile": compile,
    }
    given |= {"memory": memory, "memory_age": memory_age, "memory_warmup": memory_warmup}
    given |= {"memory_momentum": memory_momentum, "temper": temper, "checkpoints": checkpoints}
    given |= {"categories": categories, "mine_every": mine_every, "mine_skip": mine_skip}
    settings = {name: value for name, value in given.items() if value is not None}
    if minutes is not None or epochs is not None:
        settings |= {"minutes": minutes, "epochs": epochs}
    if resume:
        plan = resume_plan(out)
        if task is not None and task != plan.task:
            raise RunError(f"{out}: was started with task={plan.task!r}, not {task!r}")
        check_resumed(plan, encoder, out)
        settings |= batch_settings(plan.settings, batch_size, samples_per_identity)
        shape = plan.encoder if embedding_dim is None else plan.encoder.with_embedding_dim(embedding_dim)
        plan = replace(plan, encoder=shape, settings=replace(plan.settings, **settings))
    elif task is None:
        raise InvalidOption(f"--task is needed: {', '.join(task_names())}")
    else:
        chosen = equip(load_task(task), encoder, freeze=freeze, download=download, flip_test=flip_test, detect=detect)
        settings |= batch_settings(chosen.settings, batch_size, samples_per_identity)
        plan = chosen.plan(embedding_dim=embedding_dim, **settings)
    manifest, trials = held_out(load_task(plan.task).read(data, layout=layout), pairs, fold)
    result = run_training(
        manifest,
        plan,
        out,
        screen,
        resume=resume,
        command=context.obj,
        data=data,
        layout=layout,
        timeout_s=timeout,
        tensorboard=tensorboard,
        trials=trials,
    )
    screen.say(f"model {result['model']} in {out}")
    if with_report:
        result["report"] = str(make_report(out, None, out / PAGE, "auto", screen))
        screen.say(f"report {result['report']}")
    screen.say("try next:")
    if not with_report:
        screen.say(f"  {program()} report {out}")
    screen.say(f"  {program()} calibrate {out} {data} --fmr 0.01")
    screen.say(f"  {program()} search {out} FILE --gallery {data}")
    screen.emit(result)


def run_training(
    manifest: Manifest,
    plan: Plan,
    out: Path,
    screen: Screen,
    *,
    resume: bool,
    command: Sequence[str],
    data: Path,
    layout: str,
    timeout_s: float = 600.0,
    tensorboard: bool = False,
    trials: Trials | None = None,
) -> dict[str, Any]:
    """Train with a live display, score the identities kept for the test, and keep both in the run; returns all."""
    from tercet.data import Manifest, split_identities
    from tercet.protocol import evaluate_run
    from tercet.run import load
    from tercet.run.files import write_json
    from tercet.tasks import load_task
    from tercet.train import train as run
    from tercet.train.ranks import FailedInFirst, is_first

    split = split_identities(manifest, seed=plan.settings.seed)
    test = manifest.of(split.test)
    if begins := encoder_in_words(plan):
        screen.note(begins)
    if is_first():
        screen.note(
            f"training on {len(manifest.of(split.train))} samples of {len(split.train)} identities; "
            f"{len(split.validation)} more choose the best weights, {len(split.test)} are kept for the test"
        )
    interrupted = False
    try:
        with Training(screen.notes) as progress:
            run(manifest, plan, out, resume=resume, on_progress=progress, timeout_s=timeout_s, tensorboard=tensorboard)
    except KeyboardInterrupt:
        interrupted = True
    except FailedInFirst:
        raise typer.Exit(EXIT_FAILED) from None
    if not is_first():
        raise typer.Exit(EXIT_INTERRUPTED if interrupted else 0)
    if (out / "plan.json").is_file():
        write_json(
            out / COMMAND,
            {"command": shlex.join(["tercet", *command]), "data": str(data.resolve()), "layout": layout},
        )
    if interrupted:
        screen.note(f"tercet: interrupted; the last checkpoint is in {out}; go on with --resume")
        raise typer.Exit(EXIT_INTERRUPTED)
    model = load(out)
    # The training has noted what it could not read, and the store below notes the same of the test.
    trained_skipped = list(model.config["data"]["skipped"])
    try:
        with read_store(Manifest(test.root, test.rows), model, screen) as store, scoring(screen.notes) as tell:
            references = load_task(plan.task).references
            evaluation = evaluate_run(model, store, references=references, trials=trials, on_phase=tell).to_json()
    except DataError as error:
        # The hours of training are not lost, and the reader should know it; what was skipped may be the reason.
        screen.skipped(trained_skipped)
        raise DataError(f"the model is saved in {out}, but cannot be tested: {error}") from error
    evaluation["skipped"] = trained_skipped + evaluation["skipped"]
    write_json(out / EVALUATION, evaluation)
    screen.skipped(evaluation["skipped"])
    screen.title(
        f"Test on {evaluation['samples']} samples of {evaluation['identities']} identities never seen in training"
    )
    screen.figures(evaluation)
    if "by_kind" in evaluation:
        show_kinds(evaluation, screen)
    return {"run": str(out), "task": plan.task, **evaluation, "trained_on": model.config["data"]["identities"]}


def parse_margin(text: str) -> float | Literal["auto", "soft"]:
    """`auto`, `soft`, or a number.

    Raises:
        InvalidOption: Anything else.
    """
    if text == "auto":
        return "auto"
    if text == "soft":
        return "soft"
    try:
        return float(text)
    except ValueError:
        raise InvalidOption.unknown("margin", text, ["auto", "soft", 0.2]) from None
