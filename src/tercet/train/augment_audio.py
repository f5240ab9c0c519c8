"""Random changes to a batch of training recordings: part, speed, room, microphone, noise, telephone.

Everything after the cut is a product or a sum of spectra, so that a batch costs one Fourier transform there and one
back; it is made in place, since a copy of a batch's spectra costs as much as a change. The spectrum is that of the cut
repeated without end, so an echo that leaves at its end comes back at its start, which does no harm to speech.

Another speed changes pitch and formants as another body would: all recordings of an identity in a batch get the same
one, which makes another identity of it (as in the recipes of WeSpeaker and Kaldi), and few speakers become many. All
else leaves the speaker who it is. All numbers are drawn from the generator that is passed in, on the CPU, so that they
are the same on every device. A gain is not among the changes: front end and encoder take the level off.

Legend: B batch, N samples as stored, L samples of a cut, K = L / 2 + 1 frequencies, I identities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch

from tercet.data.log_mel import RATE
from tercet.train.augment import _between, _identities

__all__ = ["add_noise", "cut", "limit_band", "reverberate", "tune", "waves"]

_TAIL_SECONDS: Final = 0.5  # of a room's echo that is kept
_DECAY: Final = math.log(1000.0)  # amplitude falls by 60 dB in the reverberation time
_VOICES: Final = 3  # other speakers in babble
_POINTS: Final = 10  # at which a microphone's response is drawn


def cut(
    x_B1N: torch.Tensor,
    labels_B: torch.Tensor,
    generator: torch.Generator,
    *,
    seconds: float,
    speeds: Sequence[float] = (1.0,),
) -> torch.Tensor:
    """The spectrum [B, K] of a random part of each recording, played at a speed that an identity's rows share.

    Args:
        x_B1N: Waveforms at 16 kHz; where one ends it begins again.
        labels_B: Whose they are.
        generator: Source of the draws.
        seconds: Length of the parts, after the change of speed.
        speeds: What there is to draw from; the speed is changed by resampling in the frequency domain.
    """
    length, stored = round(seconds * RATE), x_B1N.shape[2]
    inverse_B, count = _identities(labels_B)
    choice_B = torch.randint(len(speeds), (count,), generator=generator)[inverse_B]
    start_B = (torch.rand(len(x_B1N), generator=generator) * stored).long().tolist()
    spectrum_BK = torch.empty(len(x_B1N), length // 2 + 1, dtype=torch.complex64, device=x_B1N.device)
    for choice in sorted(set(choice_B.tolist())):
        rows = torch.nonzero(choice_B == choice).flatten().tolist()
        heard = 2 * round(length * speeds[choice] / 2)
        parts = torch.stack([_part(x_B1N[row, 0], start_B[row], heard) for row in rows]).mul_(length / heard)
        heard_SK = torch.fft.rfft(parts)[:, : spectrum_BK.shape[1]]
        for row, heard_K in zip(rows, heard_SK, strict=True):
            spectrum_BK[row, : len(heard_K)] = heard_K
            spectrum_BK[row, len(heard_K) :] = 0
    return spectrum_BK


def reverberate(spectrum_BK: torch.Tensor, generator: torch.Generator, *, share: float) -> torch.Tensor:
    """Put a share of the recordings into a room, in place: a direct sound and an echo of noise that dies away.

    The reverberation time (60 dB) is 0.1 to 0.7 s, the direct sound 0 to 12 dB louder than the echo.
    """
    rows = _some(len(spectrum_BK), share, generator)
    if not len(rows):
        return spectrum_BK
    length = 2 * (spectrum_BK.shape[1] - 1)
    time_N = torch.arange(min(length, round(_TAIL_SECONDS * RATE))) / RATE
    decay_R = _between(0.1, 0.7, len(rows), generator)
    tail_RN = torch.randn(len(rows), len(time_N), generator=generator)
    tail_RN *= torch.exp(-_DECAY * time_N / decay_R[:, None])
    below_R = 10 ** (-_between(0.0, 12.0, len(rows), generator) / 20)
    tail_RN *= (below_R / tail_RN.norm(dim=1))[:, None]
    tail_RN[:, 0] = 1.0
    room_RK = torch.fft.rfft(tail_RN.to(spectrum_BK.device), n=length)
    return _replaced(spectrum_BK, rows, lambda some_RK: some_RK * room_RK)


def tune(spectrum_BK: torch.Tensor, generator: torch.Generator, *, decibels: float) -> torch.Tensor:
    """Record with other microphones, in place: a smooth random response for each, up to `decibels` up or down."""
    gain_BP = _between(-decibels, decibels, len(spectrum_BK) * _POINTS, generator).view(-1, _POINTS)
    # Equal steps of a square root lie closer together at low frequencies, as those of hearing do.
    at_K = torch.linspace(0, 1, spectrum_BK.shape[1]).sqrt() * (_POINTS - 1)
    between_PK = (1 - (at_K - torch.arange(_POINTS)[:, None]).abs()).clamp_min(0)
    gain_BK = (gain_BP * (math.log(10) / 20) @ between_PK).exp_().to(spectrum_BK.device)
    return spectrum_BK.mul_(gain_BK)


def add_noise(
    spectrum_BK: torch.Tensor, generator: torch.Generator, *, share: float, decibels: tuple[float, float]
) -> torch.Tensor:
    """Add noise to a share of the recordings, in place: half of it coloured (power as f^0 to f^-2), half other voices.

    Args:
        spectrum_BK: Spectra of the recordings.
        generator: Source of the draws.
        share: Share of the recordings.
        decibels: Range of the ratio of speech to noise.
    """
    rows = _some(len(spectrum_BK), share, generator)
    voices = [torch.randperm(len(spectrum_BK), generator=generator)[: len(rows)] for _ in range(_VOICES)]
    ratio_R = _between(*decibels, len(rows), generator)
    if not len(rows):
        return spectrum_BK
    coloured = len(rows) // 2
    # Below every voice the noise rises no further: its strength would lie where nothing hears it.
    frequency_K = torch.linspace(0, RATE / 2, spectrum_BK.shape[1]).clamp_min(50.0)
    slope_R = _between(0.0, 1.0, coloured, generator)
    shape_RK = torch.exp(-slope_R[:, None] * torch.log(frequency_K / 50.0))
    parts_2RK = torch.randn(2, coloured, len(frequency_K), generator=generator).mul_(shape_RK)
    noise_RK = torch.complex(parts_2RK[0], parts_2RK[1]).to(spectrum_BK.device)
    babble_RK = sum(spectrum_BK[voice[coloured:].to(spectrum_BK.device)] for voice in voices)
    noise_RK = torch.cat([noise_RK, torch.as_tensor(babble_RK)])

    def noisy(some_RK: torch.Tensor) -> torch.Tensor:
        louder_R = _strength(some_RK) / _strength(noise_RK).clamp_min(1e-6)
        gain_R = louder_R * torch.pow(10.0, -ratio_R.to(louder_R.device) / 20)
        return torch.addcmul(some_RK, noise_RK, gain_R[:, None].to(noise_RK.dtype))

    return _replaced(spectrum_BK, rows, noisy)


def limit_band(spectrum_BK: torch.Tensor, generator: torch.Generator, *, share: float) -> torch.Tensor:
    """Send a share of the recordings through a narrow line, in place: from 100 to 350 Hz up to 3 to 7 kHz."""
    rows = _some(len(spectrum_BK), share, generator)
    hertz_K = torch.linspace(0, RATE / 2, spectrum_BK.shape[1])
    low_R1, high_R1 = (_between(*edge, len(rows), generator)[:, None] for edge in ((100.0, 350.0), (3e3, 7e3)))
    # Edges of a filter of the fourth order: what lies outside gets faint and does not vanish.
    below_RK, above_RK = (low_R1 / hertz_K.clamp_min(1.0)).square(), (hertz_K / high_R1).square()
    pass_RK = 1 / ((1 + below_RK.square()) * (1 + above_RK.square().square().square()))
    return _replaced(spectrum_BK, rows, lambda some_RK: some_RK * pass_RK.to(some_RK.device))


def waves(spectrum_BK: torch.Tensor, *, peak: float = 0.9) -> torch.Tensor:
    """The waveforms [B, 1, L] of spectra, each scaled to a peak, as the front end scales them."""
    x_BL: torch.Tensor = torch.fft.irfft(spectrum_BK)
    highest_B1 = x_BL.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    return x_BL.mul_(peak / highest_B1)[:, None]


def _part(x_N: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """`length` samples from `start` on, beginning again where the recording ends."""
    rounds = -(-(start + length) // len(x_N))
    return (x_N if rounds == 1 else x_N.repeat(rounds))[start : start + length]


def _some(batch: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """The numbers of rows that are drawn, each with the probability `share`, in a random order."""
    order_B = torch.randperm(batch, generator=generator)
    return order_B[torch.rand(batch, generator=generator) < share]


def _replaced(
    spectrum_BK: torch.Tensor, rows: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    rows = rows.to(spectrum_BK.device)
    return spectrum_BK.index_copy_(0, rows, change(spectrum_BK[rows]))


def _strength(spectrum_RK: torch.Tensor) -> torch.Tensor:
    """The length of each row [R]; the absolute values of complex numbers, one by one, would take ten times as long."""
    strength_R: torch.Tensor = torch.linalg.vector_norm(torch.view_as_real(spectrum_RK).flatten(1), dim=1)
    return strength_R
