"""Where in a recording somebody speaks, told by level alone, and what is left when the pauses are cut out.

The level of a frame (25 ms, every 10 ms) is its power above 100 Hz in decibels. With

    loud     the tenth highest level: at least 0.1 s are so loud, so that a click is not taken for it
    quiet    the level that a tenth of the frames stay below

a frame is speech where its level is above

    max(loud - 30, min(quiet + 3, loud - 6))

that is, above the noise between the words where there is noise, and within 30 dB of the loudest words where there is
none. If loud is below -65 dB of full scale, the recording is silent; if it is less than 6 dB above quiet, it is a
steady sound (hum, noise, a tone): speech rises and falls more than that, even under noise of its own strength. Every
stretch of speech is kept with 0.1 s on both sides.

Level cannot tell a voice from music or a barking dog; it tells something from nothing.

Legend: N samples, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from tercet.data.log_mel import FRAME, HOP, RATE

__all__ = ["Speech", "speech_of"]

_LOUDEST: Final = 10  # the frame by whose level the loudness is known, counted from the loudest one
_RANGE, _ABOVE_NOISE, _BELOW_LOUD = 30.0, 3.0, 6.0  # dB
_SILENCE: Final = -65.0  # dB of full scale
_LEAST_CHANGE: Final = 6.0  # dB between loud and quiet
_MARGIN: Final = 10  # frames that are kept on both sides of speech
_LOWEST: Final = 100  # Hz: rumble and wind rise and fall too, but lie below every voice


@final
@dataclass(frozen=True)
class Speech:
    """The speech in a recording.

    Args:
        wave_N: The stretches of speech with their margins, one after the other: float32 [N].
        seconds: How long somebody speaks, without the margins.
        steady: Whether nothing was found because the sound does not rise and fall.
    """

    wave_N: npt.NDArray[np.float32]
    seconds: float
    steady: bool = False


def speech_of(wave_N: npt.NDArray[np.float32]) -> Speech:
    """The speech in a waveform at 16 kHz; see the top of the file."""
    from scipy.ndimage import binary_dilation  # these take most of a second to import, for sound only
    from scipy.signal import butter, sosfilt

    nothing = wave_N[:0]
    if len(wave_N) < FRAME:
        return Speech(nothing, 0.0)
    wave_N = wave_N - wave_N.mean()
    level_T = _levels(sosfilt(butter(2, _LOWEST, "highpass", fs=RATE, output="sos"), wave_N))
    loud = float(np.sort(level_T)[-min(_LOUDEST, len(level_T))])
    quiet = float(np.quantile(level_T, 0.1))
    if loud < _SILENCE:
        return Speech(nothing, 0.0)
    if loud - quiet < _LEAST_CHANGE:
        return Speech(nothing, 0.0, steady=True)
    speech_T = level_T > max(loud - _RANGE, min(quiet + _ABOVE_NOISE, loud - _BELOW_LOUD))
    kept_T = binary_dilation(speech_T, iterations=_MARGIN)
    kept_N = np.repeat(kept_T, HOP)
    # The last frame reaches over its hop to the end of the recording.
    kept_N = np.concatenate([kept_N, np.full(len(wave_N) - len(kept_N), kept_T[-1])])
    return Speech(wave_N[kept_N], float(speech_T.sum()) * HOP / RATE)


def _levels(wave_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The level of each frame in decibels of full scale."""
    power_N = np.concatenate([[0.0], np.cumsum(wave_N**2)])
    start_T = np.arange(0, len(wave_N) - FRAME + 1, HOP)
    power_T = (power_N[start_T + FRAME] - power_N[start_T]) / FRAME
    levels_T: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power_T, 1e-12))
    return levels_T
