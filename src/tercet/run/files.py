"""Files written whole or not at all, and read with a limit.

Each file is written under a temporary name in the same folder, flushed to the disk, then renamed over its place: a
reader, a kill or a power cut sees the old file or the new one. A full disk is one clear error, and the old file stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from tercet.errors import RunError

__all__ = ["digest", "read_bytes", "read_json", "read_tensors", "write_bytes", "write_json", "write_tensors"]

MAX_JSON_BYTES: Final = 256 * 2**20
MAX_TENSOR_BYTES: Final = 16 * 2**30


def digest(data: bytes) -> str:
    """SHA-256 of the bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Raises:
        RunError: It cannot be written (disk full, no permission, ...); what stood there before still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that a stranger's folder holds under this name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_json(path: Path, values: Mapping[str, Any]) -> str:
    """`write_bytes` of readable JSON; returns the digest of its bytes.

    NaN and infinity, which JSON does not have, are refused. A file name that is not UTF-8 is written as the escapes
    that JSON reads back to it.
    """
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    data = text.encode(errors="backslashreplace")
    write_bytes(path, data)
    return digest(data)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """`write_bytes` of a safetensors file; returns the digest of its bytes."""
    data = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_bytes(path, data)
    return digest(data)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        RunError: The file is missing, unreadable or larger than the limit.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise RunError(f"{path}: {size} bytes, more than the {limit} allowed")
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """The JSON object in a file, whose bytes must have this digest where one is given.

    Raises:
        RunError: The file is missing, unreadable, holds something else, or is not the one that the digest names.
    """
    data = read_bytes(path, limit=MAX_JSON_BYTES)
    if sha256 is not None and digest(data) != sha256:
        raise RunError(f"{path}: damaged or exchanged, its checksum is not the recorded one")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged, no valid JSON") from error
    if not isinstance(values, dict):
        raise RunError(f"{path}: damaged, no JSON object")
    return values


def read_tensors(path: Path, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, whose bytes must have this digest where one is given.

    Raises:
        RunError: The file is missing, unreadable, damaged, or not the one that the digest names.
    """
    data = read_bytes(path, limit=MAX_TENSOR_BYTES)
    if sha256 is not None and digest(data) != sha256:
        raise RunError(f"{path}: damaged or exchanged, its checksum is not the recorded one")
    try:
        return tensors_from_bytes(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path}: damaged, no valid safetensors file") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (where the system can)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
