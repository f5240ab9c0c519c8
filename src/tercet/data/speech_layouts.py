"""Collections of speech as they are published: VoxCeleb, LibriSpeech, CN-Celeb, Kaldi folders, SpeechBrain's CSV.

Each has a `recognises_...`, which looks at a few names and never raises, and a `read_...`, which lists the recordings
and opens none of them. The group of a row is what recordings of one speaker share beside the voice: a video, a chapter
of a book, a session.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tercet.data.listing import Found, entries, files, folders, headings, inside, lines, names, records
from tercet.data.manifest import Manifest, Skipped
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

_SPEAKER: Final = re.compile(r"id\d{5}")
_SUBSET: Final = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_SPLIT_OF: Final = {"train": "train", "dev": "validation", "test": "test"}
_CN_CELEB_DEV: Final = re.compile(r"([a-z_]+-\d+)-\d+")
_CN_CELEB_EVAL: Final = re.compile(r"(id\d{5})-(enroll|[a-z_]+-\d+)(?:-\d+)?")


def recognises_voxceleb(path: Path) -> bool:
    """`id10270/x6uYqmx31kE/00001.wav`, in the folder itself or in `wav` or `aac` below it."""
    return any(
        entries(speaker, re.compile(r"[^.].*")) for base in _voxceleb_bases(path) for speaker in entries(base, _SPEAKER)
    )


def read_voxceleb(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, video, utterance; the video is the group.

    Raises:
        DataError: No recording that can be read: VoxCeleb 2 comes as .m4a, which has to be converted first.
    """
    found = Found(path, suffixes)
    for base in _voxceleb_bases(found.root):
        for speaker in folders(base):
            if not _SPEAKER.fullmatch(speaker.name):
                found.skip(speaker, "not a speaker's folder (id and five digits)")
                continue
            for video in folders(speaker):
                for file in files(video):
                    found.add(file, speaker.name, group=f"{speaker.name}/{video.name}")
    return found.manifest()


def recognises_librispeech(path: Path) -> bool:
    """`103/1240/103-1240-0000.flac`, in the folder itself or in subsets such as `train-clean-100` below it."""
    for base in (path, *(entries(path, _SUBSET))):
        for speaker in entries(base, re.compile(r"\d+")):
            for chapter in entries(speaker, re.compile(r"\d+")):
                named = re.compile(rf"{speaker.name}-{chapter.name}-\d+\.\w+")
                if any(named.fullmatch(name) for name in names(chapter)):
                    return True
    return False


def read_librispeech(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, chapter, utterance; the chapter is the group.

    Where a training subset and another one are there, the subsets are the split: train-* is trained on, dev-*
    validated, test-* tested. Their speakers are disjoint by design.

    Raises:
        DataError: No recording.
    """
    found = Found(path, suffixes)
    subsets = [base for base in folders(found.root) if _SUBSET.fullmatch(base.name)]
    parts = {base.name.partition("-")[0] for base in subsets}
    follow = "train" in parts and len(parts) > 1
    for base in subsets or [found.root]:
        split = _SPLIT_OF[base.name.partition("-")[0]] if follow else ""
        for speaker in folders(base):
            for chapter in folders(speaker):
                for file in files(chapter):
                    if file.name.endswith((".trans.txt", ".normalized.txt")):
                        continue
                    if not file.name.startswith(f"{speaker.name}-{chapter.name}-"):
                        found.skip(file, "its name is not speaker-chapter-utterance")
                    else:
                        found.add(file, speaker.name, group=f"{speaker.name}-{chapter.name}", split=split)
    return found.manifest()


def recognises_cn_celeb(path: Path) -> bool:
    """`data/id00000/singing-01-002.flac`, beside `eval`."""
    for speaker in entries(path / "data", _SPEAKER):
        if any(_CN_CELEB_DEV.fullmatch(Path(name).stem) for name in names(speaker)):
            return True
    return False


def read_cn_celeb(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Speaker, genre, session, utterance; genre and session together are the group.

    Where there is an `eval` folder, its speakers are the test, wherever else they occur, and the others are trained on.

    Raises:
        DataError: No recording.
    """
    found = Found(path, suffixes)
    evaluated: list[tuple[Path, str, str]] = []
    for file in (*files(found.root / "eval" / "enroll"), *files(found.root / "eval" / "test")):
        named = _CN_CELEB_EVAL.fullmatch(file.stem)
        if named is None:
            found.skip(file, "its name is not speaker-genre-session-utterance")
        else:
            evaluated.append((file, named[1], named[2]))
    tested = {speaker for _, speaker, _ in evaluated}
    for speaker in folders(found.root / "data"):
        for file in files(speaker):
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
    for where, line in lines(utt2spk):
        fields = line.split()
        if len(fields) != 2:
            raise DataError(f"{where}: wanted an utterance and its speaker, found {len(fields)} fields")
        if speakers.setdefault(fields[0], fields[1]) != fields[1]:
            raise DataError(f"{where}: {fields[0]} is {fields[1]!r} here and {speakers[fields[0]]!r} above")
    found = Found(path, suffixes)
    listed: set[str] = set()
    for where, line in lines(scp):
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
        found.add(inside(found.root, place, where), speakers[utterance], where=where)
    for utterance in sorted(speakers.keys() - listed):
        found.skipped.append(Skipped(utterance, f"is in {utt2spk.name} and not in {scp.name}"))
    return found.manifest()


def recognises_speechbrain(path: Path) -> bool:
    """A CSV file with the columns `wav` and `spk_id`."""
    return {"wav", "spk_id"} <= headings(path)


def read_speechbrain(path: Path, suffixes: frozenset[str]) -> Manifest:
    """The columns `wav` and `spk_id`; a recording that is listed in several parts is taken once and whole.

    Raises:
        DataError: A line is off, or a recording is missing or of two speakers: "file: line n: reason".
    """
    found = Found(path.parent, suffixes)
    speaker_of: dict[Path, str] = {}
    for where, record in records(path):
        place, speaker = record.get("wav", ""), record.get("spk_id", "")
        if not place or not speaker:
            raise DataError(f"{where}: wav or spk_id is blank")
        place = place.replace("{data_root}/", "").replace("$data_root/", "")
        target = inside(found.root, place, where)
        if speaker_of.setdefault(target, speaker) != speaker:
            raise DataError(f"{where}: {place} is {speaker!r} here and {speaker_of[target]!r} above")
        if target not in found.seen:
            found.add(target, speaker, where=where)
    return found.manifest()


def _voxceleb_bases(path: Path) -> list[Path]:
    """Where the speakers' folders lie: `path` itself, or the `wav` or `aac` folders that the archives unpack to."""
    below = [path / part / name for part in ("", "dev", "test") for name in ("wav", "aac")]
    return [base for base in below if base.is_dir()] or [path]
