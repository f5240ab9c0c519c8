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


def some_rows(
    store: SampleStore, identities: tuple[str, ...], *, most: int, genuine: bool = False
) -> npt.NDArray[np.int64]:
    """At most so many of those rows: of as many whole identities, two or more, evenly taken from all that have any.

    Where these have too many together still, as two large ones have, an even part. With `genuine` no forgeries.
    """
    rows_N = rows_of(store, identities)
    if genuine:
        rows_N = rows_N[store.manifest.genuine[rows_N]]
    if len(rows_N) <= most:
        return rows_N
    owners = [store.manifest.rows[row].identity for row in rows_N]
    there = frozenset(owners)
    present = [identity for identity in identities if identity in there]
    count = max(2, len(present) * most // len(rows_N))
    wanted = frozenset(present[i * len(present) // count] for i in range(count))
    rows_N = rows_N[[owner in wanted for owner in owners]]
    return rows_N[np.arange(most) * len(rows_N) // most] if len(rows_N) > most else rows_N
