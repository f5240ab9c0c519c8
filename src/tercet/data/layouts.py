"""From a folder of folders, or a manifest CSV, to a `Manifest`: finds the samples, opens none of them."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from tercet.data.manifest import GENUINE, KINDS, Manifest, Row, Skipped
from tercet.errors import DataError, InvalidOption

__all__ = ["LAYOUTS", "read_data"]

LAYOUTS = ("auto", "folders", "manifest")
_COLUMNS = ("path", "identity", "group", "kind", "split", "category")
_REQUIRED = _COLUMNS[:2]
_SPLITS = ("", "train", "validation", "test")
# Also "forged", as most publishers call a forgery made with the signature at hand.
_KINDS = {"": GENUINE, "forged": "skilled", **{kind: kind for kind in KINDS}}
# Folders of these names are parts of a data set, kinds of its samples or what an archive unpacks to.
_NO_IDENTITIES = frozenset(
    "train training test testing val valid validation dev eval genuine forged wav aac flac images s".split()
)
_WANTED = "wanted: path,identity[,group][,kind][,split][,category]"


def read_data(path: Path, *, layout: str = "auto", suffixes: frozenset[str]) -> Manifest:
    """List the samples of a data set, in an order that does not depend on the file system.

    `folders`: `path` is a folder with one folder per identity; every file below it whose suffix is in `suffixes` is a
    sample of that identity. Hidden files and folders, and files that lie beside the identity folders, are ignored;
    files with another suffix, folders without a sample and folders that cannot be listed are noted in `skipped`.
    Unless asked for by name, it is refused where that is one folder too high: where all are named like parts or kinds
    of data (train, test, genuine, wav, ...), or there is one alone and the samples lie in folders below it.

    `manifest`: `path` is a CSV file in UTF-8 with the columns `path,identity[,group][,kind][,split][,category]` in any
    order, separated by commas, semicolons or tabs; further columns are ignored. A relative path is relative to the
    CSV's folder and must not lead out of it; an absolute path is taken as it is. `kind` is genuine (or blank), skilled
    (or forged) or simple; of a forgery, `identity` is the one that it pretends to be.

    Args:
        path: the folder or the CSV file.
        layout: "folders", "manifest", or "auto": a folder has folders, a file is a manifest.
        suffixes: the suffixes of samples, in lower case and with the dot, such as `ImageFrontEnd.SUFFIXES`.

    Raises:
        InvalidOption: for a layout that is not known.
        DataError: where nothing can be read from `path`; for a CSV with the line number.
    """
    if layout not in LAYOUTS:
        raise InvalidOption.unknown("layout", layout, LAYOUTS)
    path = Path(path)
    try:
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise DataError(f"{path}: no such file or folder")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    asked = layout != "auto"
    if not asked:
        layout = "folders" if is_folder else "manifest"
    if layout == "folders":
        if not is_folder:
            raise DataError(f"{path}: is not a folder")
        manifest = _read_folders(path, suffixes)
        if not asked:
            _check_identities(path, manifest)
        return manifest
    if is_folder:
        raise DataError(f"{path}: is a folder, not a manifest CSV")
    if path.suffix.lower() in suffixes:
        raise DataError(f"{path}: is a single sample, not a folder of identities or a manifest CSV")
    return _read_manifest(path, suffixes)


def _read_folders(path: Path, suffixes: frozenset[str]) -> Manifest:
    root = path.resolve()
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    if not entries:
        raise DataError(f"{path}: the folder is empty")
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        loose = sum(entry.suffix.lower() in suffixes for entry in entries)
        hint = f", but loose samples ({loose}); put those of each identity in a folder" if loose else ""
        raise DataError(f"{path}: has no folder per identity{hint}")
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for folder in folders:
        # The same name arrives decomposed from some file systems; one spelling keeps splits equal everywhere.
        identity = unicodedata.normalize("NFC", folder.name)
        before = len(rows)
        for file, reason in _files_below(folder, root):
            name = file.relative_to(root).as_posix()
            shown = _printable(name)
            if reason:
                skipped.append(Skipped(shown, reason))
            elif shown != name:
                skipped.append(Skipped(shown, "the name is not UTF-8"))
            elif file.suffix.lower() in suffixes:
                rows.append(Row(file, identity))
            else:
                skipped.append(Skipped(name, _wrong_suffix(file, suffixes)))
        if len(rows) == before:
            skipped.append(Skipped(_printable(folder.name), "a folder without a sample"))
    if not rows:
        raise DataError(f"{path}: no sample in its {len(folders)} folder(s); looked for {_listed(suffixes)}")
    return Manifest(root, tuple(rows), tuple(skipped))


def _check_identities(path: Path, manifest: Manifest) -> None:
    """Refuse what would make of a data set's parts, or of a whole data set, the identities that are told apart."""
    by_parts = [row.path.relative_to(manifest.root).parts for row in manifest.rows]
    named = sorted({parts[0] for parts in by_parts})
    only = len(named) == 1 and all(len(parts) > 2 for parts in by_parts)
    if not only and not all(name.lower() in _NO_IDENTITIES for name in named):
        return
    shown = f"its folders are named {', '.join(named)}, which are parts or kinds of data and no identities"
    if only:
        shown = f"has one identity alone, {named[0]}, and the samples are in folders below it"
    deep = sorted({parts[0] for parts in by_parts if len(parts) > 2}, key=lambda name: (name.lower() != "train", name))
    hint = f"try {_holder(path, deep[0], by_parts)}" if deep else "put the samples of each identity in a folder"
    joint = ", or" if deep else ", or give"
    raise DataError(f"{path}: {shown}; {hint}{joint} --layout folders if they are what is told apart")


def _holder(path: Path, name: str, by_parts: Sequence[tuple[str, ...]]) -> Path:
    """The folder of identities at or below a folder: archives often hold a folder that holds a folder."""
    place: tuple[str, ...] = (name,)
    while True:
        below = [parts[len(place) :] for parts in by_parts if parts[: len(place)] == place]
        inner = {parts[0] for parts in below}
        if len(inner) > 1 or any(len(parts) < 3 for parts in below):
            return path.joinpath(*place)
        place = (*place, *inner)


def _files_below(folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Every visible file below an identity's folder, sorted, with ""; what cannot be used, with the reason.

    A link that leads to another place of the same data would give somebody's samples to somebody else.
    """
    own, whole = os.path.realpath(folder), os.path.realpath(root)

    def strays(path: str) -> bool:
        if not Path(path).is_symlink():
            return False
        real = os.path.realpath(path)
        return _lies_in(real, whole) and not _lies_in(real, own)

    unlisted: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        unlisted.append((Path(error.filename), _reason(error)))

    visited: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=note, followlinks=True):
        # Linked folders are followed, so a link that points upward must not be walked for ever.
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if strays(os.path.join(place, name))]:  # noqa: PTH118
            folders.remove(name)
            yield Path(place, name), "a link to another identity's place"
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name), "a link to another identity's place" if strays(f"{place}/{name}") else ""
    yield from unlisted


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _read_manifest(path: Path, suffixes: frozenset[str]) -> Manifest:
    root = path.resolve().parent
    rows: list[Row] = []
    skipped: list[Skipped] = []
    first_line: dict[Path, tuple[int, str]] = {}
    missing: list[tuple[int, str]] = []
    for line, record in _records(path):
        where = f"{path}: line {line}"
        identity = unicodedata.normalize("NFC", record["identity"])
        if not identity:
            raise DataError(f"{where}: the identity is blank")
        file = _resolve(record["path"], root, where)
        split = record["split"].lower()
        if split not in _SPLITS:
            raise DataError(
                f"{where}: split {record['split']!r} is not known; allowed: train, validation, test or blank"
            )
        if record["kind"].lower() not in _KINDS:
            allowed = ", ".join(name or "blank" for name in _KINDS)
            raise DataError(f"{where}: kind {record['kind']!r} is not known; allowed: {allowed}")
        if file in first_line:
            earlier, other = first_line[file]
            if other != identity:
                raise DataError(f"{where}: {record['path']} is {identity!r} here and {other!r} in line {earlier}")
            skipped.append(Skipped(record["path"], f"listed again in line {line}"))
            continue
        first_line[file] = line, identity
        if not file.is_file():
            missing.append((line, record["path"]))
        elif file.suffix.lower() not in suffixes:
            skipped.append(Skipped(record["path"], _wrong_suffix(file, suffixes)))
        else:
            kind = _KINDS[record["kind"].lower()]
            rows.append(Row(file, identity, record["group"], kind, split, category=record["category"]))
    if missing:
        line, name = missing[0]
        more = f" (and {len(missing) - 1} more of {len(first_line)} files)" if len(missing) > 1 else ""
        raise DataError(f"{path}: line {line}: no such file: {name}{more}")
    if not rows:
        raise DataError(f"{path}: lists no sample; looked for {_listed(suffixes)}")
    return Manifest(root, tuple(rows), tuple(skipped))


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each data line's number and its stripped fields, every known column present."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if not header.strip():
                raise DataError(f"{path}: has no header line; {_WANTED}")
            delimiter, names = _header(header)
            _check_columns(path, names)
            line = 2
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for fields in reader:
                line = reader.line_num + 1  # the header has been read outside of it
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) > len(names):
                    raise DataError(f"{path}: line {line}: {len(fields)} fields under {len(names)} columns")
                given = {name: field.strip() for name, field in zip(names, fields, strict=False)}
                yield line, {column: given.get(column, "") for column in _COLUMNS}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{path}: line {line}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def _header(line: str) -> tuple[str, list[str]]:
    """The delimiter under which the header has the required columns, or else the most columns."""

    def names(delimiter: str) -> list[str]:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter))]

    best = max(",;\t", key=lambda delimiter: (set(_REQUIRED) <= set(names(delimiter)), len(names(delimiter))))
    return best, names(best)


def _check_columns(path: Path, names: list[str]) -> None:
    for column in _REQUIRED:
        if column not in names:
            there = ", ".join(name or "(blank)" for name in names)
            raise DataError(f"{path}: column {column!r} is missing; there are: {there}; {_WANTED}")
    for column in _COLUMNS:
        if names.count(column) > 1:
            raise DataError(f"{path}: column {column!r} occurs {names.count(column)} times")


def _resolve(text: str, root: Path, where: str) -> Path:
    if not text:
        raise DataError(f"{where}: the path is blank")
    if "\0" in text:
        raise DataError(f"{where}: the path holds a NUL character")
    normal = Path(os.path.normpath(text))
    if ".." in normal.parts:
        raise DataError(f"{where}: {text} leads out of the manifest's folder; move the CSV up or write the full path")
    return root / normal


def _wrong_suffix(file: Path, suffixes: frozenset[str]) -> str:
    return f"suffix {file.suffix!r} is not one of {_listed(suffixes)}" if file.suffix else "has no suffix"


def _printable(name: str) -> str:
    """The name, with what could be neither printed nor written to JSON escaped."""
    return name.encode(errors="backslashreplace").decode()


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
