"""What there is to learn from: one row per file, with its identity, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Manifest", "Row", "Skipped"]


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: a file and what is known about it.

    Attributes:
        path: the absolute path of the file.
        identity: whose or what sample it is; never blank.
        group: what samples of one identity may share without being good evidence (a recording, a session); may be "".
        kind: "genuine", or what else the sample is (for instance "forged").
        split: "train", "validation", "test", or "" where the data does not say.
    """

    path: Path
    identity: str
    group: str = ""
    kind: str = "genuine"
    split: str = ""


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

    def counts(self) -> dict[str, int]:
        """The number of rows of each identity, in the order of `identities`."""
        counted = Counter(row.identity for row in self.rows)
        return {identity: counted[identity] for identity in self.identities}

    def of(self, identities: Collection[str]) -> Manifest:
        """The rows of these identities, in the same order; names that do not occur are ignored.

        `skipped` stays with the whole manifest, so that nothing is counted twice when a manifest is divided.
        """
        wanted = frozenset(identities)
        return Manifest(self.root, tuple(row for row in self.rows if row.identity in wanted))

    def relative(self, row: Row) -> str:
        """The row's path as it is shown to people: relative to `root` where it lies there, with forward slashes."""
        if row.path.is_relative_to(self.root):
            return row.path.relative_to(self.root).as_posix()
        return row.path.as_posix()
