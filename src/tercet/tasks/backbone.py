"""A task with a pretrained backbone, or a finder of faces, in place of what it has of its own."""

from __future__ import annotations

from dataclasses import replace

from tercet.data import FaceFrontEnd, FrontEnd, ImageFrontEnd, SignatureFrontEnd
from tercet.encoders import Backbone
from tercet.errors import InvalidOption
from tercet.tasks.task import Task

__all__ = ["with_backbone", "with_detector"]

_FINE_TUNING_RATE = 1e-4  # pretrained weights are soon forgotten at the rate that random ones need
_FRESH_RATE = 1e-3  # of random weights, whatever rate the task's own network needs
_FACES_RATE = 2e-5  # dlib's network has seen three million faces: more than a touch makes it worse
_VALIDATIONS = 4


def with_backbone(
    task: Task, backbone: Backbone, *, frozen: bool = False, flip_test: bool = False, detect: bool = False
) -> Task:
    """The task with this backbone and a linear layer as its encoder, and a front end that makes what it takes.

    Args:
        task: A task of pictures.
        backbone: As `tercet.encoders.find_backbone` found it.
        frozen: Train the linear layer alone.
        flip_test: Vectors in use are of picture and mirror image.
        detect: Find the face in each picture, and align it; dlib's network is always given such pictures.

    Raises:
        InvalidOption: The task is not one of pictures, or not one of faces where the backbone or `detect` is for faces;
            or its pictures must not be mirrored.
        InvalidInput: `frozen`, and the backbone has no pretrained weights.
    """
    for_faces = backbone.library == "dlib"
    front_end = _sized(task, backbone.size)
    if for_faces or detect:
        front_end = _faces(task, max(backbone.size), 3, "encoder=dlib" if for_faces else "detect")
    if flip_test and isinstance(front_end, SignatureFrontEnd):
        raise InvalidOption("flip-test: the mirror image of a signature is not genuine")
    encoder = backbone.config(front_end.shape[0], frozen=frozen, flip_test=flip_test)
    # To score the held-out identities costs a pass of the backbone over all of them, which is much beside few steps.
    validations = min(task.settings.validations, _VALIDATIONS)
    rate = _FACES_RATE if for_faces else _FRESH_RATE if backbone.weights is None or frozen else _FINE_TUNING_RATE
    settings = replace(task.settings, validations=validations, learning_rate=rate)
    return replace(task, front_end=front_end, encoder=encoder, settings=settings, start=backbone.start())


def with_detector(task: Task) -> Task:
    """The task with its own network on faces that are found in each picture, and aligned.

    Raises:
        InvalidOption: It is not a task of faces.
    """
    return replace(task, front_end=_faces(task, task.front_end.shape[-1], task.front_end.shape[0], "detect"))


def _sized(task: Task, size: tuple[int, int]) -> FrontEnd:
    """The task's front end, its pictures of this size, in colour where they may be."""
    match task.front_end:
        case ImageFrontEnd() as pictures:
            return replace(pictures, height=size[0], width=size[1], channels=3)
        case SignatureFrontEnd() as signatures:
            return replace(signatures, height=size[0], width=size[1])
        case _:
            raise InvalidOption(f"encoder: a backbone for pictures has no part in the task {task.name!r}")


def _faces(task: Task, side: int, channels: int, option: str) -> FaceFrontEnd:
    if task.name != "faces":
        raise InvalidOption(f"{option} is for the task 'faces', not {task.name!r}")
    return FaceFrontEnd(side, channels)
