"""What is fit to be enrolled: samples with their vectors in, templates out, and what was refused or is doubtful.

N samples, M enrolled templates, D embedding width, T rows of one tile
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate import Calibration
from tercet.gallery.gallery import Gallery
from tercet.gallery.quality import picture_bytes, quality_of
from tercet.gallery.templates import Template, check_name

__all__ = ["Doubt", "Prepared", "prepare", "retention_s"]

_SAME: Final = 1 - 1e-5  # cosine similarity of one sample with itself, whatever the rounding
_ONE_BY_ONE: Final = 32  # up to so many samples are searched for; for more the gallery is read once
_TILE_ROWS: Final = 256
_SECONDS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}


@final
@dataclass(frozen=True)
class Doubt:
    """What speaks against a sample, in words."""

    identity: str
    path: str
    reason: str


@final
@dataclass(frozen=True)
class Prepared:
    """Templates to enroll; samples that are not among them, and why; doubts about those that are."""

    templates: tuple[Template, ...]
    refused: tuple[Doubt, ...]
    warnings: tuple[Doubt, ...]


def prepare(
    gallery: Gallery,
    x_ND: npt.NDArray[np.float32],
    identities: Sequence[str],
    contents: Sequence[str],
    *,
    paths: Sequence[str] | None = None,
    picture: Callable[[int], npt.NDArray[np.uint8]] | None = None,
    calibration: Calibration | None = None,
    tags: tuple[str, ...] = (),
    metadata: Mapping[str, Any] | None = None,
    keep_pictures: bool = False,
    force: bool = False,
) -> Prepared:
    """The templates of samples that are fit to be enrolled.

    Refused, unless forced: a picture on which nothing can be seen (`quality_of`), and a sample that is already enrolled
    as somebody else, in the gallery or among these. Warned of: a picture that seems blurred, and a sample that reaches
    the calibrated threshold with somebody else's template and is less like any other of its own identity. Being like
    somebody's is no doubt by itself: in a large gallery every sample is.

    Args:
        gallery: Where they are to go.
        x_ND: Their vectors.
        identities: Whose each is.
        contents: A hash of each sample's bytes.
        paths: Where each came from; None: not told.
        picture: Gives the n-th decoded picture, uint8 [C, H, W], where the samples are pictures.
        calibration: The run's, or None.
        tags: For all of them.
        metadata: For all of them.
        keep_pictures: Whether a small JPEG of each is kept.
        force: Enroll also what would be refused; the reasons become warnings.

    Raises:
        InvalidInput: Lengths that differ; a blank name; pictures to keep where there are none.
    """
    paths = [""] * len(x_ND) if paths is None else paths
    if not len(x_ND) == len(identities) == len(contents) == len(paths):
        raise InvalidInput("identities, contents and paths must have one entry for each vector")
    if keep_pictures and picture is None:
        raise InvalidInput("keep_pictures: these samples are not pictures")
    identities = [check_name("identity", name) for name in identities]
    plain = calibration is not None and getattr(calibration, "norm", None) is None
    threshold = calibration.threshold if calibration is not None and plain else np.inf
    templates, refused, warnings = [], [], []
    others, own_N = _most_like(gallery, x_ND, identities)
    for n, (name, score) in enumerate(others):
        quality = None if picture is None else quality_of(picture(n))
        reason = quality.refuse if quality else ""
        doubt = quality.warn if quality else ""
        if score >= _SAME:
            reason = reason or f"the same as a sample of {name}"
        elif score >= threshold and score > own_N[n]:
            doubt = doubt or f"a sample of {name} is as like it (score {score:.3f}) as samples of one identity are"
        if reason and not force:
            refused.append(Doubt(identities[n], paths[n], reason))
            continue
        if reason or doubt:
            warnings.append(Doubt(identities[n], paths[n], reason or doubt))
        templates.append(
            Template(
                identity=identities[n],
                vector=x_ND[n],
                content=contents[n],
                path=paths[n],
                tags=tags,
                metadata=metadata or {},
                picture=picture_bytes(picture(n)) if keep_pictures and picture is not None else b"",
            )
        )
    return Prepared(tuple(templates), tuple(refused), tuple(warnings))


def _most_like(
    gallery: Gallery, x_ND: npt.NDArray[np.float32], identities: Sequence[str]
) -> tuple[list[tuple[str, float]], npt.NDArray[np.float64]]:
    """For each sample: the other identity with the most similar template and that similarity; and its own's [N].

    -inf stands for none. A template that is the sample itself, enrolled before, counts as its own.
    """
    known_MD, known = x_ND, list(identities)
    if len(x_ND) > _ONE_BY_ONE:
        entries = [(entry.identity, vector_D) for entry, vector_D, _ in gallery.entries()]
        known_MD = np.concatenate([x_ND, *(vector_D[None] for _, vector_D in entries)])
        known += [name for name, _ in entries]
    label = {name: number for number, name in enumerate(dict.fromkeys(known))}
    label_M = np.array([label[name] for name in known])
    others: list[tuple[str, float]] = []
    own_N = np.full(len(x_ND), -np.inf)
    for start in range(0, len(x_ND), _TILE_ROWS):
        score_TM = (x_ND[start : start + _TILE_ROWS] @ known_MD.T).astype(np.float64)
        tile_T = np.arange(len(score_TM))
        score_TM[tile_T, start + tile_T] = -np.inf
        same_TM = label_M[start : start + len(score_TM), None] == label_M
        own_N[start : start + len(score_TM)] = np.where(same_TM, score_TM, -np.inf).max(axis=1)
        score_TM[same_TM] = -np.inf
        others += [(known[m], float(score_TM[t, m])) for t, m in enumerate(score_TM.argmax(axis=1))]
    if len(x_ND) <= _ONE_BY_ONE:
        for n, vector_D in enumerate(x_ND):
            for match in gallery.candidates(vector_D, 2):
                if match.identity == identities[n]:
                    own_N[n] = max(own_N[n], match.score)
                elif match.score > others[n][1]:
                    others[n] = (match.identity, match.score)
    return others, own_N


def retention_s(text: str, option: str) -> float | None:
    """How long something is kept, in seconds, from "12h", "365d", "8w" or "3y"; None from "": for ever.

    Raises:
        InvalidOption: It is no such time, or longer than a hundred years; the message begins with `option`.
    """
    if not text:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([hdwy])", text.strip())
    if match is None:
        raise InvalidOption(f"{option} {text}: must be a number with h, d, w or y, for example 365d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > 100 * _SECONDS["y"]:
        raise InvalidOption(f"{option} {text}: is longer than a hundred years; without it nothing expires")
    return seconds
