"""How good the weights are on the identities held out for validation, while training goes on.

Legend: N samples, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from tercet.data import GENUINE, SampleStore
from tercet.encoders import DescribedEncoder
from tercet.evaluate import Pairs, all_pairs, forgery_pairs, mean_eer, retrieval
from tercet.run.model import embed_rows
from tercet.train.description import START_SHARE, settle
from tercet.train.ranks import Ranks
from tercet.train.rows import some_rows

__all__ = ["Validation"]

# What a validation looks at; more would take time from the training and change little.
_MOST_ROWS: Final = 1024
_MOST_PAIRS: Final = 100_000
SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of the similarity, what a description beside the network may have."""
_CHANCE: Final = 0.05  # by which EER - MAP@R of two shares differ on one identity, roughly


@final
class Validation:
    """The held-out samples of a training, scored as often as asked.

    Args:
        store: The samples.
        identities: Those held out.
    """

    def __init__(self, store: SampleStore, identities: tuple[str, ...]) -> None:
        self.store = store
        self.rows_N = _scorable(store, identities)
        self.identities = len(np.unique(store.manifest.labels[self.rows_N]))
        self.described: _Scored | None = None  # by the description beside the network, which stays as it is
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

    def score(self, encoder: nn.Module, ranks: Ranks) -> tuple[float, float]:
        """Equal error rate and MAP@R of an encoder; the first process finds them and tells the others.

        An encoder with a description is left at one of the `SHARES`, and the figures are those at it.
        """
        found = ranks.by_first(lambda: self._best(encoder))
        eer, map_at_r, share = ranks.as_first(found or (math.nan, math.nan, math.nan))
        settle(encoder, share)
        return eer, map_at_r

    def whiten(self, encoder: DescribedEncoder, whitening_NN: Tensor) -> tuple[float, float, bool]:
        """Give an encoder this whitening unless it is worse for it, by more than chance.

        The share of the description is chosen anew.

        Returns:
            EER and MAP@R as it is left, and whether it has the whitening.
        """
        x_ND = self._embed(encoder.network)
        plain, white = (self._best_share(encoder, _times(x_ND, each)) for each in (encoder.whitening, whitening_NN))
        better = self.rank(*white[:2]) <= self.rank(*plain[:2]) + self._chance
        if better:
            encoder.whitening.copy_(whitening_NN)
        eer, map_at_r, share = white if better else plain
        settle(encoder, share)
        return eer, map_at_r, better

    def _best(self, encoder: nn.Module) -> tuple[float, float, float]:
        """EER, MAP@R, and the share of the description that they are at.

        Of the shares that are as good as the best one, but for what chance makes of so few identities, it is the one
        nearest to where the share began: of six people the best alone is as often too large.
        """
        if not isinstance(encoder, DescribedEncoder):
            return *self._figures(self._scored(self._embed(encoder))), 0.0
        return self._best_share(encoder, _times(self._embed(encoder.network), encoder.whitening))

    def _best_share(self, encoder: DescribedEncoder, x_ND: npt.NDArray[np.float32]) -> tuple[float, float, float]:
        """The same for an encoder whose network's vectors in use are these."""
        if self.described is None:
            self.described = self._scored(self._embed(encoder.description))
        network = self._scored(x_ND)
        found = [(*self._figures(network.beside(self.described, share)), share) for share in SHARES]
        enough = min(self.rank(eer, map_at_r) for eer, map_at_r, _ in found) + self._chance
        return min(
            (figures for figures in found if self.rank(*figures[:2]) <= enough),
            key=lambda figures: abs(figures[2] - START_SHARE),
        )

    @property
    def _chance(self) -> float:
        """By how much ranks differ on so few identities."""
        return _CHANCE / math.sqrt(self.identities)

    def _embed(self, encoder: nn.Module) -> npt.NDArray[np.float32]:
        return embed_rows(encoder, self.store, self.rows_N)

    def _scored(self, x_ND: npt.NDArray[np.float32]) -> _Scored:
        labels_N, kinds_N = self.store.manifest.labels[self.rows_N], self.store.manifest.kinds[self.rows_N]
        genuine_N = kinds_N == GENUINE
        return _Scored(
            x_ND[genuine_N],
            labels_N[genuine_N],
            all_pairs(x_ND[genuine_N], labels_N[genuine_N], max_pairs=_MOST_PAIRS),
            forgery_pairs(x_ND, labels_N, kinds_N, max_pairs=_MOST_PAIRS),
        )

    def _figures(self, scored: _Scored) -> tuple[float, float]:
        # Where there are forgeries, the mean over the kinds of impostor: of the many random ones alone, which are
        # easy, the best weights need not be the best against skilled ones.
        eer = mean_eer(scored.pairs, scored.forged)
        return eer, retrieval(scored.x_ND, scored.labels_N).map_at_r


@final
@dataclass(frozen=True, slots=True)
class _Scored:
    """The vectors of the genuine samples, and the similarities of pairs: the same pairs, whatever the encoder."""

    x_ND: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]
    pairs: Pairs
    forged: dict[str, Pairs]

    def beside(self, other: _Scored, share: float) -> _Scored:
        """What it is with another encoder's unit vectors beside its own, with this share of the similarity."""

        def mixed(ours: Pairs, theirs: Pairs) -> Pairs:
            return replace(ours, scores=(1 - share) * ours.scores + share * theirs.scores)

        x_ND = np.concatenate([math.sqrt(1 - share) * self.x_ND, math.sqrt(share) * other.x_ND], axis=1)
        forged = {kind: mixed(found, other.forged[kind]) for kind, found in self.forged.items()}
        return _Scored(x_ND, self.labels_N, mixed(self.pairs, other.pairs), forged)


def _times(x_ND: npt.NDArray[np.float32], whitening_NN: Tensor) -> npt.NDArray[np.float32]:
    """Unit vectors, whitened."""
    white_ND: npt.NDArray[np.float32] = x_ND @ whitening_NN.cpu().numpy()
    white_ND /= np.maximum(np.linalg.norm(white_ND, axis=1, keepdims=True), 1e-12)  # one without a length stays so
    return white_ND


def _scorable(store: SampleStore, identities: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """As many rows as there is time for; none where unreadable files leave nothing to score."""
    rows_N = some_rows(store, identities, most=_MOST_ROWS)
    genuine = rows_N[store.manifest.genuine[rows_N]]
    samples_I = np.unique(store.manifest.labels[genuine], return_counts=True)[1]
    both_kinds = len(samples_I) > 1 and samples_I.max() > 1  # of pairs, without which nothing can be scored
    return rows_N if both_kinds else rows_N[:0]
