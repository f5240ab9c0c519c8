"""Which samples of the data are scored: those of identities that the model has not seen.

What was trained or validated on is left out: every identity one of whose files has the checksum of a file in the run's
train or validation part, under whatever name it comes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.errors import DataError
from tercet.run import Model

__all__ = ["Scored", "gallery_rows", "retrieval_parts", "scored_rows", "seen_identities"]


@final
@dataclass(frozen=True)
class Scored:
    """What of the data is scored.

    Args:
        rows: Rows of the store, ascending; genuine ones.
        identities: How many identities they show.
        left_out: Names of the identities that the model was trained or validated on.
        left_out_samples: How many samples those have.
        warnings: What a reader of the figures should know.
        forged: Rows of the store, ascending: the forgeries of those identities.
    """

    rows: npt.NDArray[np.int64]
    identities: int
    left_out: tuple[str, ...]
    left_out_samples: int
    warnings: tuple[str, ...]
    forged: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def seen_identities(model: Model, store: SampleStore) -> frozenset[str]:
    """The identities of the data that took part in training or validation, recognised by their files."""
    hashes = model.split.hashes
    seen = {*hashes["train"], *hashes["validation"]}
    rows = zip(store.manifest.rows, store.hashes, strict=True)
    return frozenset(row.identity for row, mark in rows if mark in seen)


def scored_rows(model: Model, store: SampleStore) -> Scored:
    """Leave out every identity that took part in training or validation, recognised by its files.

    An identity that has only its name in common with one of those is kept, and a warning says so.

    Raises:
        DataError: Nobody is left, or nobody with two samples, or only one identity.
    """
    split, manifest = model.split.split, store.manifest
    seen_names = {*split.train, *split.validation}
    out = seen_identities(model, store)
    kept = np.array([row.identity not in out for row in manifest.rows], dtype=np.bool_)
    rows = np.flatnonzero(kept & manifest.genuine)
    counts = Counter(manifest.rows[n].identity for n in rows)
    if not counts:
        raise DataError(f"{manifest.root}: every identity took part in training or validation; nobody is left to score")
    if len(counts) < 2 or max(counts.values()) < 2:
        raise DataError(
            f"{manifest.root}: {len(counts)} identities are left to score, "
            f"with {max(counts.values())} samples at most; two of each are needed"
        )
    namesakes = sorted(seen_names & counts.keys())
    warnings: tuple[str, ...] = ()
    if namesakes:
        warnings = (
            f"{len(namesakes)} identities have the name of one in training but none of its files, and are scored: "
            + ", ".join(namesakes[:5])
            + (" ..." if len(namesakes) > 5 else ""),
        )
    forged = np.flatnonzero(kept & ~manifest.genuine)
    forged = forged[[manifest.rows[n].identity in counts for n in forged]]
    return Scored(rows, len(counts), tuple(sorted(out)), int((~kept).sum()), warnings, forged)


def retrieval_parts(
    store: SampleStore, rows_N: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Places among `rows_N` of the queries and of the gallery, as the data name them; None where they name no such two.

    A row that the data name neither is in neither.
    """
    roles = np.array([store.manifest.rows[n].role for n in rows_N], dtype=np.str_)
    query_Q, there_G = (np.flatnonzero(np.isin(roles, (part, "both"))) for part in ("query", "gallery"))
    return (query_Q, there_G) if len(query_Q) and len(there_G) else None


def gallery_rows(model: Model, gallery: SampleStore | None) -> npt.NDArray[np.int64]:
    """The rows of a gallery whose identities the model has not seen."""
    if gallery is None:
        return np.zeros(0, dtype=np.int64)
    out = seen_identities(model, gallery)
    rows = [n for n, row in enumerate(gallery.manifest.rows) if row.identity not in out]
    if not rows:
        raise DataError(f"{gallery.manifest.root}: every identity of the gallery took part in training or validation")
    return np.array(rows, dtype=np.int64)
