"""Made-up speakers: each a pitch and a resonance of its own, saying syllables that nobody has said before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000


def voice(speaker: int, utterance: int, *, seconds: float = 1.5, rate: int = RATE) -> npt.NDArray[np.float32]:
    """A waveform [N]: a tone with overtones, resonances of speaker and vowel, in syllables with pauses between."""
    body, random = np.random.default_rng(speaker), np.random.default_rng([speaker, utterance])
    pitch, ring, tilt = 90 * 2.0 ** body.uniform(0, 1.3), body.uniform(1500, 4200), body.uniform(0.2, 1.0)
    at_N = np.arange(round(seconds * rate)) / rate
    phase_N = 2 * np.pi * np.cumsum(pitch * (1 + 0.05 * np.sin(2 * np.pi * random.uniform(1, 3) * at_N))) / rate
    wave_N, vowel = np.zeros(len(at_N)), random.uniform((300, 900), (700, 1400))
    for overtone in range(1, int(min(rate / 2, 5000) / pitch)):
        hertz = overtone * pitch
        gain = sum(np.exp(-(((hertz - peak) / 250) ** 2)) for peak in (ring, *vowel))
        wave_N += (gain + 0.05) / overtone**tilt * np.sin(overtone * phase_N)
    syllables_N = np.clip(np.sin(2 * np.pi * random.uniform(2.5, 4) * at_N + random.uniform(0, 6)), 0, 1)
    wave_N = wave_N / np.abs(wave_N).max() * syllables_N * 0.5 + random.normal(size=len(at_N)) * 1e-3
    return wave_N.astype(np.float32)


def write_speakers(
    folder: Path, *, speakers: int = 8, utterances: int = 4, seconds: float = 1.5, first: int = 0
) -> Path:
    """A folder of one folder per speaker, with FLAC files; `first` is the number of the first speaker."""
    for speaker in range(first, first + speakers):
        (folder / f"s{speaker:02d}").mkdir(parents=True)
        for utterance in range(utterances):
            write(folder / f"s{speaker:02d}" / f"{utterance}.flac", voice(speaker, utterance, seconds=seconds))
    return folder


def write(path: Path, wave: npt.NDArray[np.float32], *, rate: int = RATE, subtype: str | None = None) -> Path:
    """A sound file of the kind that the name's ending says; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)
    return path
