from __future__ import annotations

import os
from pathlib import Path

import pytest

from tercet.data import ImageFrontEnd, Manifest, Row, read_data
from tercet.errors import DataError, InvalidOption

SUFFIXES = ImageFrontEnd.SUFFIXES


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def read(path: Path, layout: str = "auto") -> Manifest:
    return read_data(path, layout=layout, suffixes=SUFFIXES)


def listing(manifest: Manifest) -> list[tuple[str, str]]:
    return [(manifest.relative(row), row.identity) for row in manifest.rows]


def write_csv(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "m.csv").write_bytes(text.encode(encoding))
    return root / "m.csv"


def complaint(path: Path, layout: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read(path, layout)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# --- folders


def test_folders_are_identities_and_files_at_any_depth_their_samples(tmp_path):
    touch(tmp_path, "bob/2.PNG", "bob/10.jpg", "ada/deep/er/1.png", "ada/0.tiff")
    manifest = read(tmp_path)
    assert listing(manifest) == [
        ("ada/0.tiff", "ada"),
        ("ada/deep/er/1.png", "ada"),
        ("bob/10.jpg", "bob"),
        ("bob/2.PNG", "bob"),
    ]
    assert manifest.skipped == ()
    assert all(row.path.is_absolute() and row.kind == "genuine" for row in manifest.rows)


def test_hidden_and_stray_files_are_ignored_and_others_counted(tmp_path):
    touch(tmp_path, "PROVENANCE.md", "index.csv", "stray.png", ".git/x.png", "ada/.DS_Store", "ada/.thumbs/1.png")
    touch(tmp_path, "ada/1.png", "ada/notes.txt", "ada/README")
    (tmp_path / "empty").mkdir()
    manifest = read(tmp_path)
    assert listing(manifest) == [("ada/1.png", "ada")]
    skipped = {entry.path: entry.reason for entry in manifest.skipped}
    assert skipped.keys() == {"ada/notes.txt", "ada/README", "empty"}
    assert "'.txt'" in skipped["ada/notes.txt"]
    assert skipped["ada/README"] == "has no suffix"
    assert skipped["empty"] == "a folder without a sample"


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "data/bob/2.png")
    (tmp_path / "data" / "ada").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "elsewhere")
    assert listing(read(tmp_path / "data")) == [("ada/1.png", "ada"), ("bob/2.png", "bob")]


def test_rows_come_in_one_order_whatever_the_file_system_says(tmp_path):
    names = [f"{identity}/{sub}/{n}.png" for identity in "hgfedcba" for sub in "zyxwvu" for n in "210"]
    touch(tmp_path, *names)
    assert [name for name, _ in listing(read(tmp_path))] == sorted(names)


def test_one_spelling_of_an_accent(tmp_path):
    touch(tmp_path, "Zoe\u0308/1.png")
    assert read(tmp_path).identities == ("Zo\u00eb",)


def test_a_name_that_is_not_utf8_is_skipped_and_can_be_printed(tmp_path):
    touch(tmp_path, "ada/1.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/ada/\xff.png")).write_bytes(b"x")
    except OSError as error:
        pytest.skip(f"this file system refuses such names: {error}")
    manifest = read(tmp_path)
    assert len(manifest) == 1
    (skipped,) = manifest.skipped
    assert skipped.reason == "the name is not UTF-8"
    skipped.path.encode()


def test_a_folder_below_that_fails_to_list_is_counted(tmp_path, monkeypatch):
    touch(tmp_path, "ada/1.png", "ada/locked/2.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    manifest = read(tmp_path)
    assert listing(manifest) == [("ada/1.png", "ada")]
    assert [(entry.path, entry.reason) for entry in manifest.skipped] == [("ada/locked", "Permission denied")]


def test_folders_that_hold_nothing_to_learn_from(tmp_path):
    assert complaint(tmp_path / "absent") == "no such file or folder"
    assert complaint(tmp_path) == "the folder is empty"
    touch(tmp_path, "a.png", "b.png")
    assert complaint(tmp_path) == (
        "has no folder per identity, but loose samples (2); put those of each identity in a folder"
    )
    touch(tmp_path, "ada/a.txt")
    assert complaint(tmp_path).startswith("no sample in its 1 folder(s); looked for .bmp .gif")


@pytest.mark.parametrize(
    ("names", "below"),
    [
        (["train/ada/1.png", "train/bob/2.png", "Test/eve/1.png"], "train"),
        (["dev/ada/1.png", "test/eve/1.png", "val/1.png"], "dev"),
        (["images/ada/1.png", "images/bob/1.png"], "images"),
        (["wav/ada/1.png"], "wav"),
        (["lfw/ada/1.png", "lfw/bob/2.png"], "lfw"),
        (["lfw/lfw/ada/1.png", "lfw/lfw/bob/deep/2.png"], "lfw/lfw"),
        (["lfw/ada/1.png"], "lfw"),
    ],
)
def test_a_folder_too_high_is_refused_with_the_one_to_try_unless_asked_for(names, below, tmp_path):
    touch(tmp_path, *names, "list.csv")
    assert complaint(tmp_path).endswith(f"; try {tmp_path / below}, or --layout folders if they are what is told apart")
    assert len(read(tmp_path, "folders")) == len(names)
    assert read(tmp_path / below).identities


def test_kinds_in_place_of_identities_are_refused(tmp_path):
    touch(tmp_path, "genuine/1.png", "forged/1.png")
    assert complaint(tmp_path) == (
        "its folders are named forged, genuine, which are parts or kinds of data and no identities; put the samples of"
        " each identity in a folder, or give --layout folders if they are what is told apart"
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.png", "bus/1.png"],  # vehicles
        ["ada/1.png", "ada/deep/2.png"],
        ["ada/1.png"],
        ["ada/x/1.png", "test/x/1.png"],
        ["s1/1.png", "s2/1.png"],
    ],
)
def test_identities_of_any_other_name_are_not_refused(names, tmp_path):
    touch(tmp_path, *names)
    assert len(read(tmp_path)) == len(names)


def test_a_path_that_no_file_can_have(tmp_path, monkeypatch):
    assert complaint(Path("a" * 5000)) == "File name too long"


def test_a_file_is_no_folder_and_a_folder_no_manifest(tmp_path):
    touch(tmp_path, "a.png", "m.csv")
    assert complaint(tmp_path / "m.csv", "folders") == "is not a folder"
    assert complaint(tmp_path, "manifest") == "is a folder, not a manifest CSV"
    assert complaint(tmp_path / "a.png").startswith("is a single sample")


def test_an_unknown_layout_is_named(tmp_path):
    with pytest.raises(InvalidOption, match=r"layout='coco' is not known; allowed: 'auto', 'folders', 'manifest'"):
        read(tmp_path, "coco")


# --- manifest CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_manifest_in_every_common_form(tmp_path, delimiter, encoding, end):
    touch(tmp_path, "p/a.png", "p/b.png")
    lines = [
        ["Identity", "path", "group", "extra", "kind", "split", "Category"],
        ["Zo\u00eb", "p/a.png", "mon", "?", "", "Train", " fruit "],
        [],
        ["5", " ./p/b.png ", "", "", "forged", "test"],
    ]
    path = write_csv(tmp_path, end.join(delimiter.join(line) for line in lines) + end, encoding)
    assert read(path).rows == (
        Row(tmp_path / "p/a.png", "Zo\u00eb", "mon", "genuine", "train", category="fruit"),
        Row(tmp_path / "p/b.png", "5", "", "skilled", "test"),
    )


def test_the_kind_of_a_sample_is_one_of_those_known(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png", "d.png")
    path = write_csv(tmp_path, "path,identity,kind\na.png,x,genuine\nb.png,x,Skilled\nc.png,x,simple\nd.png,x,\n")
    assert [row.kind for row in read(path).rows] == ["genuine", "skilled", "simple", "genuine"]
    path = write_csv(tmp_path, "path,identity,kind\na.png,x,genuine\nb.png,x,genunie\n")
    with pytest.raises(
        DataError, match=r"line 3: kind 'genunie' is not known; allowed: blank, forged, genuine, skilled"
    ):
        read(path)


def test_quoted_fields_may_hold_the_delimiter(tmp_path):
    touch(tmp_path, "a, b.png")
    path = write_csv(tmp_path, 'path,identity\n"a, b.png","Doe, Jane"\n')
    assert listing(read(path)) == [("a, b.png", "Doe, Jane")]


def test_an_absolute_path_is_taken_as_it_is(tmp_path):
    touch(tmp_path, "far/a.png", "near/x.txt")
    path = write_csv(tmp_path / "near", f"path,identity\n{tmp_path}/far/a.png,a\n")
    assert listing(read(path)) == [(f"{tmp_path.as_posix()}/far/a.png", "a")]


def test_a_repeated_line_and_a_foreign_suffix_are_skipped(tmp_path):
    touch(tmp_path, "a.png", "b.wav")
    path = write_csv(tmp_path, "path,identity\na.png,a\nb.wav,b\n./a.png,a\n")
    manifest = read(path)
    assert listing(manifest) == [("a.png", "a")]
    assert [entry.path for entry in manifest.skipped] == ["b.wav", "./a.png"]
    assert manifest.skipped[1].reason == "listed again in line 4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no header line; wanted: path,identity[,group][,kind][,split]"),
        (
            "path,label\na.png,a\n",
            "column 'identity' is missing; there are: path, label; wanted: path,identity[,group][,kind][,split]",
        ),
        ("path;identity;path\n", "column 'path' occurs 2 times"),
        ("path,identity\n", "lists no sample; looked for"),
        ("path,identity\na.png,a\na.png,  \n", "line 3: the identity is blank"),
        ("path,identity\na.png\n", "line 2: the identity is blank"),
        ("path,identity\n,a\n", "line 2: the path is blank"),
        ("path,identity\na.png,a,b\n", "line 2: 3 fields under 2 columns"),
        ("path,identity\n\nx.png,a\n", "line 3: no such file: x.png"),
        ("path,identity\nx.png,a\na.png,a\ny.png,a\n", "line 2: no such file: x.png (and 1 more of 3 files)"),
        ("path,identity\n../m/a.png,a\n", "line 2: ../m/a.png leads out of the manifest's folder"),
        ("path,identity\nb/../../a.png,a\n", "line 2: b/../../a.png leads out of"),
        ("path,identity\na\0.png,a\n", "line 2: the path holds a NUL character"),
        ("path,identity,split\na.png,a,dev\n", "line 2: split 'dev' is not known; allowed: train, validation, test"),
        ("path,identity\na.png,a\na.png,b\n", "line 3: a.png is 'b' here and 'a' in line 2"),
        ('path,identity\n"a.png,a\n', "line 2: "),
    ],
)
def test_a_bad_manifest_is_named_with_its_line(tmp_path, text, message):
    touch(tmp_path, "a.png")
    assert complaint(write_csv(tmp_path, text)).startswith(message)


def test_a_manifest_that_is_not_utf8(tmp_path):
    path = write_csv(tmp_path, "path,identity\na.png,Zo\u00eb\n", "latin-1")
    assert complaint(path) == "is not UTF-8 text"
    assert complaint(write_csv(tmp_path, "path,identity\n", "utf-16")) == "is not UTF-8 text"


def test_a_manifest_that_cannot_be_opened(tmp_path, monkeypatch):
    path = write_csv(tmp_path, "path,identity\n")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert complaint(path) == "Permission denied"
