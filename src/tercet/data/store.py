"""Every sample decoded once, ahead of training, so that no step waits for a file."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from tercet.data.front_end import FrontEnd
from tercet.data.manifest import Manifest, Row, Skipped
from tercet.errors import DataError, InvalidInput

__all__ = ["SampleStore"]

_ROWS_PER_TASK = 32


class SampleStore:
    """The decoded samples of a manifest, in one array [N, *shape] of the front end's shape and dtype.

    Attributes:
        manifest: the readable rows, in order; what could not be read is in its `skipped`.
        front_end: what decoded them.
        hashes: for each row the first 32 hex digits of the sha256 of its file's bytes.
        unreadable: the rows whose files could not be read.
    """

    def __init__(
        self,
        manifest: Manifest,
        front_end: FrontEnd,
        samples_N: npt.NDArray[Any],
        hashes: tuple[str, ...],
        *,
        positions_N: npt.NDArray[np.int64] | None = None,
        file: BinaryIO | None = None,
        unreadable: tuple[Row, ...] = (),
    ) -> None:
        """Hold samples that are decoded already; `read` is the way from files.

        Args:
            manifest: one row per sample.
            front_end: its shape is the samples' shape.
            samples_N: the samples.
            hashes: one per row.
            positions_N: where each row's sample stands in `samples_N`; None: in the same order, one each.
            file: what backs `samples_N`; closed with the store.
            unreadable: rows that are not in `manifest` because their files could not be read.

        Raises:
            InvalidInput: where the shapes or numbers do not agree.
        """
        positions_N = np.arange(len(samples_N)) if positions_N is None else positions_N
        dtype = np.dtype(front_end.dtype)
        if samples_N.dtype != dtype or samples_N.shape[1:] != front_end.shape:
            raise InvalidInput(
                f"samples_N: must be {dtype} [N, {', '.join(map(str, front_end.shape))}],"
                f" not {samples_N.dtype} {list(samples_N.shape)}"
            )
        if not len(manifest) == len(hashes) == len(positions_N):
            raise InvalidInput(
                f"samples_N: {len(positions_N)} samples, {len(manifest)} rows and {len(hashes)} hashes do not agree"
            )
        self.manifest = manifest
        self.front_end = front_end
        self.hashes = hashes
        self.unreadable = unreadable
        self._samples: npt.NDArray[Any] | None = samples_N
        self._positions = positions_N
        self._file = file

    @classmethod
    def read(
        cls,
        manifest: Manifest,
        front_end: FrontEnd,
        *,
        spill_dir: Path | None = None,
        memory_bytes: int = 2 * 2**30,
        workers: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> SampleStore:
        """Read, hash and decode every file once, in threads (the decoders work outside the interpreter's lock).

        A file that cannot be read is left out and noted in `manifest.skipped`. Above `memory_bytes` the array lies in
        a nameless temporary file, which takes no memory and is gone when the store is closed or the process ends.

        Args:
            manifest: what to read.
            front_end: how to read it.
            spill_dir: where the temporary file lies; None: the system's folder for such files.
            memory_bytes: the largest array that is kept in memory.
            workers: threads.
            progress: called in this thread with (files done, files in all), now and then and at the end.

        Raises:
            DataError: where no file can be read, or the disk has no room for the temporary file.
            InvalidInput: for `workers` below 1.
        """
        if workers < 1:
            raise InvalidInput(f"workers: must be at least 1, not {workers}")
        total = len(manifest)
        if not total:
            raise DataError(f"{manifest.root}: no sample to read")
        samples_N, file = _allocate((total, *front_end.shape), np.dtype(front_end.dtype), memory_bytes, spill_dir)

        def read_some(start: int) -> list[tuple[str, str]]:
            """Decode the rows from `start` on into the array: for each a (hash, "") or ("", reason)."""
            outcomes = []
            for n in range(start, min(start + _ROWS_PER_TASK, total)):
                path = manifest.rows[n].path
                try:
                    blob = front_end.read_bytes(path)
                    samples_N[n] = front_end.decode_bytes(blob, str(path))
                    outcomes.append((hashlib.sha256(blob).hexdigest()[:32], ""))
                except DataError as error:
                    outcomes.append(("", str(error).removeprefix(f"{path}: ")))
            return outcomes

        outcomes: list[tuple[str, str]] = []
        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="tercet-read") as pool:
                for some in pool.map(read_some, range(0, total, _ROWS_PER_TASK)):
                    outcomes += some
                    if progress is not None:
                        progress(len(outcomes), total)
            skipped = tuple(
                Skipped(manifest.relative(row), reason)
                for row, (_, reason) in zip(manifest.rows, outcomes, strict=True)
                if reason
            )
            if len(skipped) == total:
                raise DataError(
                    f"{manifest.root}: none of {total} files can be read; {skipped[0].path}: {skipped[0].reason}"
                )
        except BaseException:
            if file is not None:
                file.close()
            raise
        positions_N = np.array([n for n, (_, reason) in enumerate(outcomes) if not reason], dtype=np.int64)
        return cls(
            Manifest(manifest.root, tuple(manifest.rows[n] for n in positions_N), manifest.skipped + skipped),
            front_end,
            samples_N,
            tuple(outcomes[n][0] for n in positions_N),
            positions_N=positions_N,
            file=file,
            unreadable=tuple(row for row, (_, reason) in zip(manifest.rows, outcomes, strict=True) if reason),
        )

    def __len__(self) -> int:
        return len(self._positions)

    def take(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """A copy of the samples of these rows of `manifest`: [B, *shape], of the front end's dtype.

        Raises:
            InvalidInput: where a row does not exist, or the store is closed.
        """
        if self._samples is None:
            raise InvalidInput("rows: the store is closed")
        rows_B = np.asarray(rows)
        if rows_B.size and not (0 <= rows_B.min() and rows_B.max() < len(self)):
            raise InvalidInput(f"rows: must lie in 0..{len(self) - 1}")
        return torch.from_numpy(np.asarray(self._samples[self._positions[rows_B]]))

    def close(self) -> None:
        """Let go of the samples, and of the temporary file where there is one; may be called twice."""
        self._samples = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _allocate(
    shape: tuple[int, ...], dtype: np.dtype[Any], memory_bytes: int, spill_dir: Path | None
) -> tuple[npt.NDArray[Any], BinaryIO | None]:
    """An array in memory, or above `memory_bytes` one in a temporary file, which is returned with it."""
    size = math.prod(shape) * dtype.itemsize
    if size <= memory_bytes:
        return np.empty(shape, dtype), None
    folder = Path(tempfile.gettempdir() if spill_dir is None else spill_dir)
    file: BinaryIO | None = None
    try:
        free = shutil.disk_usage(folder).free
        if free < size:
            raise DataError(
                f"{folder}: {size / 1e9:.1f} GB are needed for the decoded samples, {free / 1e9:.1f} are free"
            )
        # The file has no name, or loses it when closed: nothing stays behind, however the process ends.
        file = tempfile.TemporaryFile(dir=folder)
        if hasattr(os, "posix_fallocate"):
            # Room is taken now: a disk that fills later would kill the process at a write into the mapping.
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "r+", shape=shape), file
    except OSError as error:
        if file is not None:
            file.close()
        raise DataError(f"{folder}: no room for {size / 1e9:.1f} GB of decoded samples: {error.strerror}") from error
