from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tercet.report.embedding_map import CELL, HEIGHT, WIDTH, make_map, map_rows, on_plane, sprite


def vectors(people: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    return (np.eye(people, 12)[labels] + 0.15 * rng.normal(size=(len(labels), 12))).astype(np.float32), labels


def test_samples_of_one_identity_lie_together():
    x, labels = vectors(5, 12)
    places, how = on_plane(x, seed=0)
    assert "t-SNE" in how and places.min() == 0 and places.max() == 1
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (labels[far.argmin(axis=1)] == labels).mean() > 0.95
    np.testing.assert_array_equal(places, on_plane(x, seed=0)[0])


@pytest.mark.parametrize("count", [1, 2, 3, 19])
def test_few_samples_are_laid_out_by_principal_components(count):
    places, how = on_plane(vectors(1, count)[0], seed=0)
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert "principal" in how or count == 1


def test_a_collapsed_model_has_a_map_too():
    places, how = on_plane(np.ones((40, 8), np.float32), seed=0)
    assert (places == 0.5).all() and "one and the same" in how


def test_a_sample_of_rows_has_as_many_of_each_identity():
    labels = np.repeat([0, 1, 2], [500, 20, 400])
    rows = map_rows(labels, seed=1, most=100)
    assert len(rows) == 100 and (np.diff(rows) > 0).all()
    counts = np.bincount(labels[rows])
    assert counts[1] == 20 and abs(int(counts[0]) - int(counts[2])) <= 1
    np.testing.assert_array_equal(map_rows(labels[:50], seed=0), np.arange(50))


def test_every_picture_stands_in_its_cell():
    pictures = [np.full((1, 20 + n, 40), 40 * n, np.uint8) for n in range(5)]
    uri, columns, rows = sprite(pictures)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as sheet:
        assert sheet.size == (columns * CELL, rows * CELL) and columns * rows >= 5
        for n in range(5):
            at = n % columns * CELL + CELL // 2, n // columns * CELL + CELL // 2
            assert abs(sheet.getpixel(at) - 40 * n) < 12


def test_the_marks_lie_on_the_drawing_and_say_whose_they_are():
    x, labels = vectors(4, 8)
    names = [f"id {label}" for label in labels]
    pictures = [np.zeros((3, 8, 8), np.uint8)] * len(x)
    drawn = make_map(x, names, [f"{n}.png" for n in range(len(x))], pictures, seed=0)
    assert [mark.identity for mark in drawn.marks] == names
    assert all(0 < mark.x < WIDTH and 0 < mark.y < HEIGHT for mark in drawn.marks)
    assert len({(mark.shape, mark.series, mark.hollow) for mark in drawn.marks}) == 4
    assert [name for _, _, name in drawn.labels] == sorted(set(names))
    cells = {(mark.column, mark.row) for mark in drawn.marks}
    assert len(cells) == len(x) and max(column for column, _ in cells) < drawn.columns


def test_a_name_stands_above_its_marks_and_inside_the_drawing():
    x, labels = vectors(4, 8)
    names = [("short", "x" * 60, "<b>", "δ")[label] for label in labels]
    drawn = make_map(x, names, ["a.png"] * len(x), [np.zeros((1, 8, 8), np.uint8)] * len(x), seed=0)
    for at, height, name in drawn.labels:
        own = [mark for mark in drawn.marks if mark.identity.startswith(name.rstrip("…"))]
        assert own and (height <= min(mark.y for mark in own) - 8 or height == 14)
        assert len(name) <= 28 and 3.5 * len(name) <= at <= 640 - 3.5 * len(name)
    assert {name for *_, name in drawn.labels} == {"short", "x" * 27 + "…", "<b>", "δ"}
