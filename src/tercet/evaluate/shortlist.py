"""The nearest rows by a quick product in float32, each answer proven to be the exact one or given up.

A float32 product of unit rows errs by at most (D + 4) 2^-24. Of each query the best K + S rows by that product are
scored again exactly; every other row lies at or below the least of them, by the quick product, so if the K-th exact
score exceeds that by more than the error, no other row can belong to the K nearest. Queries for which it does not (many
rows that are nearly alike) are left to the slow way.

Legend: G gallery rows; D embedding width; B queries of one chunk; K neighbours; S spare candidates.
"""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_GALLERY", "Shortlist"]

LEAST_GALLERY = 2048  # below, the slow way is as quick
_SPARE = 8
_MOST = 512
_ENTRIES = 2**24  # float32 similarities in memory at a time: 64 MiB
_GATHERED = 2**22  # float64 values of candidates at a time: 32 MiB, and its like while they are scaled


@final
class Shortlist:
    """A gallery made ready for the quick product; `ids_G` are codes of samples: those of a query's own are no result.

    Memory: the gallery in float32, one chunk of at most 2^24 similarities, and the candidates of some queries.
    """

    def __init__(self, unit_GD: npt.NDArray[np.float32], ids_G: npt.NDArray[np.int64] | None) -> None:
        import torch  # seconds to load, and galleries below `LEAST_GALLERY` do without

        self._unit = torch.from_numpy(unit_GD)
        self._ids = ids_G
        self._error = (unit_GD.shape[1] + 4) * 2.0**-24
        # A query's own rows may all stand among the best by the quick product, where they take the place of others.
        self._own = 0 if ids_G is None else int(np.unique(ids_G, return_counts=True)[1].max())

    def width(self, k: int) -> int | None:
        """How many candidates K + S of each query are scored again; None where the quick way does not pay."""
        count = k + self._own + _SPARE
        return count if count <= min(_MOST, len(self._unit) // 8) else None

    def rows_at_once(self) -> int:
        """How many queries a chunk may have."""
        return max(1, _ENTRIES // len(self._unit))

    def candidates(
        self, query_BD: npt.NDArray[np.float64], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The best rows [B, count] by the quick product, and what no other row's exact similarity [B] can exceed."""
        import torch

        quick = torch.from_numpy(query_BD.astype(np.float32)) @ self._unit.T
        best = torch.topk(quick, count, dim=1, sorted=False)
        return best.indices.numpy(), best.values.amin(dim=1).double().numpy() + self._error

    @staticmethod
    def parts(count: int, width: int) -> int:
        """How many queries' candidates of this width are gathered at a time."""
        return max(1, _GATHERED // max(1, count * width))
