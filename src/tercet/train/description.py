"""What is fitted in closed form to the training samples, and not trained.

    before the first step   the map of the description beside the network
    at each validation      the description's share of the similarity
    after the last step     the whitening of the network's own vectors

Legend: M training samples, F numbers of a description, K width of its part of the embedding, N of the network's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tercet.data import SampleStore
from tercet.encoders import DescribedConfig, DescribedEncoder
from tercet.encoders.described import Description, fit_description, fit_whitening
from tercet.run.model import embed_rows
from tercet.train.plan import Plan
from tercet.train.ranks import Ranks
from tercet.train.rows import some_rows

__all__ = ["START_SHARE", "settle", "whitening_of", "with_description"]

# What the maps are fitted to; more would take time and change little. The second takes passes of the network.
_MOST_ROWS: Final = 5000
_MOST_EMBEDDED: Final = 2048
_TOGETHER: Final = 64
START_SHARE: Final = 0.3
"""Of the description in the similarity until a validation chooses, and where nobody is held out for one."""


def with_description(plan: Plan, store: SampleStore, identities: tuple[str, ...], ranks: Ranks) -> Plan:
    """The plan, where its encoder has a description, with a map that is fitted to these identities to begin with.

    The first process fits it and tells the others: another machine's might differ in the last bit.
    """
    config = plan.encoder
    if not isinstance(config, DescribedConfig):
        return plan
    middle, known = torch.zeros(config.described), torch.zeros(config.described, config.known)
    rows_M = some_rows(store, identities, most=_MOST_ROWS, genuine=True)
    if not len(rows_M):
        return plan  # which cannot be trained, and whoever makes the batches will say so
    if fitted := ranks.by_first(lambda: _fitted(config, store, rows_M)):
        middle, known = fitted
    if ranks.size > 1:
        middle, known = (torch.tensor(ranks.as_first(x.flatten().tolist())).view(x.shape) for x in (middle, known))
    begun = {"description.middle": middle, "description.known": known, "share": torch.tensor(START_SHARE)}
    return replace(plan, start={**(plan.start or {}), **begun})


def settle(encoder: nn.Module, share: float) -> None:
    """Set the share of the description, where the encoder has one."""
    if isinstance(encoder, DescribedEncoder):
        encoder.share.fill_(share)


def whitening_of(encoder: DescribedEncoder, store: SampleStore, identities: tuple[str, ...]) -> torch.Tensor:
    """The whitening [N, N] of a trained network, fitted to these identities: those that it was trained on."""
    rows_M = some_rows(store, identities, most=_MOST_EMBEDDED, genuine=True)
    return fit_whitening(embed_rows(encoder.network, store, rows_M), store.manifest.labels[rows_M])


def _fitted(
    config: DescribedConfig, store: SampleStore, rows_M: npt.NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    describe = Description(config).describe
    parts = (rows_M[start : start + _TOGETHER] for start in range(0, len(rows_M), _TOGETHER))
    described = [describe(store.front_end.normalise(store.take(part))).numpy() for part in parts]
    return fit_description(np.concatenate(described), store.manifest.labels[rows_M], config.known)
