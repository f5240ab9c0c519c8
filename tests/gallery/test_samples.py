"""Quality of pictures, what is fit to be enrolled, groups of alike, export and import."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from enrolled import D, people, unit_rows
from tercet.errors import DataError, GalleryError, InvalidInput
from tercet.evaluate import Calibration, calibrate
from tercet.gallery import (
    Gallery,
    Template,
    alike,
    export_gallery,
    import_gallery,
    open_gallery,
    picture_bytes,
    prepare,
    quality_of,
    read_export,
)
from tercet.run import Vectors


@pytest.fixture
def gallery(tmp_path: Path):
    with open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True) as opened:
        yield opened


def pattern(side: int = 64, low: int = 20, high: int = 230, channels: int = 1) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(low, high, (channels, side, side))
    return blocks.astype(np.uint8)


def test_quality() -> None:
    sharp = pattern()
    assert quality_of(sharp).refuse == quality_of(sharp).warn == ""
    assert quality_of(pattern(side=8)).refuse == ""
    assert quality_of(np.full((1, 64, 64), 128, np.uint8)).refuse.startswith("blank")
    assert quality_of(pattern(low=0, high=30)).refuse.startswith("too dark")
    assert quality_of(pattern(low=225, high=250)).refuse.startswith("too bright")
    assert quality_of(pattern(low=120, high=133, channels=3)).refuse.startswith("blank")
    ramp = np.tile(np.linspace(0, 255, 64), (1, 64, 1))
    assert quality_of(ramp.astype(np.uint8)).warn.startswith("blurred")
    noisy = ramp * 0.8 + 50 * (sharp / 255)
    assert quality_of(noisy.astype(np.uint8)).warn == ""


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 30), (3, 512, 512)])
def test_kept_pictures_are_small_and_bare(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = picture_bytes(pixels)
    assert len(data) <= 32_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert max(image.size) <= 256
        assert image.size == (min(shape[2], 256), min(shape[1], 256))


def calibration(threshold: float) -> Calibration:
    scores = np.concatenate([np.full(4000, threshold + 0.01), np.full(4000, threshold - 0.01)])
    return calibrate(scores, scores > threshold, target_fmr=0.01)


@pytest.mark.parametrize("many", [False, True])
def test_what_is_fit_to_be_enrolled(gallery: Gallery, many: bool) -> None:
    known = people(3, 2)
    gallery.enroll(known)
    fill = people(20 if many else 0, 2, seed=5)  # more than are searched for one by one
    mixed = known[0].vector + 0.2 * unit_rows(1, seed=6)[0]
    mixed /= np.linalg.norm(mixed)
    x_ND = np.stack([t.vector for t in fill] + [known[0].vector, known[0].vector, mixed, mixed * 1, -mixed])
    names = [t.identity + "x" for t in fill] + ["p0", "thief", "p0", "like", "blank"]
    pictures = [pattern()] * (len(x_ND) - 1) + [np.full((1, 64, 64), 128, np.uint8)]
    contents = [f"c{n}" for n in range(len(x_ND))]
    arguments = {"paths": [f"/{n}" for n in names], "picture": pictures.__getitem__, "calibration": calibration(0.9)}

    found = prepare(gallery, x_ND, names, contents, **arguments)
    reasons = {doubt.identity: doubt.reason for doubt in found.refused}
    # p0's own sample is the thief's too, so it is refused as well: one of the two names is wrong.
    assert reasons.keys() == {"thief", "p0", "like", "blank"}
    assert reasons["thief"] == "the same as a sample of p0"
    assert reasons["blank"].startswith("blank")
    assert len(found.templates) == len(fill)

    forced = prepare(gallery, x_ND, names, contents, force=True, keep_pictures=True, tags=("t",), **arguments)
    assert [t.identity for t in forced.templates] == names
    assert not forced.refused
    assert {doubt.identity for doubt in forced.warnings} >= {"thief", "blank"}
    assert all(t.picture and t.tags == ("t",) for t in forced.templates)

    # Like somebody else's beyond the threshold and not like any of its own: a doubt, and enrolled.
    found = prepare(gallery, mixed[None], ["like"], ["c"], **{**arguments, "paths": ["/x"], "picture": None})
    assert [doubt.identity for doubt in found.warnings] == ["like"]
    assert "a sample of p0 is as like it" in found.warnings[0].reason
    assert len(found.templates) == 1
    # Its own: none. Below the threshold, or without one: none.
    assert not prepare(gallery, mixed[None], ["p0"], ["c"], calibration=calibration(0.9)).warnings
    assert not prepare(gallery, mixed[None], ["like"], ["c"], calibration=calibration(0.999)).warnings
    assert not prepare(gallery, mixed[None], ["like"], ["c"]).warnings
    with pytest.raises(InvalidInput, match="not pictures"):
        prepare(gallery, mixed[None], ["like"], ["c"], keep_pictures=True)
    with pytest.raises(InvalidInput, match="one entry for each"):
        prepare(gallery, mixed[None], ["like", "more"], ["c"])


def test_groups_do_not_chain() -> None:
    # Five directions in a plane, 20 degrees apart: each like its neighbours, the ends unlike.
    angle = np.deg2rad([0, 20, 40, 60, 80])
    x_ND = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    groups = alike(x_ND, float(np.cos(np.deg2rad(25))))
    assert max(map(len, groups)) == 2, "single link would make one group of five"
    assert alike(x_ND, 1.0) == []
    assert alike(x_ND, -1.0) == [[0, 1, 2, 3, 4]]
    assert alike(np.empty((0, 2), np.float32), 0.5) == []
    with pytest.raises(InvalidInput, match="threshold=2"):
        alike(x_ND, 2.0)


@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(-0.5, 0.99))
def test_every_two_of_a_group_are_alike_and_copies_are_found(seed: int, count: int, threshold: float) -> None:
    x_ND = np.concatenate([unit_rows(count, seed, d=4), unit_rows(3, seed, d=4)])
    groups = alike(x_ND, threshold)
    rows = [row for group in groups for row in group]
    assert len(rows) == len(set(rows))
    for group in groups:
        assert (x_ND[group] @ x_ND[group].T).min() >= threshold - 1e-5
    member = {row: n for n, group in enumerate(groups) for row in group}
    for copy in range(min(3, count)):
        assert member[copy] == member[count + copy]


def test_export_and_import(gallery: Gallery, tmp_path: Path) -> None:
    templates = [
        Template(f"p{n}", x, f"c{n}", path=f"/{n}.png", tags=("t",) * (n % 2), metadata={"n": n}, picture=b"J" * n)
        for n, x in enumerate(unit_rows(6))
    ]
    with pytest.raises(GalleryError, match="nothing to export"):
        export_gallery(gallery, tmp_path / "out.npz")
    gallery.enroll(templates, retain_s=1000)
    out = tmp_path / "out.npz"
    assert export_gallery(gallery, out) == 6
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    # Also a file of `tercet embed`.
    assert sorted(Vectors.read(out).identities) == [f"p{n}" for n in range(6)]

    with open_gallery(str(tmp_path / "new.db"), model="m", dimension=D, create=True, index="HNSW") as new:
        assert import_gallery(new, out).templates == 6
        assert import_gallery(new, out).replaced == 6
        back = {entry.identity: (entry, vector_D, picture) for entry, vector_D, picture in new.entries()}
    for template in templates:
        entry, vector_D, picture = back[template.identity]
        assert (entry.path, entry.content, entry.tags) == (template.path, template.content, template.tags)
        assert (entry.metadata, picture, entry.expires) == (template.metadata, template.picture, None)
        np.testing.assert_array_equal(vector_D, template.vector)
    with (
        open_gallery(str(tmp_path / "other.db"), model="n", dimension=D, create=True) as other,
        pytest.raises(GalleryError, match="vectors of model m"),
    ):
        import_gallery(other, out)


def test_damaged_exports_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.enroll(people(2, 1))
    out = tmp_path / "out.npz"
    export_gallery(gallery, out)
    with np.load(out) as arrays:
        whole = dict(arrays)

    def text(value: str) -> np.ndarray:
        return np.frombuffer(value.encode(), np.uint8)

    for change, said in (
        ({"records": text("[]")}, "differ in number"),
        ({"records": text("{")}, "cannot be read"),
        ({"records": text('[{"content": "c"}, {}]')}, "cannot be read"),
        ({"records": text("[1, 2]")}, "cannot be read"),
        ({"identities": np.array(["", "b"])}, "must not be blank"),
        ({"vectors": np.ones((2, D), np.float32)}, "unit norm"),
        ({"records": np.array([{"a": 1}], dtype=object)}, "cannot be read"),
    ):
        np.savez(tmp_path / "x.npz", **(whole | change))
        with pytest.raises(DataError, match=said):
            read_export(tmp_path / "x.npz")
    # Plain vectors with identities can be imported too.
    del whole["records"]
    np.savez(tmp_path / "x.npz", **whole)
    assert {template.identity for template in read_export(tmp_path / "x.npz")[1]} == {"p0", "p1"}
