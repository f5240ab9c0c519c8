"""What a model has to beat: no network at all, the same network without training, and what needs no training of it.

    the baseline    no network: what the front end makes of a sample (raw_pixels for pictures), scaled to unit norm
    untrained       the same network with random weights (same configuration and seed); those that its training began
                    with, but for a pretrained backbone
    description     where the network has a description beside it: that alone, with the map that was fitted in training
    frozen          where there is a pretrained backbone: its own features as it was published, scaled to unit norm

tercet's own networks normalise by group, not by batch, so that they need no statistics of data and are a fair baseline
as initialised.

Legend: N samples, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tercet.data import SampleStore
from tercet.encoders import DescribedEncoder, PretrainedEncoder, build_encoder
from tercet.errors import RunError
from tercet.run import Model
from tercet.run.bundle import START
from tercet.run.files import read_tensors
from tercet.run.model import embed_rows

__all__ = ["Baseline", "baselines_of", "description", "frozen", "plain_baseline", "untrained"]

Baseline = Callable[[Model, SampleStore, npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(model, store, rows [N] of the store) -> unit vectors [N, D]."""


def baselines_of(model: Model) -> Mapping[str, Baseline]:
    """The baselines that there are for a model, by their names in figures."""
    found: dict[str, Baseline] = {model.front_end.BASELINE: plain_baseline, "untrained": untrained}
    encoder = model.encoder
    if isinstance(encoder, DescribedEncoder):
        found["description"] = description
    if isinstance(encoder, PretrainedEncoder) and encoder.config.is_pretrained:
        found["frozen"] = frozen
    return found


def plain_baseline(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without a network, unit vectors [N, D]: what the front end says of the samples."""
    parts = [model.front_end.baseline(store.take(rows_N[start : start + 256])) for start in range(0, len(rows_N), 256)]
    return np.concatenate(parts)


def untrained(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The baseline without training, unit vectors [N, D]: the model's network with random weights, by its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(int(model.config["seed"]))
        encoder = build_encoder(model.config["encoder"])
    return embed_rows(encoder, store, rows_N)


def description(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The description beside the network without it, unit vectors [N, K]."""
    assert isinstance(model.encoder, DescribedEncoder)
    return embed_rows(model.encoder.description, store, rows_N)


def frozen(model: Model, store: SampleStore, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The pretrained backbone without further training, unit vectors [N, D]: its features as the run began with them.

    Raises:
        RunError: The run does not hold the weights that it began with (start.safetensors).
    """
    encoder = model.encoder
    assert isinstance(encoder, PretrainedEncoder)
    if not encoder.config.frozen:
        path = model.path / START
        encoder = encoder.config.build()
        began = encoder.begin_with(read_tensors(path))
        if began != encoder.config.weights:
            raise RunError(f"{path}: not the weights that this run began with")
    return embed_rows(_Features(encoder), store, rows_N)


class _Features(nn.Module):
    """An encoder that stops before its last layer."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.encoder.features(x_BCHW)
