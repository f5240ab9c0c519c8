"""Statistics of the cepstrum: what can be said of a voice without a network.

Legend: B batch, N samples, T frames, C cepstral coefficients, D width of a vector.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from tercet.data.log_mel import cosine_transform, log_mel

__all__ = ["CEPSTRAL_STATISTICS", "cepstral_statistics"]

_BANDS: Final = 80
_COEFFICIENTS: Final = 30  # the first of them, loudness, is left out
_LIFTER: Final = 22  # brings them to like scales; without it the first few would be all that a cosine sees
CEPSTRAL_STATISTICS: Final = 2 * (_COEFFICIENTS - 1)
"""D, the numbers that describe a recording."""


def cepstral_statistics(x_BN: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, D], of silence zeros, of waveforms [B, N] at 16 kHz in [-1, 1], float32.

    Mean and deviation over time of the liftered mel-frequency cepstral coefficients 1 to 29 (MFCC; the lifter is
    Kaldi's, with 22). Cost: that of the log-mel spectrogram.
    """
    lifter_C = 1 + _LIFTER / 2 * torch.sin(math.pi / _LIFTER * torch.arange(1, _COEFFICIENTS))
    waves_MC = cosine_transform(_BANDS, _COEFFICIENTS)[:, 1:] * lifter_C
    mfcc_BTC = log_mel(x_BN, _BANDS) @ waves_MC.to(x_BN.device)
    statistics_BD = torch.cat([mfcc_BTC.mean(dim=1), mfcc_BTC.std(dim=1, correction=0)], dim=1)
    # Silence has statistics of rounding alone: they stay near zero and are not blown up to a direction.
    return torch.nn.functional.normalize(statistics_BD, dim=1, eps=1e-2)
