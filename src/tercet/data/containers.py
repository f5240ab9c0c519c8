"""What kind of sound file some bytes are, and whether it has been cut off: told from its structure, before decoding.

libsndfile reads what is left of a truncated WAV, OGG or SPHERE file without a word, so the lengths that those files
state about themselves are compared with the bytes that are there. FLAC states its samples in the header and MP3 mostly
too; there the decoder's count tells.
"""

from __future__ import annotations

import re
import struct
from typing import Final, Literal

__all__ = ["Container", "complaint", "container_of"]

Container = Literal["wav", "flac", "ogg", "mp3", "sphere"]

_UNKNOWN_SIZES: Final = (0, 0xFFFFFFFF)  # written by programs that could not go back to the header
_SPHERE_FIELD: Final = re.compile(rb"^(sample_count|sample_n_bytes|channel_count) -i (\d{1,15})\s*$", re.MULTILINE)


def container_of(blob: bytes) -> Container | None:
    """The kind of file by its first bytes; None where it is none of those that are read."""
    if blob[:4] in (b"RIFF", b"RF64") and blob[8:12] == b"WAVE":
        return "wav"
    if blob[:4] == b"fLaC":
        return "flac"
    if blob[:4] == b"OggS":
        return "ogg"
    if blob[:7] == b"NIST_1A":
        return "sphere"
    if blob[:3] == b"ID3" or (len(blob) > 1 and blob[0] == 0xFF and blob[1] & 0xE0 == 0xE0):
        return "mp3"
    return None


def complaint(container: Container, blob: bytes) -> str:
    """What is wrong with the structure of a file, or ""."""
    match container:
        case "wav":
            return _wav(blob)
        case "ogg":
            return _ogg(blob)
        case "sphere":
            return _sphere(blob)
        case _:
            return ""


def _wav(blob: bytes) -> str:
    at, long_size = 12, None
    while at + 8 <= len(blob):
        name, size = blob[at : at + 4], struct.unpack_from("<I", blob, at + 4)[0]
        if name == b"ds64" and at + 24 <= len(blob):
            long_size = struct.unpack_from("<Q", blob, at + 16)[0]  # the data's size where 32 bits do not hold it
        if name == b"data":
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            there = len(blob) - at - 8
            if size in _UNKNOWN_SIZES:
                return "" if there else "holds no sound at all"
            return _cut_off(there, size)
        at += 8 + size + size % 2
    return "the recording is cut off before its sound begins"


def _ogg(blob: bytes) -> str:
    """Pages are of known length: the last one must be whole."""
    at = 0
    while at < len(blob):
        if blob[at : at + 4] != b"OggS":
            return f"the recording is damaged at byte {at}"
        segments = blob[at + 27 : at + 27 + blob[at + 26]] if at + 27 <= len(blob) else b""
        if at + 27 > len(blob) or len(segments) < blob[at + 26]:
            return "the recording is cut off within a page"
        at += 27 + len(segments) + sum(segments)
    return "" if at == len(blob) else "the recording is cut off within a page"


def _sphere(blob: bytes) -> str:
    try:
        start = int(blob[8:16])
    except ValueError:
        return "the header is damaged"
    stated = {name: int(value) for name, value in _SPHERE_FIELD.findall(blob[:start])}
    if b"sample_count" not in stated:
        return "the header does not state how long the recording is"
    size = stated[b"sample_count"] * stated.get(b"sample_n_bytes", 2) * stated.get(b"channel_count", 1)
    return _cut_off(max(0, len(blob) - start), size)


def _cut_off(there: int, stated: int) -> str:
    return f"the recording is cut off: {there} of {stated} bytes of sound are there" if there < stated else ""
