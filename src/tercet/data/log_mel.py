"""The log-mel spectrogram of speech as Kaldi defines it, for a batch of waveforms, in torch.

    frames of 25 ms every 10 ms, none over the edge    x [B, N] -> [B, T, 400],  T = 1 + (N - 400) / 160
    each: mean taken off, pre-emphasis 0.97, Hamming window, power of the Fourier transform of 512 points
    triangles on the mel scale from 20 Hz to 8 kHz, natural logarithm, floored at float32's smallest step

It is what `kaldi-native-fbank` computes with these options, no dither and samples on the scale of 16-bit integers, to
within 1e-3 (a test compares them).

All from the mean to the transform is linear, and so one product of a frame with a fixed matrix. That has the same error
at 2.1 to 2.7 times the cost of the fast transform (4 s of speech, one core), and no complex numbers and no loop: it is
what a compiled or exported network computes.

Legend: B batch, N samples, T frames, F samples of a frame, K frequencies, M mel bands.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FRAME", "HOP", "RATE", "cosine_transform", "log_mel"]

RATE: Final = 16_000  # samples a second
FRAME: Final = 400  # samples in a frame: 25 ms
HOP: Final = 160  # samples from frame to frame: 10 ms
_POINTS: Final = 512  # of the Fourier transform
_LOW, _HIGH = 20.0, RATE / 2  # Hz
_PRE_EMPHASIS: Final = 0.97
_INTEGER_SCALE: Final = 32768.0
_ROWS: Final = 8


def log_mel(x_BN: torch.Tensor, bands: int = 80) -> torch.Tensor:
    """The log-mel spectrogram [B, T, M] of waveforms [B, N] at 16 kHz in [-1, 1], in float32.

    A waveform shorter than one frame is continued with zeros. Cost: O(B T 512 log 512), a few milliseconds for each
    minute of speech.
    """
    x_BN = x_BN.float()
    if x_BN.shape[1] < FRAME:
        x_BN = torch.nn.functional.pad(x_BN, (0, FRAME - x_BN.shape[1]))
    if torch.compiler.is_compiling():
        return _log_mel_by_product(x_BN, bands)
    # A few rows at a time: what lies between the steps then stays in the processor's cache.
    return torch.cat([_log_mel(some_BN, bands) for some_BN in torch.split(x_BN, _ROWS)])


def _log_mel(x_BN: torch.Tensor, bands: int) -> torch.Tensor:
    frames_BTF = (x_BN * _INTEGER_SCALE).unfold(1, FRAME, HOP)
    frames_BTF = frames_BTF - frames_BTF.mean(dim=2, keepdim=True)
    # A frame's first sample counts as its own predecessor.
    before_BTF = torch.cat([frames_BTF[..., :1], frames_BTF[..., :-1]], dim=2)
    windowed_BTF = torch.sub(frames_BTF, before_BTF, alpha=_PRE_EMPHASIS) * torch.from_numpy(_window()).to(x_BN.device)
    spectrum_BTK = torch.fft.rfft(windowed_BTF, n=_POINTS)
    return _bands(spectrum_BTK.real.square() + spectrum_BTK.imag.square(), bands)


def _log_mel_by_product(x_BN: torch.Tensor, bands: int) -> torch.Tensor:
    waves_2K1F = torch.from_numpy(_waves()).to(x_BN.device)
    spectrum_BKT = torch.nn.functional.conv1d((x_BN * _INTEGER_SCALE)[:, None], waves_2K1F, stride=HOP)
    real_BKT, imaginary_BKT = spectrum_BKT.chunk(2, dim=1)
    return _bands((real_BKT.square() + imaginary_BKT.square()).transpose(1, 2), bands)


def _bands(power_BTK: torch.Tensor, bands: int) -> torch.Tensor:
    energy_BTM = power_BTK @ torch.from_numpy(_triangles(bands)).to(power_BTK.device)
    return torch.log(energy_BTM.clamp_min(torch.finfo(torch.float32).eps))


# Arrays and not tensors are kept: what a compiler traces must not stay in a cache.
@functools.cache
def _window() -> npt.NDArray[np.float32]:
    return np.hamming(FRAME).astype(np.float32)


@functools.cache
def _waves() -> npt.NDArray[np.float32]:
    """What a frame is multiplied by, [2 K, 1, F]: mean off, pre-emphasis, window, then cosines and sines."""
    frames_FF = np.eye(FRAME) - 1 / FRAME
    before_FF = np.concatenate([frames_FF[:, :1], frames_FF[:, :-1]], axis=1)
    spectrum_FK = np.fft.rfft((frames_FF - _PRE_EMPHASIS * before_FF) * np.hamming(FRAME), n=_POINTS)
    waves_2K1F = np.concatenate([spectrum_FK.real, spectrum_FK.imag], axis=1).T[:, None]
    return np.ascontiguousarray(waves_2K1F, dtype=np.float32)


@functools.cache
def _triangles(bands: int) -> npt.NDArray[np.float32]:
    """The weight of each of the 257 frequencies in each band: triangles of equal width on the mel scale."""
    low, high = (1127.0 * math.log1p(edge / 700.0) for edge in (_LOW, _HIGH))
    width = (high - low) / (bands + 1)
    left_M = low + width * np.arange(bands)
    mel_K = 1127.0 * np.log1p(np.arange(_POINTS // 2 + 1) * (RATE / _POINTS) / 700.0)
    rising_KM = (mel_K[:, None] - left_M) / width
    triangles_KM = np.minimum(rising_KM, 2 - rising_KM).clip(min=0)
    triangles_KM[-1] = 0  # the highest frequency belongs to no band
    kept_KM: npt.NDArray[np.float32] = triangles_KM.astype(np.float32)
    return kept_KM


def cosine_transform(bands: int, coefficients: int) -> torch.Tensor:
    """The orthonormal cosine transform [M, C] that turns log-mel bands into cepstral coefficients."""
    at_M1 = (torch.arange(bands, dtype=torch.float64) + 0.5)[:, None]
    waves_MC = torch.cos(math.pi / bands * at_M1 * torch.arange(coefficients, dtype=torch.float64))
    waves_MC *= math.sqrt(2 / bands)
    waves_MC[:, 0] /= math.sqrt(2)
    return waves_MC.float()
