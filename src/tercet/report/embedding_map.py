"""The map: samples on a plane, alike ones near each other, with a small picture of each.

Legend: N samples on the map, D embedding width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["CELL", "Map", "Mark", "make_map", "map_rows", "on_plane", "sprite"]

CELL = 56  # pixels of a small picture
WIDTH, HEIGHT, EDGE = 640, 440, 14  # of the drawing
_MOST = 300
_LABELLED = 30  # identities that can be named beside their marks
_LONGEST_NAME, _LETTER = 28, 7  # letters of a name that are shown, and pixels that one takes
_SHAPES = ("M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z", "M-4,-4h8v8h-8z", "M0,-5l5,9h-10z", "M0,-5.5l5,5.5l-5,5.5l-5,-5.5z")
_SERIES = 3


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """A sample on the map: where, how it is drawn, and whose it is."""

    x: float
    y: float
    shape: str
    series: int
    hollow: bool
    identity: str
    path: str
    column: int
    row: int


@final
@dataclass(frozen=True, slots=True)
class Map:
    """The map with its small pictures in one image of cells."""

    marks: tuple[Mark, ...]
    labels: tuple[tuple[float, float, str], ...]
    sprite: str
    columns: int
    rows: int
    how: str
    width: int = WIDTH
    height: int = HEIGHT
    cell: int = CELL


def map_rows(labels_N: npt.NDArray[np.int64], *, seed: int, most: int = _MOST) -> npt.NDArray[np.int64]:
    """Which rows are shown: all, or a drawn sample with as many of each identity, ascending."""
    if len(labels_N) <= most:
        return np.arange(len(labels_N))
    order = np.random.default_rng(seed).permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]
    turn = np.arange(len(order)) - np.searchsorted(labels_N[order], labels_N[order])
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def on_plane(vectors_ND: npt.NDArray[np.float32], *, seed: int) -> tuple[npt.NDArray[np.float64], str]:
    """Places [N, 2] between 0 and 1, and the name of the method: t-SNE, or the first two principal components of few.

    Cost: O(N^2) a step, seconds for some hundred.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    x_ND = vectors_ND.astype(np.float64)
    spread = float(np.square(x_ND - x_ND.mean(axis=0)).sum())
    if spread < 1e-12:
        return np.full((len(x_ND), 2), 0.5), "all samples have one and the same embedding"
    with threadpool_limits(limits=1):  # so that the same vectors give the same map on every machine
        if len(x_ND) < 20 or x_ND.shape[1] < 3:
            places = np.zeros((len(x_ND), 2))
            found = PCA(n_components=min(2, *x_ND.shape), svd_solver="full").fit_transform(x_ND)
            places[:, : found.shape[1]] = found
            how = "the first two principal components"
        else:
            perplexity = min(30.0, (len(x_ND) - 1) / 4)
            places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x_ND).astype(np.float64)
            how = f"t-SNE, perplexity {perplexity:.0f}"
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-9), how


def sprite(pictures: Sequence[npt.NDArray[np.uint8]]) -> tuple[str, int, int]:
    """Pictures uint8 [C, H, W] as one image of cells: its data URI, columns and rows."""
    columns = max(1, int(np.ceil(np.sqrt(len(pictures)))))
    rows = max(1, -(-len(pictures) // columns))
    grey = all(len(pixels) == 1 for pixels in pictures)
    sheet = Image.new("L" if grey else "RGB", (columns * CELL, rows * CELL), "white")
    for n, pixels in enumerate(pictures):
        one = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        scale = CELL / max(one.size)
        size = max(1, round(one.width * scale)), max(1, round(one.height * scale))
        one = one.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
        at = n % columns * CELL + (CELL - size[0]) // 2, n // columns * CELL + (CELL - size[1]) // 2
        sheet.paste(one, at)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}", columns, rows


def make_map(
    vectors_ND: npt.NDArray[np.float32],
    identities: Sequence[str],
    paths: Sequence[str],
    pictures: Sequence[npt.NDArray[np.uint8]],
    *,
    seed: int,
) -> Map:
    """The map of these samples."""
    places, how = on_plane(vectors_ND, seed=seed)
    uri, columns, rows = sprite(pictures)
    names = sorted(set(identities))
    number = {name: n for n, name in enumerate(names)}
    marks = []
    for n, (name, path) in enumerate(zip(identities, paths, strict=True)):
        x, y = EDGE + places[n] * (np.array([WIDTH, HEIGHT]) - 2 * EDGE)
        kind = number[name]
        marks.append(
            Mark(
                round(float(x), 1),
                round(float(y), 1),
                _SHAPES[kind // _SERIES % len(_SHAPES)],
                kind % _SERIES + 1,
                kind // (_SERIES * len(_SHAPES)) % 2 == 1,
                name,
                path,
                n % columns,
                n // columns,
            )
        )
    labels = []
    for name in names if len(names) <= _LABELLED else ():
        own = [mark for mark in marks if mark.identity == name]
        labels.append(_label(name, own))
    return Map(tuple(marks), tuple(labels), uri, columns, rows, how)


def _label(name: str, own: Sequence[Mark]) -> tuple[float, float, str]:
    """Where the name of an identity stands, and the name as it fits: above its marks, inside the drawing."""
    shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    half = _LETTER * len(shown) / 2
    middle = float(np.clip(np.median([mark.x for mark in own]), half, max(half, WIDTH - half)))
    return round(middle, 1), round(max(_LETTER * 2, min(mark.y for mark in own) - 8), 1), shown
