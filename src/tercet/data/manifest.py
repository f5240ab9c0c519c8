"""What there is to learn from: one row per file, with its identity, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["GENUINE", "KINDS", "Manifest", "Row", "Skipped"]

GENUINE = "genuine"
KINDS = (GENUINE, "skilled", "simple")
"""What a sample can be: genuine, or a forgery made with the identity's own sample at hand, or with its name alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: a file and what is known about it.

    Attributes:
        path: the absolute path of the file.
        identity: whose or what sample it is, of a forgery whose it pretends to be; never blank.
        group: what samples of one identity may share without being good evidence (a recording, a session); may be "".
        kind: one of `KINDS`. What is not genuine is negative only: a sample that is known not to be of its identity.
        split: "train", "validation", "test", or "" where the data does not say.
        category: what kind of thing its identity is, as many identities may be; may be "".
        role: in retrieval "query" (searched for), "gallery" (searched in) or "both"; "" where the data does not say.
    """

    path: Path
    identity: str
    group: str = ""
    kind: str = GENUINE
    split: str = ""
    role: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was found and left out, and the reason; the path is relative to the data where possible."""

    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The samples of one data set, in a fixed order, with the files that were left out.

    Attributes:
        root: the absolute folder that the data lies in.
        rows: one row per sample.
        skipped: files that were found and left out.
    """

    root: Path
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """The distinct identities, sorted."""
        return tuple(sorted({row.identity for row in self.rows}))

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """For each row the index of its identity in `identities`: int64 [N], read-only."""
        index = {identity: i for i, identity in enumerate(self.identities)}
        labels_N = np.fromiter((index[row.identity] for row in self.rows), dtype=np.int64, count=len(self.rows))
        labels_N.setflags(write=False)
        return labels_N

    @cached_property
    def genuine(self) -> npt.NDArray[np.bool_]:
        """Which rows are genuine: bool [N], read-only."""
        genuine_N = np.fromiter((row.kind == GENUINE for row in self.rows), dtype=np.bool_, count=len(self.rows))
        genuine_N.setflags(write=False)
        return genuine_N

    @cached_property
    def kinds(self) -> npt.NDArray[np.str_]:
        """The kind of each row: str [N], read-only."""
        kinds_N = np.array([row.kind for row in self.rows], dtype=np.str_)
        kinds_N.setflags(write=False)
        return kinds_N

    def counts(self) -> dict[str, int]:
        """The number of genuine rows of each identity, in the order of `identities`; 0 where all are forgeries."""
        counted = Counter(row.identity for row in self.rows if row.kind == GENUINE)
        return {identity: counted[identity] for identity in self.identities}

    def of(self, identities: Collection[str]) -> Manifest:
        """The rows of these identities, in the same order; names that do not occur are ignored.

        `skipped` stays with the whole manifest, so that nothing is counted twice when a manifest is divided.
        """
        wanted = frozenset(identities)
        return Manifest(self.root, tuple(row for row in self.rows if row.identity in wanted))

    def enrolled(self) -> Manifest:
        """What a gallery may hold: the genuine rows, with the forgeries noted as skipped."""
        if bool(self.genuine.all()):
            return self
        out = tuple(
            Skipped(self.relative(row), f"a forgery ({row.kind}), which is nobody's sample")
            for row in self.rows
            if row.kind != GENUINE
        )
        return Manifest(self.root, tuple(row for row in self.rows if row.kind == GENUINE), self.skipped + out)

    def relative(self, row: Row) -> str:
        """The row's path as it is shown to people: relative to `root` where it lies there, with forward slashes."""
        if row.path.is_relative_to(self.root):
            return row.path.relative_to(self.root).as_posix()
        return row.path.as_posix()
