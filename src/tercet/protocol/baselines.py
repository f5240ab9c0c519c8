"""What a model has to beat: no network at all, and the same network without training.

    the baseline    no network: what the front end makes of a sample (raw_pixels for pictures), scaled to unit norm
    untrained       the same network with the weights that its training began with (same configuration and seed)

The network normalises by group, not by batch, so that it needs no statistics of data and is a fair baseline as
initialised.

Legend: N samples, D embedding width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tercet.data import SampleStore
from tercet.encoders import build_encoder
from tercet.run import Model
from tercet.run.model import embed_rows

__all__ = ["plain_baseline", "untrained"]


def plain_baseline(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without a network, unit vectors [N, D]: what the front end says of the samples."""
    parts = [model.front_end.baseline(store.take(rows_N[start : start + 256])) for start in range(0, len(rows_N), 256)]
    return np.concatenate(parts)


def untrained(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without training, unit vectors [N, D]: the model's network with the weights that it began with."""
    with torch.random.fork_rng():
        torch.manual_seed(int(model.config["seed"]))
        encoder = build_encoder(model.config["encoder"])
    return embed_rows(encoder, store, rows_N)
