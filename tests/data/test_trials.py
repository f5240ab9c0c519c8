"""Lists of pairs: every published form is read, and whatever could mean two things is refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tercet.data.trials as trials_module
from tercet.data.trials import read_trials
from tercet.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("Ann_Lee", "Bo", "Cy"):
        (folder / name).mkdir(parents=True)
        for n in range(1, 4):
            (folder / name / f"{name}_{n:04d}.jpg").touch()
    (folder / "Cy" / "Cy_0004.png").touch()
    return folder


def listed(root: Path, text: str | bytes, name: str = "list.txt") -> Path:
    file = root.parent / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def named(root: Path, found) -> list[tuple[str, str, bool]]:
    return [(a.relative_to(root).as_posix(), b.relative_to(root).as_posix(), bool(g))
            for a, b, g in zip(found.a, found.b, found.genuine, strict=True)]  # fmt: skip


A, B, C = "Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "Bo/Bo_0001.jpg"
EXPECTED = [(A, B, True), (A, C, False)]


def test_lfw_with_folds(root):
    text = (
        "2\t2\nAnn_Lee\t1\t2\nBo\t2\t3\nAnn_Lee\t1\tBo\t1\nBo\t1\tCy\t4\n"
        "Cy\t1\t4\nCy\t1\t2\nAnn_Lee\t2\tBo\t3\nBo\t3\tCy\t1\n"
    )
    found = read_trials(listed(root, text), root)
    assert named(root, found)[:1] == EXPECTED[:1] and named(root, found)[2] == EXPECTED[1]
    assert named(root, found)[3] == ("Bo/Bo_0001.jpg", "Cy/Cy_0004.png", False)
    assert found.fold.tolist() == [0] * 4 + [1] * 4
    assert found.genuine.tolist() == [True, True, False, False] * 2
    assert found.line.tolist() == list(range(2, 10))


def test_lfw_of_the_development_view_has_no_folds(root):
    found = read_trials(listed(root, "1\r\nAnn_Lee 1 2\r\n\r\nAnn_Lee 1 Bo 1\r\n"), root)
    assert named(root, found) == EXPECTED and found.fold is None and found.line.tolist() == [2, 4]


@pytest.mark.parametrize(
    "text",
    [
        f"{A} {B} 1\n{A} {C} 0\n",
        f"\ufeff{A}\t{B}\t1\r\n{A}\t{C}\t0\r\n",
        f"{A},{B},1\n\n# a remark\n{A}, {C}, 0\n",
        f"path1;path2;label\n{A};{B};1\n{A};{C};0\n",
        f"1 {A} {B}\n0 {A} {C}\n",
        f"{A} {B} target\n{A} {C} nontarget\n",
        "Ann_Lee\\Ann_Lee_0001.jpg,Ann_Lee\\Ann_Lee_0002.jpg,1\n" + f"{A},Bo\\Bo_0001.jpg,0\n",
    ],
)
def test_the_published_forms(root, text):
    found = read_trials(listed(root, text), root)
    assert named(root, found) == EXPECTED and found.fold is None


def test_a_fourth_field_is_the_fold(root):
    found = read_trials(listed(root, f"a,b,label,fold\n{A},{B},1,7\n{A},{C},0,9\n", "x.csv"), root)
    assert found.fold.tolist() == [7, 9] and named(root, found) == EXPECTED


def test_names_with_spaces_are_read_where_the_separator_leaves_no_doubt(root):
    (root / "Bo" / "a b.jpg").touch()
    assert named(root, read_trials(listed(root, f"{A}\tBo/a b.jpg\t0\n"), root)) == [(A, "Bo/a b.jpg", False)]
    with pytest.raises(DataError, match=r"line 1: (the fold|no label)"):
        read_trials(listed(root, f"{A} Bo/a b.jpg 0\n"), root)


def test_kaldi_names_come_from_wav_scp(root):
    listed(root, f"u1 {A}\nu2 {B}\nu3 {C}\n", "wav.scp")
    found = read_trials(listed(root, "u1 u2 target\nu1 u3 nontarget\n"), root)
    assert named(root, found) == EXPECTED
    with pytest.raises(DataError, match=r"list.txt: line 1: u9 is not in wav.scp"):
        read_trials(listed(root, "u1 u9 target\n"), root)


@pytest.mark.parametrize(
    ("scp", "message"),
    [
        ("u1 sox x.wav -t wav - |\n", "wav.scp: line 1: a command"),
        (f"u1 {A}\nu1 {B}\n", "wav.scp: line 2: u1 stands in line 1"),
        ("u1\n", "wav.scp: line 1: expected"),
        ("u1 ../x.wav\n", "wav.scp: line 1: ../x.wav leads out"),
    ],
)
def test_a_table_of_names_is_checked_as_the_list_is(root, scp, message):
    listed(root, scp, "wav.scp")
    with pytest.raises(DataError, match=message):
        read_trials(listed(root, "u1 u1 target\n"), root)


def test_cn_celeb_enrols_by_name_and_tests_by_path(root):
    listed(root, f"Ann_Lee-enroll {A}\n", "enroll.lst")
    found = read_trials(listed(root, f"Ann_Lee-enroll {B} 1\nAnn_Lee-enroll {C} 0\n", "trials.lst"), root)
    assert named(root, found) == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no pair"),
        ("# nothing\n\n", "lists no pair"),
        (f"{A} {B}\n", "line 1: expected 3 or 4 fields, got 2; known:"),
        (f"{A} {B} 1\n{A} {C}\n", "line 2: 2 fields, 3 in the lines before"),
        (f"{A} {B} 1\n{A} {C} 2\n", "line 2: no label .*as field 3, which is '2'"),
        (f"{A} {B} 1\n{A} {C} nontarget\n", "line 2: no label"),
        (f"{A} {B} 1\n1 {A} {C}\n", "line 2: no label"),
        (f"{A} {B} yes\n", "line 1: no label"),
        ("0 1 1\n1 0 0\n", "line 1: could be `label path path` or `path path label`"),
        (f"{A},{B},1\n{A},{C},0\n{A} {C} 0\n", "line 3: has no ','"),
        (f"{A},{B},1,x\n", "line 1: the fold 'x'"),
        (f"{A} Bo/Bo_0009.jpg 0\n", "line 1: no such file: Bo/Bo_0009.jpg"),
        (f"/etc/passwd {A} 0\n", "line 1: /etc/passwd is an absolute path"),
        (f"{A} C:\\x\\y.jpg 0\n", "line 1: C:/x/y.jpg is an absolute path"),
        (f"{A} Bo/../../x.jpg 0\n", "line 1: Bo/../../x.jpg leads out"),
        (f"{A} Bo\\..\\..\\x.jpg 0\n", "line 1: Bo/../../x.jpg leads out"),
        (f"{A}\0 {B} 0\n", "line 1: holds a NUL"),
        (f'"{A},{B},1\n', "list.txt"),
        (",,1\n", "line 1: the path is blank"),
        ("2 2\nAnn_Lee 1 2\n", "line 1: the header says 2 x 2 x 2 = 8 pairs, there are 1"),
        ("0 300\n", "line 1: a header of 0 folds"),
        ("1\nAnn_Lee 1 Bo 1\nAnn_Lee 1 2\n", "line 2: expected `name i j` here by the header, got 4"),
        ("1\nAnn_Lee 1 x\nAnn_Lee 1 Bo 1\n", "line 2: 'x' is no number"),
        ("1\nAnn_Lee 1 9\nAnn_Lee 1 Bo 1\n", "line 2: no such file: Ann_Lee/Ann_Lee_0009.jpg"),
        ("1\n../data/Bo 1 2\nAnn_Lee 1 Bo 1\n", r"line 2: \.\./data/Bo/.* leads out"),
        (b"\xff\xfe\x00a", "is not UTF-8|NUL"),
    ],
)
def test_what_is_unclear_is_refused_with_its_line(root, text, message):
    with pytest.raises(DataError, match=message) as error:
        read_trials(listed(root, text), root)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(root.parent))


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_that_leads_out_of_the_data_is_refused(root):
    (root.parent / "secret.jpg").touch()
    (root / "Bo" / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "Bo" / "inner.jpg").symlink_to(root / C)
    with pytest.raises(DataError, match=r"line 1: Bo/link.jpg leads out of the data's folder through a link"):
        read_trials(listed(root, f"{A} Bo/link.jpg 0\n"), root)
    assert len(read_trials(listed(root, f"{A} Bo/inner.jpg 0\n"), root)) == 1


def test_limits_hold(root, monkeypatch):
    with pytest.raises(DataError, match="line 2: longer than 8192"):
        read_trials(listed(root, f"{A} {B} 1\n{A} {'x' * 9000} 0\n"), root)
    monkeypatch.setattr(trials_module, "MAX_LIST_BYTES", 20)
    with pytest.raises(DataError, match="larger than"):
        read_trials(listed(root, f"{A} {B} 1\n"), root)
    with pytest.raises(DataError, match="No such file"):
        read_trials(root / "none.txt", root)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_data_error(tmp_path_factory, blob):
    root = tmp_path_factory.getbasetemp() / "empty"
    root.mkdir(exist_ok=True)
    file = root / "list.bin"
    file.write_bytes(blob)
    with pytest.raises(DataError):
        read_trials(file, root)


@pytest.mark.data
def test_the_real_list_of_lfw(request):
    place = Path(os.environ.get("TERCET_DATA", request.config.rootpath.parent / "shared" / "data")) / "faces" / "lfw_a"
    if not (place / "pairs.txt").is_file():
        pytest.skip(f"no {place}")
    found = read_trials(place / "pairs.txt", place)
    assert len(found) == 3000 and found.genuine.sum() == 1500
    assert [int((found.fold == f).sum()) for f in range(5)] == [600] * 5
    same = [a.parent == b.parent for a, b in zip(found.a, found.b, strict=True)]
    assert same == found.genuine.tolist()
