"""What the readers of published layouts share: looking at a few names, reading lists and tables, collecting rows."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tercet.data.manifest import Manifest, Row, Skipped
from tercet.errors import DataError

__all__ = ["Found", "entries", "files", "folders", "headings", "inside", "lines", "names", "records"]

_LOOKED_AT: Final = 20  # entries of a folder by which it is recognised


class Found:
    """The rows and the skipped files of a collection while it is read."""

    def __init__(self, path: Path, suffixes: frozenset[str]) -> None:
        self.path, self.root, self.suffixes = path, path.resolve(), suffixes
        self.rows: list[Row] = []
        self.skipped: list[Skipped] = []
        self.seen: set[Path] = set()

    def add(
        self,
        file: Path,
        identity: str,
        *,
        group: str = "",
        split: str = "",
        role: str = "",
        category: str = "",
        where: str = "",
    ) -> None:
        """Take a file; one of another kind is noted. `where` says which line of a list names it, if one does."""
        self.seen.add(file)
        if where and not file.is_file():
            raise DataError(f"{where}: no such file: {file}")
        if file.suffix.lower() in self.suffixes:
            name = unicodedata.normalize("NFC", identity)
            self.rows.append(Row(file, name, group, split=split, role=role, category=category))
        else:
            self.skip(file, f"suffix {file.suffix!r} is not one of {' '.join(sorted(self.suffixes))}")

    def skip(self, file: Path, reason: str) -> None:
        """Note a file that is left out."""
        shown = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.skipped.append(Skipped(shown, reason))

    def manifest(self) -> Manifest:
        """What was found.

        Raises:
            DataError: Nothing.
        """
        if not self.rows:
            why = f"; {self.skipped[0].path}: {self.skipped[0].reason}" if self.skipped else ""
            raise DataError(f"{self.path}: no sample in it{why}")
        return Manifest(self.root, tuple(self.rows), tuple(self.skipped))


def entries(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """A few folders in a folder whose names match; none where it cannot be listed."""
    return [path / name for name in names(path) if pattern.fullmatch(name) and (path / name).is_dir()]


def names(path: Path) -> list[str]:
    """The first few names in a folder; none where it cannot be listed."""
    try:
        with os.scandir(path) as listed:
            return [entry.name for entry in islice(listed, _LOOKED_AT)]
    except (OSError, ValueError):
        return []


def folders(path: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return _listed(path, Path.is_dir)


def files(path: Path) -> list[Path]:
    """The visible files in a folder, sorted."""
    return _listed(path, Path.is_file)


def _listed(path: Path, kind: Callable[[Path], bool]) -> list[Path]:
    """The visible entries of a kind, sorted; none where there is no such folder."""
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and kind(entry))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with "path: line n" for errors."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}: line {number}", line.strip().replace("\t", " ")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def headings(path: Path) -> frozenset[str]:
    """The names in the first line of a CSV file; none where it is no such file or cannot be read."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return frozenset()
    try:
        with path.open(encoding="utf-8-sig") as file:
            return frozenset(name.strip() for name in file.readline(4096).split(","))
    except (OSError, ValueError):
        return frozenset()


def records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line of a CSV file with headings, by their names, with "path: line n" for errors; blank where one is short.

    Raises:
        DataError: The file cannot be read, or a line is no CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            for record in reader:
                # Fields beyond the headings stand under None, as a list.
                fields = {name.strip(): (text or "").strip() for name, text in record.items() if name is not None}
                yield f"{path}: line {reader.line_num}", fields
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def inside(root: Path, text: str, where: str) -> Path:
    """The path that a list names: absolute as it stands, or relative to the list's folder and inside it."""
    normal = Path(os.path.normpath(text))
    if "\0" in text or ".." in normal.parts:
        raise DataError(f"{where}: {text!r} leads out of the list's folder; write the full path")
    return root / normal
