"""Which rows of a store show whom.

Legend: N rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore

__all__ = ["rows_of", "some_rows"]


def rows_of(store: SampleStore, identities: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The rows of a store that show these identities."""
    wanted = frozenset(identities)
    return np.array([n for n, row in enumerate(store.manifest.rows) if row.identity in wanted], dtype=np.int64)


def some_rows(store: SampleStore, identities: tuple[str, ...], *, most: int) -> npt.NDArray[np.int64]:
    """About `most` of those rows: of as many whole identities, two or more, evenly taken from all of them."""
    rows_N = rows_of(store, identities)
    if len(rows_N) <= most:
        return rows_N
    count = max(2, len(identities) * most // len(rows_N))
    return rows_of(store, tuple(identities[i * len(identities) // count] for i in range(count)))
