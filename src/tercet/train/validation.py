"""How good the weights are on the identities held out for validation, while training goes on.

Legend: N samples, D embedding width.
"""

from __future__ import annotations

from typing import Final, final

import numpy as np
import numpy.typing as npt
from torch import nn

from tercet.data import GENUINE, SampleStore
from tercet.evaluate import all_pairs, forgery_pairs, mean_eer, retrieval
from tercet.run.model import embed_rows

__all__ = ["Validation", "rows_of"]

# What a validation looks at; more would take time from the training and change little.
_MOST_ROWS: Final = 1024
_MOST_PAIRS: Final = 100_000


@final
class Validation:
    """The held-out samples of a training, scored as often as asked.

    Args:
        store: The samples.
        identities: Those held out.
    """

    def __init__(self, store: SampleStore, identities: tuple[str, ...]) -> None:
        self.store = store
        self.rows_N = _some(store, identities)
        self.forged = bool((store.manifest.kinds[self.rows_N] != GENUINE).any())

    def __bool__(self) -> bool:
        """Whether there is anything to score."""
        return len(self.rows_N) > 0

    def rank(self, eer: float, map_at_r: float) -> float:
        """By how much weights with these figures are worse than others: those with the least are kept.

        Of few held-out samples the EER alone is as noisy as the weights differ, so MAP@R has its say. Not where there
        are forgeries: they are no part of it, and it rises on while the EER against them does too.
        """
        return eer if self.forged else eer - map_at_r

    def score(self, encoder: nn.Module) -> tuple[float, float]:
        """Equal error rate and MAP@R of an encoder."""
        x_ND = embed_rows(encoder, self.store, self.rows_N)
        labels_N, kinds_N = self.store.manifest.labels[self.rows_N], self.store.manifest.kinds[self.rows_N]
        genuine_N = kinds_N == GENUINE
        pairs = all_pairs(x_ND[genuine_N], labels_N[genuine_N], max_pairs=_MOST_PAIRS)
        # Where there are forgeries, the mean over the kinds of impostor: of the many random ones alone, which are
        # easy, the best weights need not be the best against skilled ones.
        eer = mean_eer(pairs, forgery_pairs(x_ND, labels_N, kinds_N, max_pairs=_MOST_PAIRS))
        return eer, retrieval(x_ND[genuine_N], labels_N[genuine_N]).map_at_r


def rows_of(store: SampleStore, identities: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The rows of a store that show these identities."""
    wanted = frozenset(identities)
    return np.array([n for n, row in enumerate(store.manifest.rows) if row.identity in wanted], dtype=np.int64)


def _some(store: SampleStore, identities: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The rows of as many whole identities as there is time for, evenly taken from all of them.

    None where unreadable files leave nothing to score.
    """
    rows_N = rows_of(store, identities)
    if len(rows_N) > _MOST_ROWS:
        count = max(2, len(identities) * _MOST_ROWS // len(rows_N))
        rows_N = rows_of(store, tuple(identities[i * len(identities) // count] for i in range(count)))
    genuine = rows_N[store.manifest.genuine[rows_N]]
    samples_I = np.unique(store.manifest.labels[genuine], return_counts=True)[1]
    both_kinds = len(samples_I) > 1 and samples_I.max() > 1  # of pairs, without which nothing can be scored
    return rows_N if both_kinds else rows_N[:0]
