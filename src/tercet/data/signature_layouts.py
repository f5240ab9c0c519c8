"""The layouts in which collections of signatures are published, as `Manifest`s: found by names, no file is opened.

    folders per writer      <writer>/genuine|real|org/*, <writer>/forged|forge|forg|forgery/*
    SigComp                 001/001_05.png genuine; 001_forg/0119001_02.png: forger 0119, target 001 (Kaggle's copy),
                            also below train/ and test/; or Offline Genuine/, Offline Forgeries/, Ref/, Questioned/
    CEDAR                   full_org/original_7_3.png, full_forg/forgeries_7_3.png; or both in a folder per writer
    GPDS                    c-007-03.jpg genuine, cf-007-03.jpg forged, in a folder per writer or in any other
    MCYT-75                 0007/0007v03.bmp genuine, 0007f03.bmp forged (an f in place of the v)
    BHSig260                Bengali/007/B-S-007-G-03.tif genuine, B-S-007-F-03.tif forged; so too Hindi
    HanSig                  original_12_3_4.jpg, forgery_12_3_4.jpg: writer 12, name 3: both are the identity

All forgeries of these are skilled. Numbers of writers are compared as numbers, since their width varies. A file whose
name does not fit is noted in `skipped`; one that says it is a forgery of another writer than its folder's is an error.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from tercet.data.images import ImageFrontEnd
from tercet.data.manifest import GENUINE, Manifest, Row, Skipped
from tercet.errors import DataError

__all__ = [
    "BHSIG",
    "CEDAR",
    "GPDS",
    "HANSIG",
    "MCYT",
    "ByName",
    "read_genuine_and_forged",
    "read_sigcomp",
    "recognise_genuine_and_forged",
    "recognise_sigcomp",
]

_SKILLED = "skilled"
_PICTURES = ImageFrontEnd.SUFFIXES
_GENUINE_FOLDERS = frozenset({"genuine", "real", "org", "original", "originals"})
_FORGED_FOLDERS = frozenset({"forged", "forge", "forg", "forgery", "forgeries", "fake"})

_SIGCOMP_GENUINE = re.compile(r"(\d{3})_(\d+)$")
_SIGCOMP_FORGED = re.compile(r"(\d{4})(\d{3})_(\d+)$")
_SIGCOMP_EITHER = re.compile(r"(\d{4})?\d{3}_\d+$")
# The folders of the competition itself, in which names alone say whose a signature is.
_SIGCOMP_PLACES = re.compile(r"(?P<kind>offline genuine|offline forger|ref|questioned)[^/]*", re.IGNORECASE)
_PARTS = ("train", "test")

Reading = Callable[[Path], "tuple[str, str] | None"]
"""A file's (identity, kind) by its name and folders; None where they do not fit; DataError where they contradict."""


def recognise_genuine_and_forged(path: Path) -> bool:
    """Whether some folder of `path` holds a folder of forgeries beside one of genuine signatures."""
    return any(
        {name.lower() for name in _folders(writer)} & _FORGED_FOLDERS
        and {name.lower() for name in _folders(writer)} & _GENUINE_FOLDERS
        for writer in _some_folders(path)
    )


def read_genuine_and_forged(path: Path, suffixes: frozenset[str]) -> Manifest:
    """A folder per writer, with a folder of genuine signatures and one of skilled forgeries in it.

    Where a forgery has a name of SigComp (`0119001_02`: forger, target, number), the target must be the folder's.

    Raises:
        DataError: where there is no such folder, or a forgery's name says that it is another writer's.
    """

    def reading(file: Path) -> tuple[str, str] | None:
        parts = file.parts
        if len(parts) < 3:
            return None
        writer, inner = parts[0], parts[1].lower()
        if inner in _GENUINE_FOLDERS:
            return writer, GENUINE
        if inner not in _FORGED_FOLDERS:
            return None
        found = _SIGCOMP_FORGED.match(file.stem)
        if found and writer.isdigit() and int(found[2]) != int(writer):
            raise DataError(f"{path / file}: by its name a forgery of writer {found[2]}, in the folder of {writer}")
        return writer, _SKILLED

    return _read(path, suffixes, reading, "a folder of writers with genuine and forged in each")


def recognise_sigcomp(path: Path) -> bool:
    """Whether a folder such as `001_forg` stands beside its `001`, here or in `train` or `test`; or those of 2011."""
    for place in (path, *(path / part for part in _PARTS)):
        names = set(_folders(place))
        if any(name.lower().endswith("_forg") and name[:-5] in names for name in names):
            return True
    places = [path / name for name in _folders(path) if _SIGCOMP_PLACES.fullmatch(name)]
    return len(places) > 1 and all(_shows(place, _SIGCOMP_EITHER) for place in places)


def read_sigcomp(path: Path, suffixes: frozenset[str]) -> Manifest:
    """SigComp 2009 and 2011 as Kaggle has them: `001/001_05.png`, `001_forg/0119001_02.png`.

    The target of a forgery is the last three of the seven digits of its name, and must be the folder's. Where `train`
    and `test` hold these folders, they are the split: the writers of `test` are the test, also with what `train` holds
    of them, and what stands in both is taken once. In the folders of the competition (`Offline Genuine`, `Offline
    Forgeries`, `Ref`, `Questioned`) the name says it all.

    Raises:
        DataError: where there is no such folder, or a name says that it is another writer's or of another kind.
    """

    def reading(file: Path) -> tuple[str, str] | None:
        folder = file.parts[-2] if len(file.parts) > 1 else ""
        place = next((name for name in file.parts[:-1] if _SIGCOMP_PLACES.fullmatch(name)), None)
        if place is not None:
            return _sigcomp_by_name(path / file, place, folder)
        forged = folder.lower().endswith("_forg")
        writer = folder[:-5] if forged else folder
        found = (_SIGCOMP_FORGED if forged else _SIGCOMP_GENUINE).match(file.stem)
        if not found or not writer.isdigit():
            return None
        target = found[2] if forged else found[1]
        if int(target) != int(writer):
            raise DataError(f"{path / file}: by its name of writer {target}, in the folder {folder}")
        return writer, _SKILLED if forged else GENUINE

    return _parted(_read(path, suffixes, reading, "SigComp's folders 001 and 001_forg"))


def _sigcomp_by_name(file: Path, place: str, folder: str) -> tuple[str, str] | None:
    genuine, forged = _SIGCOMP_GENUINE.match(file.stem), _SIGCOMP_FORGED.match(file.stem)
    if genuine:
        writer, kind = genuine[1], GENUINE
    elif forged and int(forged[1]) != int(forged[2]):
        writer, kind = forged[2], _SKILLED
    else:  # also where forger and writer have one number: whose hand it is, is not clear
        return None
    if kind == _SKILLED and place.lower().startswith(("offline genuine", "ref")):
        raise DataError(f"{file}: by its name a forgery, in the folder {place}")
    if kind == GENUINE and place.lower().startswith("offline forger"):
        raise DataError(f"{file}: by its name genuine, in the folder {place}")
    if folder.isdigit() and int(folder) != int(writer):
        raise DataError(f"{file}: by its name of writer {writer}, in the folder {folder}")
    return writer, kind


def _parted(manifest: Manifest) -> Manifest:
    """With the split of `train` and `test` where both are there, by writer; a name that both have is taken once."""
    part_of = {row.path: row.path.relative_to(manifest.root).parts for row in manifest.rows}
    if not set(_PARTS) <= {parts[0] for parts in part_of.values()}:
        return manifest
    tested = {row.identity for row in manifest.rows if part_of[row.path][0] == "test"}
    in_test = {parts[1:] for parts in part_of.values() if parts[0] == "test"}
    rows: list[Row] = []
    skipped = list(manifest.skipped)
    for row in manifest.rows:
        part, *rest = part_of[row.path]
        if part != "test" and tuple(rest) in in_test:
            skipped.append(Skipped(manifest.relative(row), "stands in test as well"))
        else:
            rows.append(replace(row, split="test" if row.identity in tested else "train"))
    return Manifest(manifest.root, tuple(rows), tuple(skipped))


@final
@dataclass(frozen=True)
class ByName:
    """A layout whose file names say it all.

    Attributes:
        wanted: what the layout is, for errors.
        pattern: of a name without its suffix, with groups `kind` and `writer`, and `script` or `name` where the
            identity is more than the writer.
        genuine: what `kind` is of a genuine signature, in lower case.
        places: folders that say it without a look at their files.
    """

    wanted: str
    pattern: re.Pattern[str]
    genuine: str
    places: frozenset[str] = frozenset()

    def recognise(self, path: Path) -> bool:
        """Whether the folders or the first files of `path` have such names."""
        known = bool(self.places) and self.places <= set(_folders(path))
        return known or _shows(path, self.pattern)

    def read(self, path: Path, suffixes: frozenset[str]) -> Manifest:
        """Every file with such a name.

        Raises:
            DataError: where there is no genuine one.
        """
        return _read(path, suffixes, self._reading, self.wanted)

    def _reading(self, file: Path) -> tuple[str, str] | None:
        found = self.pattern.match(file.stem)
        if not found:
            return None
        said = found.groupdict()
        if "name" in said:
            identity = f"{int(said['writer'])}-{int(said['name'])}"
        else:
            identity = f"{said['script'].upper()}-" if "script" in said else ""
            identity += f"{int(said['writer']):03d}"
        return identity, GENUINE if said["kind"].lower() == self.genuine else _SKILLED


# The genuine scans have a tint that the forged ones lack, which the front end takes away.
CEDAR = ByName(
    "CEDAR's full_org and full_forg",
    re.compile(r"(?P<kind>original|forgeries)_(?P<writer>\d+)_\d+$", re.IGNORECASE),
    "original",
    frozenset({"full_org", "full_forg"}),
)
# GPDS-960, GPDS-300 and GPDSsynthetic.
GPDS = ByName("GPDS' c-007-03 and cf-007-03", re.compile(r"(?P<kind>c|cf)-(?P<writer>\d+)-\d+$", re.IGNORECASE), "c")
MCYT = ByName("MCYT-75's 0007v03 and 0007f03", re.compile(r"(?P<writer>\d{4})(?P<kind>[vf])\d+$", re.IGNORECASE), "v")
# Two writers of two scripts may have one number.
BHSIG = ByName(
    "BHSig260's B-S-007-G-03",
    re.compile(r"(?P<script>[BH])-S-(?P<writer>\d+)-(?P<kind>[GF])-\d+$", re.IGNORECASE),
    "g",
)
# One writer writes twenty names, which are twenty signatures.
HANSIG = ByName(
    "HanSig's original_12_3_4",
    re.compile(r"(?P<kind>original|forgery)_(?P<writer>\d+)_(?P<name>\d+)_\d+$", re.IGNORECASE),
    "original",
)


def _read(path: Path, suffixes: frozenset[str], reading: Reading, wanted: str) -> Manifest:
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder")
    root = path.resolve()
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for file in _files(root):
        below = file.relative_to(root)
        shown = below.as_posix().encode(errors="backslashreplace").decode()
        if shown != below.as_posix():
            skipped.append(Skipped(shown, "the name is not UTF-8"))
        elif file.suffix.lower() not in suffixes:
            if len(below.parts) > 1:
                skipped.append(Skipped(shown, f"suffix {file.suffix!r} is not one of {' '.join(sorted(suffixes))}"))
        elif (found := reading(below)) is None:
            skipped.append(Skipped(shown, f"the name does not fit {wanted}"))
        else:
            rows.append(Row(file, unicodedata.normalize("NFC", found[0]), kind=found[1]))
    if not any(row.kind == GENUINE for row in rows):
        raise DataError(f"{path}: no genuine signature in the layout of {wanted}")
    return Manifest(root, tuple(rows), tuple(skipped))


def _files(root: Path) -> Iterator[Path]:
    """Every visible file below, in an order of its own and not the file system's; no link to a folder is followed."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name)


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _some_folders(path: Path, most: int = 20) -> list[Path]:
    return [path / name for name in _folders(path)[:most]]


def _shows(path: Path, pattern: re.Pattern[str]) -> bool:
    """Whether the first files of some folders, down to two levels, have such names and no others."""
    places = [path, *_some_folders(path)]
    places += [inner for place in places[1:4] for inner in _some_folders(place, 4)]
    seen = 0
    for place in places:
        try:
            pictures = [entry for entry in sorted(place.iterdir())[:200] if entry.suffix.lower() in _PICTURES]
        except OSError:
            continue
        fitting = sum(pattern.match(entry.stem) is not None for entry in pictures)
        if 2 * fitting < len(pictures):
            return False
        seen += fitting
    return seen > 0
