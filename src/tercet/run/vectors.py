"""Embedded samples as one file: vectors beside the path and identity of each, and the model that made them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import DataError, InvalidInput, RunError
from tercet.evaluate import nearest
from tercet.run.files import write_bytes

__all__ = ["Hit", "Vectors"]

_KEYS: Final = ("vectors", "paths", "identities", "fingerprint")
_MAX_BYTES: Final = 16 * 2**30
# Vectors hardly shrink and names by some tens; what unpacks to more is made to fill the memory.
_MAX_RATIO: Final = 100
_SMALL_BYTES: Final = 2**26
# What zipfile, zlib and numpy raise on damaged, encrypted, exotic or lying archives.
_DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    AttributeError,
    RuntimeError,
    MemoryError,
)


@final
@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search: whose picture, which one, and how alike (cosine similarity)."""

    identity: str
    path: str
    score: float


@final
@dataclass(frozen=True)
class Vectors:
    """N embedded samples.

    Args:
        vectors: [N, D] float32, unit norm.
        paths: Where each came from.
        identities: Whose each is; "" where nobody said.
        fingerprint: The model that made them; vectors of two models cannot be compared.

    Raises:
        InvalidInput: The lengths differ.
    """

    vectors: npt.NDArray[np.float32]
    paths: tuple[str, ...]
    identities: tuple[str, ...]
    fingerprint: str

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.vectors) == len(self.paths) == len(self.identities):
            raise InvalidInput("vectors must be [N, D] with N paths and N identities")

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, probe_D: npt.NDArray[np.float32], k: int) -> list[Hit]:
        """The k samples most like a vector, best first; ties go to the lower row. Exact, O(N D)."""
        found = nearest(probe_D[None], self.vectors, min(k, len(self)))
        return [
            Hit(self.identities[row], self.paths[row], float(score))
            for row, score in zip(found.index_QK[0], found.score_QK[0], strict=True)
        ]

    def write(self, path: Path) -> None:
        """Write an .npz with the arrays vectors, paths, identities and fingerprint, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            vectors=self.vectors,
            paths=_strings(self.paths),
            identities=_strings(self.identities),
            fingerprint=np.array(self.fingerprint),
        )
        write_bytes(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> Vectors:
        """Read what `write` wrote.

        Raises:
            DataError: The file is missing, damaged, too large or of another form.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                # The sizes stand in the directory of the archive: look before anything is unpacked.
                unpacked, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
                if unpacked > _MAX_BYTES:
                    raise DataError(f"{path}: more than {_MAX_BYTES} bytes when unpacked")
                if unpacked > max(_SMALL_BYTES, _MAX_RATIO * packed):
                    raise DataError(f"{path}: unpacks to {unpacked // packed} times its size, {_MAX_RATIO} are allowed")
            with np.load(path, allow_pickle=False) as arrays:
                missing = [key for key in _KEYS if key not in arrays]
                if missing:
                    raise DataError(f"{path}: no array {missing[0]!r}; not a file of `tercet embed`")
                vectors, paths, identities, fingerprint = (np.asarray(arrays[key]) for key in _KEYS)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        except _DAMAGED as error:
            raise DataError(f"{path}: damaged, or not a file of `tercet embed`") from error
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise DataError(f"{path}: vectors must be finite float32 [N, D]")
        if not len(vectors):
            raise DataError(f"{path}: holds no vectors")
        try:
            return cls(vectors, tuple(map(str, paths)), tuple(map(str, identities)), str(fingerprint))
        except (InvalidInput, TypeError) as error:
            raise DataError(f"{path}: vectors, paths and identities differ in number") from error

    def require_model(self, fingerprint: str, name: str) -> None:
        """Refuse vectors of another model.

        Raises:
            RunError: The fingerprints differ.
        """
        if self.fingerprint != fingerprint:
            raise RunError(f"{name}: embedded by model {self.fingerprint}, not by {fingerprint}; embed the files again")


def _strings(values: Sequence[str]) -> npt.NDArray[np.str_]:
    # An empty list would otherwise become an array of floats.
    return np.array(list(values), dtype=np.str_ if values else "U1")
