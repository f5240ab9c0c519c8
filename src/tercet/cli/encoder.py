"""The options of `train` that name a pretrained encoder: what they ask for, and what was found, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.errors import InvalidOption, RunError

if TYPE_CHECKING:
    from tercet.tasks import Task
    from tercet.train import Plan

__all__ = [
    "DetectOption",
    "DownloadOption",
    "EncoderOption",
    "FlipTestOption",
    "FreezeOption",
    "check_resumed",
    "encoder_in_words",
    "equip",
]

EncoderOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A pretrained network instead of the task's own: timm:NAME, hf:NAME, a folder (timm:PATH, hf:PATH), or "
        "dlib (faces).",
        show_default="by task",
    ),
]
FreezeOption = Annotated[
    bool, typer.Option("--freeze", help="With --encoder: leave it as it is, and train a linear layer after it.")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="With --encoder: fetch weights that are not on this machine.")
]
FlipTestOption = Annotated[
    bool | None,
    typer.Option(
        "--flip-test/--no-flip-test",
        help="With --encoder: a vector is of the picture and its mirror image; twice the work.",
        show_default="with dlib",
    ),
]
DetectOption = Annotated[
    bool, typer.Option("--detect", help="Faces: find the face in each picture and align it; always so with dlib.")
]


def equip(task: Task, name: str | None, *, freeze: bool, download: bool, flip_test: bool | None, detect: bool) -> Task:
    """The task with the encoder and the front end that the options ask for.

    Raises:
        InvalidOption: Options that mean nothing together.
        TercetError: The encoder cannot be found; see `find_backbone`.
    """
    from tercet.encoders import find_backbone
    from tercet.tasks.backbone import with_backbone, with_detector

    if name is None:
        for option, given in (("--freeze", freeze), ("--download", download), ("--flip-test", flip_test is not None)):
            if given:
                raise InvalidOption(f"{option} needs --encoder")
        return with_detector(task) if detect else task
    backbone = find_backbone(name, download=download)
    if freeze and backbone.weights is None:
        raise InvalidOption(f"--freeze: {_no_weights(name)}")
    with_mirror = backbone.library == "dlib" if flip_test is None else flip_test
    # dlib's network has seen three million faces: few people's pictures would only spoil it.
    frozen = freeze or backbone.library == "dlib"
    return with_backbone(task, backbone, frozen=frozen, flip_test=with_mirror, detect=detect)


def check_resumed(plan: Plan, name: str | None, out: object) -> None:
    """See that a resumed training is asked to go on with the encoder that it began with.

    Raises:
        RunError: It is another one.
    """
    began: Any = plan.encoder.to_json().get("source")
    if name is not None and name != began:
        raise RunError(f"{out}: was started with encoder={began or 'of the task'!r}, not {name!r}")


def encoder_in_words(plan: Plan) -> str | None:
    """What the encoder begins with, as one sentence; None for the task's own."""
    from tercet.encoders import PretrainedConfig

    encoder = plan.encoder
    if not isinstance(encoder, PretrainedConfig):
        return None
    if plan.start is None:
        return f"encoder {encoder.source} begins with RANDOM weights: {_no_weights(encoder.source)}"
    count = sum(tensor.numel() for tensor in plan.start.values())
    how = "frozen" if encoder.frozen else "trained further"
    return (
        f"encoder {encoder.source} begins with its pretrained weights ({count / 1e6:.1f} million, {how}), and a linear "
        f"layer from its {encoder.features} numbers to {encoder.embedding_dim}"
    )


def _no_weights(name: str) -> str:
    return f"there are no pretrained weights of {name} on this machine; --download fetches what is published"
