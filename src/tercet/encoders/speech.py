"""A time-pooling network for speech that trains from scratch in minutes on a CPU.

    waveform [B, 1, N] at 16 kHz, of any length
      -> log-mel       80 bands every 10 ms, Kaldi's definition (tercet.data.log_mel), inside the network: whoever has
                       the weights has the front end that they belong to
      -> mean off      over time, band by band: what is left does not depend on a microphone's tone or level
      -> stem          convolution over 5 frames, stride 2
      -> Res2 blocks   dilated convolutions in a cascade of channel groups, then a gate for each channel by its mean
                       over time (squeeze and excitation); the outputs of all blocks are read together
      -> pool          mean and deviation over time under learnt attention, channel by channel
      -> linear, plus a linear map of the mean spectrum that was taken off -> unit-norm embedding [B, D]

After Desplanques, Thienpondt and Demuynck 2020 (ECAPA-TDNN, arXiv 2005.07143), much smaller, and with group
normalisation in place of batch normalisation: a vector never depends on its batch, and a freshly initialised network is
a fair baseline as it stands.

Legend: B batch, N samples, T frames, M mel bands, C channels, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, final

import torch
from torch import nn

from tercet.data.log_mel import log_mel
from tercet.encoders.configuration import check_numbers, write_config
from tercet.errors import InvalidInput

__all__ = ["SpeechEncoder", "SpeechEncoderConfig"]

_LIMITS: Final = {"bands": (20, 128), "width": (32, 1024), "blocks": (1, 6), "embedding_dim": (1, 2048)}
_SCALE: Final = 4  # groups of channels in a Res2 cascade
_GROUP: Final = 16  # channels that are normalised together
_BOTTLENECK: Final = 64  # channels of gates and attention
_SPREAD: Final = 3.0  # of log-mel values about their mean, roughly


@final
@dataclass(frozen=True, slots=True)
class SpeechEncoderConfig:
    """The shape of a `SpeechEncoder`: everything needed to build it again.

    Args:
        bands: Mel bands.
        width: Channels of the blocks; a multiple of 64.
        blocks: Res2 blocks, with dilations 2, 3, 4, ...
        embedding_dim: Width D of the embedding.

    Raises:
        InvalidInput: A number out of range.
    """

    bands: int = 80
    width: int = 128
    blocks: int = 3
    embedding_dim: int = 128

    kind: ClassVar[str] = "speech"

    def __post_init__(self) -> None:
        check_numbers(self, _LIMITS)
        if self.width % (_SCALE * _GROUP):
            raise InvalidInput(f"width={self.width} must be a multiple of {_SCALE * _GROUP}")

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape are waveforms of one channel; their length does not matter."""
        return len(shape) == 2 and shape[0] == 1

    def with_embedding_dim(self, embedding_dim: int) -> SpeechEncoderConfig:
        """The same with another width of the embedding."""
        return replace(self, embedding_dim=embedding_dim)

    def build(self) -> SpeechEncoder:
        """The encoder, freshly initialised from torch's global generator."""
        return SpeechEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the kind of encoder that it is for."""
        return write_config(self)


@final
class SpeechEncoder(nn.Module):
    """Map waveforms [B, 1, N] (float, 16 kHz, in [-1, 1]) to unit vectors [B, D].

    Args:
        config: Its shape.
    """

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, read = config.width, config.blocks * config.width
        self.stem = nn.Sequential(
            nn.Conv1d(config.bands, width, 5, stride=2, padding=2, bias=False),
            nn.GroupNorm(width // _GROUP, width),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(_Res2Block(width, dilation=2 + block) for block in range(config.blocks))
        self.gather = nn.Sequential(nn.Conv1d(read, read, 1, bias=False), nn.GroupNorm(read // _GROUP, read), nn.ReLU())
        self.pool = _AttentivePool(read)
        self.pool_norm = nn.LayerNorm(2 * read)
        self.embed = nn.Linear(2 * read, config.embedding_dim)
        self.tone = nn.Linear(config.bands, config.embedding_dim, bias=False)

    def forward(self, x_B1N: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D]."""
        with torch.autocast(x_B1N.device.type, enabled=False):
            mel_BTM = log_mel(x_B1N[:, 0], self.config.bands)
            tone_BM = mel_BTM.mean(dim=1)
            y_BMT = (mel_BTM - tone_BM[:, None]).transpose(1, 2) / _SPREAD
            tone_BM = (tone_BM - tone_BM.mean(dim=1, keepdim=True)) / _SPREAD
        y_BCT = self.stem(y_BMT)
        outputs = []
        for block in self.blocks:
            y_BCT = block(y_BCT)
            outputs.append(y_BCT)
        pooled_BF = self.pool_norm(self.pool(self.gather(torch.cat(outputs, dim=1))))
        return nn.functional.normalize(self.embed(pooled_BF) + self.tone(tone_BM), dim=1)


@final
class _Res2Block(nn.Module):
    """1 x 1, a cascade of dilated convolutions over groups of channels, 1 x 1, channel gates; beside a short cut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        part = width // _SCALE
        self.enter = nn.Sequential(
            nn.Conv1d(width, width, 1, bias=False), nn.GroupNorm(width // _GROUP, width), nn.ReLU()
        )
        self.cascade = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(part, part, 3, padding=dilation, dilation=dilation, bias=False),
                nn.GroupNorm(part // _GROUP, part),
                nn.ReLU(),
            )
            for _ in range(_SCALE - 1)
        )
        self.leave = nn.Conv1d(width, width, 1, bias=False)
        self.leave_norm = nn.GroupNorm(width // _GROUP, width)
        self.gate = nn.Sequential(nn.Linear(width, _BOTTLENECK), nn.ReLU(), nn.Linear(_BOTTLENECK, width), nn.Sigmoid())

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        first, *rest = self.enter(x_BCT).chunk(_SCALE, dim=1)
        parts = [first]
        for part, convolve in zip(rest, self.cascade, strict=True):
            parts.append(convolve(part if len(parts) == 1 else part + parts[-1]))
        y_BCT = self.leave_norm(self.leave(torch.cat(parts, dim=1)))
        return nn.functional.relu(x_BCT + y_BCT * self.gate(y_BCT.mean(dim=2))[..., None])


@final
class _AttentivePool(nn.Module):
    """Mean and deviation over time, each channel weighing the frames in its own way: [B, C, T] -> [B, 2 C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv1d(width, _BOTTLENECK, 1)
        self.weigh = nn.Conv1d(_BOTTLENECK, width, 1)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        weight_BCT = self.weigh(torch.tanh(self.look(x_BCT))).float().softmax(dim=2)
        x_BCT = x_BCT.float()
        mean_BC = (weight_BCT * x_BCT).sum(dim=2)
        variance_BC = (weight_BCT * x_BCT.square()).sum(dim=2) - mean_BC.square()
        # Below a floor the root would have no end of a gradient.
        return torch.cat([mean_BC, variance_BC.clamp_min(1e-4).sqrt()], dim=1)
