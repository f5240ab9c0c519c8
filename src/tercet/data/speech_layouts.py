"""Collections of speech as they are published: VoxCeleb, LibriSpeech, CN-Celeb, Kaldi folders, SpeechBrain's CSV.

Each has a `recognises_...`, which looks at a few names and never raises, and a `read_...`, which lists the recordings
and opens none of them. The group of a row is what recordings of one speaker share beside the voice: a video, a chapter
of a book, a session.
"""

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

__all__ = [
    "read_cn_celeb",
    "read_kaldi",
    "read_librispeech",
    "read_speechbrain",
    "read_voxceleb",
    "recognises_cn_celeb",
    "recognises_kaldi",
    "recognises_librispeech",
    "recognises_speechbrain",
    "recognises_voxceleb",
]

_LOOKED_AT: Final = 20  # entries of a folder by which it is recognised
_SPEAKER: Final = re.compile(r"id\d{5}")
_SUBSET: Final = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_SPLIT_OF: Final = {"train": "train", "dev": "validation", "test": "test"}
_CN_CELEB_DEV: Final = re.compile(r"([a-z_]+-\d+)-\d+")
_CN_CELEB_EVAL: Final = re.compile(r"(id\d{5})-(enroll|[a-z_]+-\d+)(?:-\d+)?")


def recognises_voxceleb(path: Path) -> bool:
    """`id10270/x6uYqmx31kE/00001.wav`, in the folder itself or in `wav` or `aac` below it."""
    return any(
        _entries(speaker, re.compile(r"[^.].*"))
        for base in _voxceleb_bases(path)
        for speaker in _entries(base, _SPEAKER)
    )


def read_voxceleb(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, video, utterance; the video is the group.

    Raises:
        DataError: No recording that can be read: VoxCeleb 2 comes as .m4a, which has to be converted first.
    """
    found = _Found(path, suffixes)
    for base in _voxceleb_bases(found.root):
        for speaker in _folders(base):
            if not _SPEAKER.fullmatch(speaker.name):
                found.skip(speaker, "not a speaker's folder (id and five digits)")
                continue
            for video in _folders(speaker):
                for file in _files(video):
                    found.add(file, speaker.name, group=f"{speaker.name}/{video.name}")
    return found.manifest()


def recognises_librispeech(path: Path) -> bool:
    """`103/1240/103-1240-0000.flac`, in the folder itself or in subsets such as `train-clean-100` below it."""
    for base in (path, *(_entries(path, _SUBSET))):
        for speaker in _entries(base, re.compile(r"\d+")):
            for chapter in _entries(speaker, re.compile(r"\d+")):
                named = re.compile(rf"{speaker.name}-{chapter.name}-\d+\.\w+")
                if any(named.fullmatch(name) for name in _names(chapter)):
                    return True
    return False


def read_librispeech(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, chapter, utterance; the chapter is the group.

    Where a training subset and another one are there, the subsets are the split: train-* is trained on, dev-* validated,
    test-* tested. Their speakers are disjoint by design.

    Raises:
        DataError: No recording.
    """
    found = _Found(path, suffixes)
    subsets = [base for base in _folders(found.root) if _SUBSET.fullmatch(base.name)]
    parts = {base.name.partition("-")[0] for base in subsets}
    follow = "train" in parts and len(parts) > 1
    for base in subsets or [found.root]:
        split = _SPLIT_OF[base.name.partition("-")[0]] if follow else ""
        for speaker in _folders(base):
            for chapter in _folders(speaker):
                for file in _files(chapter):
                    if file.name.endswith((".trans.txt", ".normalized.txt")):
                        continue
                    if not file.name.startswith(f"{speaker.name}-{chapter.name}-"):
                        found.skip(file, "its name is not speaker-chapter-utterance")
                    else:
                        found.add(file, speaker.name, group=f"{speaker.name}-{chapter.name}", split=split)
    return found.manifest()


def recognises_cn_celeb(path: Path) -> bool:
    """`data/id00000/singing-01-002.flac`, beside `eval`."""
    for speaker in _entries(path / "data", _SPEAKER):
        if any(_CN_CELEB_DEV.fullmatch(Path(name).stem) for name in _names(speaker)):
            return True
    return False


def read_cn_celeb(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, genre, session, utterance; genre and session together are the group.

    Where there is an `eval` folder, its speakers are the test, wherever else they occur, and the others are trained on.

    Raises:
        DataError: No recording.
    """
    found = _Found(path, suffixes)
    evaluated: list[tuple[Path, str, str]] = []
    for file in (*_files(found.root / "eval" / "enroll"), *_files(found.root / "eval" / "test")):
        named = _CN_CELEB_EVAL.fullmatch(file.stem)
        if named is None:
            found.skip(file, "its name is not speaker-genre-session-utterance")
        else:
            evaluated.append((file, named[1], named[2]))
    tested = {speaker for _, speaker, _ in evaluated}
    for speaker in _folders(found.root / "data"):
        for file in _files(speaker):
            named = _CN_CELEB_DEV.fullmatch(file.stem)
            if named is None or not _SPEAKER.fullmatch(speaker.name):
                found.skip(file, "its name is not id00000/genre-session-utterance")
                continue
            split = "" if not tested else "test" if speaker.name in tested else "train"
            found.add(file, speaker.name, group=f"{speaker.name}/{named[1]}", split=split)
    for file, name, session in evaluated:
        found.add(file, name, group=f"{name}/{session}", split="test")
    return found.manifest()


def recognises_kaldi(path: Path) -> bool:
    """A folder with `wav.scp` and `utt2spk`."""
    return (path / "wav.scp").is_file() and (path / "utt2spk").is_file()


def read_kaldi(path: Path, suffixes: frozenset[str]) -> Manifest:
    """`wav.scp` (utterance, path) and `utt2spk` (utterance, speaker); a path is absolute or relative to the folder.

    Raises:
        DataError: A file is missing or a line is off; a path is a command (nothing of a list is ever executed), or
            `segments` cuts the recordings up: "file: line n: reason".
    """
    scp, utt2spk = path / "wav.scp", path / "utt2spk"
    if (path / "segments").exists():
        raise DataError(f"{path / 'segments'}: recordings that are cut up by a list are not read; write them as files")
    speakers: dict[str, str] = {}
    for where, line in _lines(utt2spk):
        fields = line.split()
        if len(fields) != 2:
            raise DataError(f"{where}: wanted an utterance and its speaker, found {len(fields)} fields")
        if speakers.setdefault(fields[0], fields[1]) != fields[1]:
            raise DataError(f"{where}: {fields[0]} is {fields[1]!r} here and {speakers[fields[0]]!r} above")
    found = _Found(path, suffixes)
    listed: set[str] = set()
    for where, line in _lines(scp):
        utterance, _, place = line.partition(" ")
        place = place.strip()
        if not place:
            raise DataError(f"{where}: wanted an utterance and its path")
        if place.endswith("|") or place.startswith("|"):
            raise DataError(f"{where}: {utterance} is the output of a command, which is not run; write it to a file")
        if utterance in listed:
            raise DataError(f"{where}: {utterance} is listed twice")
        if utterance not in speakers:
            raise DataError(f"{where}: {utterance} has no speaker in {utt2spk}")
        listed.add(utterance)
        found.add(_inside(found.root, place, where), speakers[utterance], where=where)
    for utterance in sorted(speakers.keys() - listed):
        found.skipped.append(Skipped(utterance, f"is in {utt2spk.name} and not in {scp.name}"))
    return found.manifest()


def recognises_speechbrain(path: Path) -> bool:
    """A CSV file with the columns `wav` and `spk_id`."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            return {"wav", "spk_id"} <= {name.strip() for name in file.readline(4096).split(",")}
    except (OSError, ValueError):
        return False


def read_speechbrain(path: Path, suffixes: frozenset[str]) -> Manifest:
    """The columns `wav` and `spk_id`; a recording that is listed in several parts is taken once and whole.

    Raises:
        DataError: A line is off, or a recording is missing or of two speakers: "file: line n: reason".
    """
    found = _Found(path.parent, suffixes)
    speaker_of: dict[Path, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            for record in reader:
                where = f"{path}: line {reader.line_num}"
                place, speaker = ((record.get(name) or "").strip() for name in ("wav", "spk_id"))
                if not place or not speaker:
                    raise DataError(f"{where}: wav or spk_id is blank")
                place = place.replace("{data_root}/", "").replace("$data_root/", "")
                target = _inside(found.root, place, where)
                if speaker_of.setdefault(target, speaker) != speaker:
                    raise DataError(f"{where}: {place} is {speaker!r} here and {speaker_of[target]!r} above")
                if target not in found.seen:
                    found.add(target, speaker, where=where)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return found.manifest()


class _Found:
    """The rows and the skipped files of a collection while it is read."""

    def __init__(self, path: Path, suffixes: frozenset[str]) -> None:
        self.path, self.root, self.suffixes = path, path.resolve(), suffixes
        self.rows: list[Row] = []
        self.skipped: list[Skipped] = []
        self.seen: set[Path] = set()

    def add(self, file: Path, speaker: str, *, group: str = "", split: str = "", where: str = "") -> None:
        """Take a file; one of another kind is noted. `where` says which line of a list names it, if one does."""
        self.seen.add(file)
        if where and not file.is_file():
            raise DataError(f"{where}: no such file: {file}")
        if file.suffix.lower() in self.suffixes:
            self.rows.append(Row(file, unicodedata.normalize("NFC", speaker), group, split=split))
        else:
            self.skip(file, f"suffix {file.suffix!r} is not one of {' '.join(sorted(self.suffixes))}")

    def skip(self, file: Path, reason: str) -> None:
        shown = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.skipped.append(Skipped(shown, reason))

    def manifest(self) -> Manifest:
        if not self.rows:
            why = f"; {self.skipped[0].path}: {self.skipped[0].reason}" if self.skipped else ""
            raise DataError(f"{self.path}: no recording in it{why}")
        return Manifest(self.root, tuple(self.rows), tuple(self.skipped))


def _voxceleb_bases(path: Path) -> list[Path]:
    """Where the speakers' folders lie: `path` itself, or the `wav` or `aac` folders that the archives unpack to."""
    below = [path / part / name for part in ("", "dev", "test") for name in ("wav", "aac")]
    return [base for base in below if base.is_dir()] or [path]


def _entries(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """A few folders in a folder whose names match; none where it cannot be listed."""
    return [path / name for name in _names(path) if pattern.fullmatch(name) and (path / name).is_dir()]


def _names(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in islice(entries, _LOOKED_AT)]
    except (OSError, ValueError):
        return []


def _folders(path: Path) -> list[Path]:
    return _listed(path, Path.is_dir)


def _files(path: Path) -> list[Path]:
    return _listed(path, Path.is_file)


def _listed(path: Path, kind: Callable[[Path], bool]) -> list[Path]:
    """The visible entries of a kind, sorted; none where there is no such folder."""
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and kind(entry))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
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


def _inside(root: Path, text: str, where: str) -> Path:
    """The path that a list names: absolute as it stands, or relative to the list's folder and inside it."""
    normal = Path(os.path.normpath(text))
    if "\0" in text or ".." in normal.parts:
        raise DataError(f"{where}: {text!r} leads out of the list's folder; write the full path")
    return root / normal
