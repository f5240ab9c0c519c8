"""Each published layout, written in miniature with drawings of our own, and the real data besides."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tercet.data import Manifest
from tercet.errors import DataError
from tercet.tasks import load_task
from writers import draw, write_writers

TASK = load_task("signatures")


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw([(0, 0), (1, 1), (0.3, 0.8)]).save(root / name)
    return root


def found(manifest: Manifest) -> dict[str, tuple[str, str]]:
    return {manifest.relative(row): (row.identity, row.kind) for row in manifest.rows}


LAYOUTS = {
    "genuine-forged": {
        "007/genuine/007_01.png": ("007", "genuine"),
        "007/forged/0119007_01.png": ("007", "skilled"),
        "Ann Lee/Real/x.jpg": ("Ann Lee", "genuine"),
        "Ann Lee/forge/0119007_01.jpg": ("Ann Lee", "skilled"),
    },
    "sigcomp": {
        "001/001_05.png": ("001", "genuine"),
        "001_forg/0119001_02.png": ("001", "skilled"),
        "002/002_01.PNG": ("002", "genuine"),
    },
    "cedar": {
        "full_org/original_7_3.png": ("007", "genuine"),
        "full_forg/forgeries_7_3.png": ("007", "skilled"),
        "full_org/original_12_1.png": ("012", "genuine"),
    },
    "gpds": {
        "007/c-007-03.jpg": ("007", "genuine"),
        "007/cf-007-03.jpg": ("007", "skilled"),
        "8/c-08-1.png": ("008", "genuine"),
    },
    "mcyt": {
        "0007/0007v03.bmp": ("007", "genuine"),
        "0007/0007f03.bmp": ("007", "skilled"),
    },
    "bhsig260": {
        "Bengali/007/B-S-007-G-03.tif": ("B-007", "genuine"),
        "Bengali/007/B-S-7-F-03.tif": ("B-007", "skilled"),
        "Hindi/007/H-S-007-G-01.tif": ("H-007", "genuine"),
    },
    "hansig": {
        "original_12_3_4.jpg": ("12-3", "genuine"),
        "forgery_12_3_4.jpg": ("12-3", "skilled"),
        "original_12_4_1.jpg": ("12-4", "genuine"),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("named", [False, True])
def test_a_layout_is_recognised_and_read(layout, named, tmp_path):
    wanted = LAYOUTS[layout]
    root = write(tmp_path, *wanted)
    (root / "Readme.txt").write_text("as published")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    manifest = TASK.read(root, layout=layout if named else "auto")
    assert found(manifest) == wanted
    assert manifest.skipped == ()
    assert [known.name for known in TASK.layouts if known.recognise(root)] == [layout]


def test_every_layout_of_the_task_is_tried_here():
    assert {layout.name for layout in TASK.layouts} == set(LAYOUTS)
    assert TASK.front_end.SUFFIXES >= {".png", ".jpg", ".bmp", ".tif"}


def test_cedar_in_a_folder_per_writer_and_gpds_in_two_folders(tmp_path):
    cedar = write(tmp_path / "a", "7/original_7_1.png", "7/forgeries_7_1.png", "8/original_8_1.png")
    assert set(found(TASK.read(cedar)).values()) == {("007", "genuine"), ("007", "skilled"), ("008", "genuine")}
    gpds = write(tmp_path / "b", "first/c-001-01.png", "second/cf-001-01.png")
    assert set(found(TASK.read(gpds)).values()) == {("001", "genuine"), ("001", "skilled")}


def splits(manifest: Manifest) -> dict[str, tuple[str, str, str]]:
    return {manifest.relative(row): (row.identity, row.kind, row.split) for row in manifest.rows}


@pytest.mark.parametrize("layout", ["auto", "sigcomp"])
def test_sigcomp_with_train_and_test_above_the_writers_keeps_them_apart(layout, tmp_path):
    root = write(tmp_path, "train/001/001_05.png", "train/001_forg/0119001_02.png", "test/049/049_01.png")
    write(root, "test/049_forg/0201049_01.png")
    wanted = {
        "test/049/049_01.png": ("049", "genuine", "test"),
        "test/049_forg/0201049_01.png": ("049", "skilled", "test"),
        "train/001/001_05.png": ("001", "genuine", "train"),
        "train/001_forg/0119001_02.png": ("001", "skilled", "train"),
    }
    manifest = TASK.read(root, layout=layout)
    assert splits(manifest) == wanted and manifest.skipped == ()
    assert [known.name for known in TASK.layouts if known.recognise(root)] == ["sigcomp"]
    # Kaggle's test is in its training, too: the same names, of the same writers.
    write(root, "train/049/049_01.png", "train/049/049_02.png")
    manifest = TASK.read(root, layout=layout)
    assert splits(manifest) == wanted | {"train/049/049_02.png": ("049", "genuine", "test")}
    assert [(item.path, item.reason) for item in manifest.skipped] == [
        ("train/049/049_01.png", "stands in test as well")
    ]
    assert {split for _, _, split in splits(TASK.read(root / "train", layout=layout)).values()} == {""}


def test_sigcomp_in_the_folders_of_the_competition_goes_by_the_names(tmp_path):
    names = {
        "Offline Genuine/001_1.PNG": ("001", "genuine"),
        "Offline Forgeries/0119001_01.png": ("001", "skilled"),
        "Ref/011_01.png": ("011", "genuine"),
        "Questioned(1287)/011/011_07.png": ("011", "genuine"),
        "Questioned(1287)/011/0205011_02.png": ("011", "skilled"),
    }
    root = write(tmp_path / "flat", *names)
    assert [known.name for known in TASK.layouts if known.recognise(root)] == ["sigcomp"]
    assert found(TASK.read(root)) == names
    write(root, "Questioned(1287)/x_1.png", "Questioned(1287)/0011011_02.png")
    assert {item.path for item in TASK.read(root).skipped} == {
        "Questioned(1287)/x_1.png",
        "Questioned(1287)/0011011_02.png",  # a forger with the writer's own number: it could be either
    }
    for name, said in (
        ("Offline Genuine/0119001_03.png", "by its name a forgery, in the folder Offline Genuine"),
        ("Offline Forgeries/001_03.png", "by its name genuine, in the folder Offline Forgeries"),
        ("Questioned(1287)/011/012_01.png", "by its name of writer 012, in the folder 011"),
    ):
        write(root, name)
        with pytest.raises(DataError, match=said):
            TASK.read(root)
        (root / name).unlink()
    strange = write(tmp_path / "strange", "Ref/ann/1.png", "Questioned/ann/2.png")
    assert not any(known.recognise(strange) for known in TASK.layouts)


def test_what_does_not_fit_is_noted(tmp_path):
    root = write(tmp_path, *LAYOUTS["gpds"], "007/scan.png")
    (root / "007" / "Thumbs.db").write_bytes(b"")
    manifest = TASK.read(root, layout="gpds")
    assert {(item.path, item.reason[:24]) for item in manifest.skipped} == {
        ("007/scan.png", "the name does not fit GP"),
        ("007/Thumbs.db", "suffix '.db' is not one "),
    }


@pytest.mark.parametrize(
    ("layout", "names", "said"),
    [
        (
            "genuine-forged",
            ["007/genuine/a.png", "007/forged/0119008_01.png"],
            "a forgery of writer 008, in the folder",
        ),
        ("sigcomp", ["001/001_01.png", "001_forg/0119002_01.png"], "by its name of writer 002, in the folder 001_forg"),
        ("sigcomp", ["001/002_01.png", "001_forg/0119001_01.png"], "by its name of writer 002, in the folder 001"),
        ("gpds", ["007/cf-007-01.png"], "no genuine signature in the layout of GPDS"),
        ("hansig", ["a.png"], "no genuine signature in the layout of HanSig"),
    ],
)
def test_what_contradicts_itself_is_an_error_that_names_the_file(layout, names, said, tmp_path):
    root = write(tmp_path, *names)
    with pytest.raises(DataError, match=said):
        TASK.read(root, layout=layout)


def test_a_folder_per_writer_and_a_manifest_are_read_as_ever(tmp_path):
    plain = write(tmp_path / "plain", "ann/1.png", "ann/2.png", "bob/1.png")
    assert set(found(TASK.read(plain)).values()) == {("ann", "genuine"), ("bob", "genuine")}
    listed = plain / "list.csv"
    listed.write_text("path,identity,kind\nann/1.png,ann,genuine\nann/2.png,bob,simple\nbob/1.png,bob,\n")
    assert found(TASK.read(listed)) == {
        "ann/1.png": ("ann", "genuine"),
        "ann/2.png": ("bob", "simple"),
        "bob/1.png": ("bob", "genuine"),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_path_that_is_no_folder_is_recognised_by_nobody(layout, tmp_path):
    known = next(found for found in TASK.layouts if found.name == layout)
    assert not known.recognise(tmp_path / "absent")
    with pytest.raises(DataError, match="is not a folder"):
        known.read(tmp_path / "absent", TASK.suffixes)


def test_made_up_writers_are_in_the_layout_of_sigcomp(tmp_path):
    manifest = TASK.read(write_writers(tmp_path / "w", writers=3, genuine=2, forged=1))
    assert Counter(manifest.kinds.tolist()) == {"genuine": 6, "skilled": 3}


@pytest.mark.data
def test_the_real_sigcomp(shared_data, tmp_path):
    real = shared_data / "signatures/sigcomp2011_dutch"
    manifest = TASK.read(real)
    assert Counter(manifest.kinds.tolist()) == {"genuine": 887, "skilled": 762}
    assert (len(manifest.identities), manifest.skipped) == (64, ())
    # The same as Kaggle has it: 001 and 001_forg.
    for writer in sorted(real.iterdir())[:3]:
        if writer.is_dir():
            shutil.copytree(writer / "genuine", tmp_path / writer.name)
            shutil.copytree(writer / "forged", tmp_path / f"{writer.name}_forg")
    kaggle = TASK.read(tmp_path)
    names = kaggle.identities
    assert Counter((row.identity, row.kind) for row in kaggle.rows) == Counter(
        (row.identity, row.kind) for row in manifest.of(names).rows
    )
