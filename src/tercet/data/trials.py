"""Lists of pairs as benchmarks publish them: which two files are compared, whether they are genuine, in which fold.

    LFW            header `10 300` or `1100`; `name i j`, or `name i other j`; folds in blocks (View 2)
    generic        `path path label [fold]`, separated by spaces, tabs, commas or semicolons; a header may stand first
    VoxCeleb       `label path path`
    Kaldi          `enroll test target|nontarget`; names of a `wav.scp` beside the list, or paths
    CN-Celeb       `enroll path label`; names of an `enroll.lst` beside the list

A label is 1 (genuine) or 0 (impostor). What a list means is told by its lines alone, and a list that could mean two
things is refused: a pair scored under the wrong label makes a figure that looks right.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Final, final

import numpy as np
import numpy.typing as npt

from tercet.data.audio import AudioFrontEnd
from tercet.data.images import ImageFrontEnd
from tercet.data.manifest import Manifest
from tercet.errors import DataError

__all__ = ["MAX_LINE", "MAX_LIST_BYTES", "Trials", "read_trials"]

MAX_LIST_BYTES: Final = 256 * 2**20
MAX_LINE: Final = 8192
_PICTURES: Final = (".jpg", ".png", ".jpeg", ".pgm", ".bmp")
# What may stand for another suffix: any of a sample, and what VoxCeleb 2 is published as.
_SUFFIXES: Final = ImageFrontEnd.SUFFIXES | AudioFrontEnd.SUFFIXES | {".m4a", ".aac"}
_LABELS: Final = {"0": False, "1": True}
_WORDS: Final = {"nontarget": False, "target": True}
_HEADERS: Final = frozenset({"label", "genuine", "same", "issame", "is_same", "target"})


@final
@dataclass(frozen=True)
class Trials:
    """The pairs of a list, in its order.

    Attributes:
        path: the list.
        a: absolute path of the first (or enrolled) file of each pair.
        b: absolute path of the second (or test) file.
        genuine: bool [P].
        fold: int64 [P] as the list gives it; None where it gives none.
        line: int64 [P], the line of the list, from 1.
    """

    path: Path
    a: tuple[Path, ...]
    b: tuple[Path, ...]
    genuine: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64] | None
    line: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.a)


Line = tuple[int, list[str]]
Resolve = Callable[[str, str], Path]


def read_trials(path: Path, data: Path | Manifest) -> Trials:
    """Read a list of pairs; the forms are told apart by their lines, see the top of this file.

    Blank lines and lines that begin with `#` are passed over. A path is looked for among the samples first, if `data`
    says which there are: from the data's folder on; with the suffix of another kind of sample (`.wav` where there is
    `.flac`); or as the end of one sample's path (`id10270/x/00001.wav` of `wav/id10270/x/00001.wav`), since lists are
    published apart from what holds the files. An absolute path must be a sample's. What is no sample starts from the
    data's folder and must stay inside it, also through links. Backslashes are read as slashes where there is no such
    file otherwise.

    Args:
        path: the list, UTF-8, at most 256 MiB with lines of at most 8,192 characters.
        data: the samples, or only the folder that the list's paths start from.

    Raises:
        DataError: the list cannot be read, is of no known form or of more than one, names a file that is not there,
            could be either of two or lies outside of the data: "path: line N: reason".
    """
    path = Path(path)
    lines = list(_lines(path))
    if not lines:
        raise DataError(f"{path}: lists no pair")
    resolve = _Files(data if isinstance(data, Manifest) else Manifest(Path(data), ())).find
    first = lines[0][1].split()
    if len(first) <= 2 and all(word.isascii() and word.isdigit() for word in first):
        return _read_lfw(path, lines, [int(word) for word in first], resolve)
    return _read_columns(path, _divided(path, lines), resolve)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{path}: larger than the {MAX_LIST_BYTES >> 20} MiB that a list of pairs may have")
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while text := file.readline(MAX_LINE + 1):
                number += 1
                if len(text) > MAX_LINE:
                    raise DataError(f"{path}: line {number}: longer than {MAX_LINE} characters")
                if "\0" in text:
                    raise DataError(f"{path}: line {number}: holds a NUL character")
                if text.strip() and not text.lstrip().startswith("#"):
                    yield number, text.strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(f"{path}: {reason}") from error


def _divided(path: Path, lines: Sequence[tuple[int, str]]) -> list[Line]:
    """Each line's fields, by the one separator that fits them all."""
    texts = [text for _, text in lines]
    mark = next((mark for mark in "\t,;" if all(mark in text for text in texts)), None)
    if mark is None:
        for odd in "\t,;":
            has = [odd in text for text in texts]
            if odd != "\t" and sum(has) > len(has) / 2:
                number = lines[has.index(False)][0]
                raise DataError(f"{path}: line {number}: has no {odd!r}, by which most lines are divided")
        return [(number, text.split()) for number, text in lines]
    try:
        rows = [next(csv.reader([text], delimiter=mark, strict=True)) for text in texts]
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    return [(number, [field.strip() for field in row]) for (number, _), row in zip(lines, rows, strict=True)]


class _Files:
    """The files that a list may name, found by what it calls them; each text is looked up once."""

    def __init__(self, manifest: Manifest) -> None:
        self._root, self._whole = manifest.root.absolute(), manifest.root.resolve()
        self._samples = dict.fromkeys(row.path for row in manifest.rows)
        self._known: dict[str, Path] = {}

    def find(self, text: str, where: str) -> Path:
        """The file of a text; `where` says which line names it."""
        if text not in self._known:
            try:
                self._known[text] = self._find(text, where)
            except (OSError, ValueError, RuntimeError) as error:
                raise DataError(f"{where}: {text}: {error}") from error
        return self._known[text]

    def _find(self, text: str, where: str) -> Path:
        if not text:
            raise DataError(f"{where}: the path is blank")
        if "\\" in text and not (self._root / text).is_file():
            text = text.replace("\\", "/")
        name = Path(text)
        if name.is_absolute() or text[1:3] == ":/":
            # Whoever wrote the list says nothing about which files are read: that is for whoever gave the data.
            if (normal := Path(os.path.normpath(name))) in self._samples:
                return normal
            raise DataError(
                f"{where}: {text} is an absolute path, and no sample's; those of a list start from the data's folder"
            )
        if ".." in name.parts:
            raise DataError(f"{where}: {text} leads out of the data's folder")
        return self._sample(name, where) or self._inside(name, where)

    def _sample(self, name: Path, where: str) -> Path | None:
        """The sample that is meant; None where there is none, or a file at just this place that is no sample."""
        here = self._root / name
        if here in self._samples:
            return here
        renamed: list[Path] = []
        if name.suffix.lower() in _SUFFIXES:
            bare = name.with_suffix("")
            renamed = [path for path in self._by_stem.get(_end(bare), ()) if _ends(path.with_suffix(""), bare)]
        beside = [path for path in renamed if path.parent == here.parent]
        if not beside and here.is_file():
            return None
        found = beside or [path for path in self._by_name.get(_end(name), ()) if _ends(path, name)] or renamed
        if len(found) > 1:
            one, other, *more = (self._shown(path) for path in sorted(found))
            many = f" (or {len(more)} more)" if more else ""
            raise DataError(f"{where}: {name.as_posix()} could be {one} or {other}{many}; the list must say more")
        return found[0] if found else None

    def _inside(self, name: Path, where: str) -> Path:
        """A file below the data's folder."""
        real = (self._root / name).resolve()
        there = real.is_file()
        if not real.is_relative_to(self._whole):
            raise DataError(f"{where}: {name.as_posix()} leads out of the data's folder through a link")
        if not there:
            raise DataError(f"{where}: no such file: {name.as_posix()}")
        return self._root / name

    def _shown(self, path: Path) -> str:
        return (path.relative_to(self._root) if path.is_relative_to(self._root) else path).as_posix()

    @cached_property
    def _by_name(self) -> dict[tuple[str, ...], list[Path]]:
        return _by_end(self._samples, lambda path: path)

    @cached_property
    def _by_stem(self) -> dict[tuple[str, ...], list[Path]]:
        return _by_end(self._samples, lambda path: path.with_suffix(""))


def _by_end(samples: Iterable[Path], name: Callable[[Path], PurePath]) -> dict[tuple[str, ...], list[Path]]:
    """Samples by the last part and by the last two of what they are called: one alone is often that of thousands."""
    found: dict[tuple[str, ...], list[Path]] = {}
    for path in samples:
        parts = name(path).parts
        found.setdefault(parts[-1:], []).append(path)
        found.setdefault(parts[-2:], []).append(path)
    return found


def _end(name: PurePath) -> tuple[str, ...]:
    return name.parts[-2:]


def _ends(path: PurePath, name: PurePath) -> bool:
    return path.parts[-len(name.parts) :] == name.parts


def _read_lfw(path: Path, lines: Sequence[tuple[int, str]], header: Sequence[int], resolve: Resolve) -> Trials:
    """`folds pairs` or `pairs`, then for each fold so many genuine and as many impostor lines."""
    folds, each = header if len(header) == 2 else (1, header[0])
    if folds < 1 or each < 1:
        raise DataError(f"{path}: line {lines[0][0]}: a header of {folds} folds with {each} pairs of each kind")
    body = lines[1:]
    if len(body) != 2 * folds * each:
        raise DataError(
            f"{path}: line {lines[0][0]}: the header says {folds} x 2 x {each} = {2 * folds * each} pairs, "
            f"there are {len(body)}"
        )
    tabs = all("\t" in text for _, text in body)
    a, b, genuine = [], [], []
    for n, (number, text) in enumerate(body):
        where = f"{path}: line {number}"
        fields = [field.strip() for field in text.split("\t")] if tabs else text.split()
        same = n % (2 * each) < each
        if len(fields) != (3 if same else 4):
            shape = "`name i j`" if same else "`name i other j`"
            raise DataError(f"{where}: expected {shape} here by the header, got {len(fields)} fields")
        one, i, other, j = (fields[0], fields[1], fields[0], fields[2]) if same else fields
        a.append(_lfw_picture(one, i, resolve, where))
        b.append(_lfw_picture(other, j, resolve, where))
        genuine.append(same)
    fold = np.arange(len(body), dtype=np.int64) // (2 * each) if len(header) == 2 else None
    return _trials(path, a, b, genuine, fold, [number for number, _ in body])


def _lfw_picture(name: str, index: str, resolve: Resolve, where: str) -> Path:
    if not (index.isascii() and index.isdigit()) or len(index) > 9:
        raise DataError(f"{where}: {index!r} is no number of a picture")
    stem = f"{name}/{name}_{int(index):04d}"
    for suffix in _PICTURES:
        try:
            return resolve(stem + suffix, where)
        except DataError as error:
            if "no such file" not in str(error):
                raise
    raise DataError(f"{where}: no such file: {stem}.jpg (nor {', '.join(_PICTURES[1:])})")


def _read_columns(path: Path, rows: list[Line], resolve: Resolve) -> Trials:
    fields = [field.lower() for field in rows[0][1]]
    if len(rows) > 1 and _HEADERS & set(fields) and not {*_LABELS} & set(fields):
        # `a b target` may be a pair: only where no such word is a label further down is it a heading.
        if not (fields[-1] in _WORDS and rows[1][1][-1] in _WORDS):
            rows = rows[1:]
    width = len(rows[0][1])
    if width not in (3, 4):
        raise DataError(f"{path}: line {rows[0][0]}: expected 3 or 4 fields, got {width}; {_FORMS}")
    for number, row in rows:
        if len(row) != width:
            raise DataError(f"{path}: line {number}: {len(row)} fields, {width} in the lines before it")
    place = _label_place(path, rows, width)
    values = {**_LABELS, **_WORDS}
    genuine = [values[row[place]] for _, row in rows]
    one, other = (1, 2) if place == 0 else (0, 1)
    first, second = _named_files(path, place, resolve, words=rows[0][1][place] in _WORDS)
    a = [first(row[one], f"{path}: line {number}") for number, row in rows]
    b = [second(row[other], f"{path}: line {number}") for number, row in rows]
    fold = _fold_numbers(path, rows) if width == 4 else None
    return _trials(path, a, b, genuine, fold, [number for number, _ in rows])


_FORMS: Final = (
    "known: `path path label [fold]`, `label path path`, `enroll test target|nontarget`, LFW with its header"
)


def _label_place(path: Path, rows: list[Line], width: int) -> int:
    """The one column that holds a label in every line: the first or the third."""
    open_ = {(place, names) for place in ((2,) if width == 4 else (0, 2)) for names in ("digits", "words")}
    open_.discard((0, "words"))
    for number, row in rows:
        left = {(p, names) for p, names in open_ if row[p] in (_LABELS if names == "digits" else _WORDS)}
        if not left:
            raise DataError(f"{path}: line {number}: no label ({_expected(open_, row)}); {_FORMS}")
        open_ = left
    if len(open_) > 1:
        raise DataError(
            f"{path}: line {rows[0][0]}: could be `label path path` or `path path label`: both the first and the third "
            "field are 0 or 1 in every line"
        )
    return next(iter(open_))[0]


def _expected(open_: set[tuple[int, str]], row: Sequence[str]) -> str:
    wanted = " or ".join(
        f"{'0 or 1' if names == 'digits' else 'target or nontarget'} as field {place + 1}, which is {row[place]!r}"
        for place, names in sorted(open_)
    )
    return f"expected {wanted}"


def _named_files(path: Path, place: int, resolve: Resolve, *, words: bool) -> tuple[Resolve, Resolve]:
    """How the two files are named: by path, or by the names that a table beside the list gives them."""
    scp, enrolled = path.parent / "wav.scp", path.parent / "enroll.lst"
    if words and scp.is_file():
        names = _table(scp)
        by_name = _lookup(names, scp, resolve)
        return by_name, by_name
    if not words and place == 2 and enrolled.is_file():
        return _lookup(_table(enrolled), enrolled, resolve), resolve
    return resolve, resolve


def _table(path: Path) -> dict[str, tuple[str, int]]:
    """`name path` lines: the path of each name and its line."""
    found: dict[str, tuple[str, int]] = {}
    for number, text in _lines(path):
        fields = text.split(maxsplit=1)
        if len(fields) != 2:
            raise DataError(f"{path}: line {number}: expected `name path`")
        name, file = fields[0], fields[1].strip()
        if file.endswith("|"):
            raise DataError(f"{path}: line {number}: a command, not a path; commands are not run")
        if name in found:
            raise DataError(f"{path}: line {number}: {name} stands in line {found[name][1]} already")
        found[name] = file, number
    return found


def _lookup(names: dict[str, tuple[str, int]], table: Path, resolve: Resolve) -> Resolve:
    def find(text: str, where: str) -> Path:
        if text not in names:
            raise DataError(f"{where}: {text} is not in {table.name}")
        file, number = names[text]
        return resolve(file, f"{table}: line {number}")

    return find


def _fold_numbers(path: Path, rows: list[Line]) -> npt.NDArray[np.int64]:
    for number, row in rows:
        if not (row[3].isascii() and row[3].isdigit()) or len(row[3]) > 9:
            raise DataError(f"{path}: line {number}: the fold {row[3]!r} is no number")
    return np.array([int(row[3]) for _, row in rows], dtype=np.int64)


def _trials(
    path: Path,
    a: list[Path],
    b: list[Path],
    genuine: list[bool],
    fold: npt.NDArray[np.int64] | None,
    line: list[int],
) -> Trials:
    return Trials(path, tuple(a), tuple(b), np.array(genuine, dtype=np.bool_), fold, np.array(line, dtype=np.int64))
