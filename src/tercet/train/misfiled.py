"""Files that lie under two identities, found by their bytes before the first step.

What the doctor finds in a batch needs two such files to meet there; by their checksums all are found at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tercet.data import SampleStore

__all__ = ["misfiled_in"]

_NAMED: Final = 60  # characters of a path that are shown


def misfiled_in(store: SampleStore) -> str | None:
    """One line on the files that are the same byte for byte though of different identities; None without any.

    A forgery is of nobody, whosever name it bears. O(N).
    """
    first: dict[str, tuple[str | None, Path]] = {}
    wrong: list[tuple[Path, Path]] = []
    for row, mark, genuine in zip(store.manifest.rows, store.hashes, store.manifest.genuine, strict=True):
        owner = row.identity if genuine else None
        known, path = first.setdefault(mark, (owner, row.path))
        if known != owner:
            wrong.append((path, row.path))
    if not wrong:
        return None
    root = store.manifest.root
    one, other = (str(path.relative_to(root) if path.is_relative_to(root) else path)[-_NAMED:] for path in wrong[0])
    many = "a file lies" if len(wrong) == 1 else f"{len(wrong)} files lie"
    return (
        f"{many} under more than one identity, byte for byte the same (as {one} and {other}), and no embedding can be "
        "right for both: remove what is wrong, or give the identities one name"
    )
