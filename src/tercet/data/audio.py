"""From the bytes of a recording to a few seconds of speech as int16: the same code in training, evaluation and use.

    file -> header checked -> first minute decoded -> one channel -> 16 kHz -> speech found -> pauses cut out
         -> its first `seconds`, or where there are fewer, the speech repeated until it fills them
         -> scaled to a fixed peak -> int16 [1, seconds * 16000]

Legend: B batch, N samples of a waveform.
"""

from __future__ import annotations

import functools
import io
import math
import wave
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch

from tercet.data.cepstrum import cepstral_statistics
from tercet.data.containers import complaint, container_of
from tercet.data.log_mel import RATE, log_mel
from tercet.data.reading import read_file
from tercet.data.voice import speech_of
from tercet.errors import DataError, InvalidInput, TooLittle

__all__ = ["AudioFrontEnd", "waves_of"]

_RATES: Final = (4_000, 192_000)  # samples a second
_MOST_CHANNELS: Final = 8
_MOST_SECONDS: Final = 4 * 3600  # a header that names more is refused
_LISTEN_SECONDS: Final = 60  # of a recording that is longer only so much is decoded
_LONGEST: Final = 60.0  # seconds of a sample
_PEAK: Final = 0.9
_SHOWN: Final = 100  # columns of a picture, roughly


@dataclass(frozen=True)
class AudioFrontEnd:
    """Turns a recording into int16 [1, N] of 16 kHz speech, and a batch of those into the network's float32 input.

    The channels are averaged, the rate is changed by a polyphase filter, pauses are cut out (`tercet.data.voice`). Of
    what is left the first `seconds` are taken; where there is less, it is repeated. The level is scaled away, so that
    neither a microphone's gain nor a file's number format matters. Of a long recording the first minute is decoded.

    Attributes:
        seconds: length of a sample; its shape is (1, seconds * 16000).
        least_speech: seconds; a recording in which less speech is found is refused as `TooLittle`.
        max_bytes: a larger file is refused before it is read.

    Raises:
        InvalidInput: for a number out of range.
    """

    seconds: float = 4.0
    least_speech: float = 0.2
    max_bytes: int = 256 * 2**20

    kind: ClassVar[str] = "audio"
    BASELINE: ClassVar[str] = "mfcc_statistics"
    dtype: ClassVar[npt.DTypeLike] = np.int16
    SUFFIXES: ClassVar[frozenset[str]] = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".sph"})

    def __post_init__(self) -> None:
        if type(self.max_bytes) is not int or self.max_bytes < 1:
            raise InvalidInput(f"max_bytes: must be an integer of at least 1, not {self.max_bytes!r}")
        for name, least in (("seconds", 0.5), ("least_speech", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _LONGEST:
                raise InvalidInput(f"{name}: must be a number of seconds from {least} to {_LONGEST:g}, not {value!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, N) of a sample."""
        return 1, round(self.seconds * RATE)

    def decode(self, source: Path | bytes) -> npt.NDArray[np.int16]:
        """The speech in a file, or in the bytes of one, as int16 [1, N].

        Raises:
            TooLittle: where it holds too little speech.
            DataError: where it cannot be read, is too large or too long, or is no recording: "path: reason".
        """
        if isinstance(source, bytes):
            return self.decode_bytes(source, "recording")
        return self.decode_bytes(self.read_bytes(source), str(source))

    def read_bytes(self, path: Path) -> bytes:
        """The bytes of a regular file of at most `max_bytes`.

        Raises:
            DataError: where there is no such file, it cannot be read, or it is too large.
        """
        return read_file(path, max_bytes=self.max_bytes)

    def decode_bytes(self, blob: bytes, name: str) -> npt.NDArray[np.int16]:
        """The speech in `blob` as int16 [1, N]; `name` is what an error calls it.

        Raises:
            TooLittle: where it holds too little speech.
            DataError: where the bytes are too many, or are no recording that can be read: "name: reason".
        """
        if not blob:
            raise DataError(f"{name}: the file is empty")
        if len(blob) > self.max_bytes:
            raise DataError(f"{name}: is larger than {self.max_bytes} bytes")
        wave_N, rate = _decoded(blob, name)
        if rate != RATE:
            wave_N = _resampled(wave_N, rate)
        found = speech_of(wave_N)
        if found.seconds < max(self.least_speech, 0.01):
            raise TooLittle(
                f"{name}: too little speech: {found.seconds:.1f} s found in {len(wave_N) / RATE:.1f} s"
                f"{' of steady sound' if found.steady else ''}, {self.least_speech:g} s are needed"
            )
        # np.resize repeats what is too short and cuts what is too long.
        speech_N = np.resize(found.wave_N, self.shape[1])
        speech_N *= 32767 * _PEAK / np.abs(speech_N).max()
        return np.rint(speech_N).astype(np.int16)[None]

    def header(self, blob: bytes, name: str, *, listened: float) -> tuple[str, int, int, float]:
        """What a recording says of itself: its format, samples a second, samples, and the power of `listened` seconds.

        Raises:
            DataError: where the bytes are too many, or are no recording that can be read: "name: reason".
        """
        import soundfile

        kind = container_of(blob)
        if kind is None or len(blob) > self.max_bytes:
            raise DataError(f"{name}: is not a recording that can be read, or larger than {self.max_bytes} bytes")
        try:
            with soundfile.SoundFile(io.BytesIO(blob)) as file:
                rate, frames = int(file.samplerate), int(file.frames)
                wave = file.read(max(0, min(frames, round(rate * listened))), dtype="float32", always_2d=True)
                form = f"{kind} {file.subtype}"
        except soundfile.LibsndfileError as error:
            raise DataError(f"{name}: the recording is damaged ({error.error_string.strip().rstrip('.')})") from error
        return form, rate, frames, float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0

    def normalise(self, x_B1N: torch.Tensor) -> torch.Tensor:
        """The network's input: x / 32768, float32 in [-1, 1], on the device of `x_B1N` (int16)."""
        if x_B1N.dtype != torch.int16 or tuple(x_B1N.shape[1:]) != self.shape:
            raise InvalidInput(
                f"x_B1N: must be int16 [B, {', '.join(map(str, self.shape))}], not {x_B1N.dtype} {list(x_B1N.shape)}"
            )
        return waves_of(x_B1N)

    def baseline(self, x_B1N: torch.Tensor) -> npt.NDArray[np.float32]:
        """Unit vectors [B, D] without a network: mean and deviation over time of the liftered cepstrum (MFCC)."""
        unit_BD: npt.NDArray[np.float32] = cepstral_statistics(self.normalise(x_B1N)[:, 0]).numpy()
        return unit_BD

    def picture(self, sample: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
        """The log-mel spectrogram of a sample, time to the right, low frequencies below: uint8 [1, 80, W]."""
        mel_TM = log_mel(self.normalise(torch.from_numpy(sample)[None])[:, 0])[0].numpy()
        wide = max(1, len(mel_TM) // _SHOWN)
        mel_MW = mel_TM[: len(mel_TM) // wide * wide].reshape(-1, wide, mel_TM.shape[1]).mean(axis=1).T[::-1]
        low, high = np.quantile(mel_MW, (0.05, 0.995))
        grey_MW: npt.NDArray[np.uint8] = np.rint(255 * np.clip((mel_MW - low) / max(high - low, 1e-6), 0, 1)).astype(
            np.uint8
        )
        return grey_MW[None]

    def sound(self, sample: npt.NDArray[np.int16]) -> bytes:
        """A sample as an MP3 file."""
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, sample[0], RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.8)
        return file.getvalue()

    def golden(self) -> npt.NDArray[np.int16]:
        """Four synthetic voices: chirps with overtones that rise at four speeds, in syllables."""
        at_N = np.arange(self.shape[1]) / RATE
        voices = []
        for voice in range(4):
            pitch_N = 2 * np.pi * (90 + 40 * voice + (5 + 3 * voice) * at_N) * at_N
            tones_N = sum(np.sin(overtone * pitch_N) / overtone for overtone in range(1, 12))
            voices.append(tones_N * (0.6 + 0.4 * np.sin(2 * np.pi * (3 + voice) * at_N)))
        waves_4N = np.stack(voices)
        return np.rint(waves_4N / 3 * 32767 * _PEAK).clip(-32768, 32767).astype(np.int16)[:, None]

    def golden_file(self) -> bytes:
        """A WAV file of two channels at 44.1 kHz: a voice of syllables with pauses between its words, and a hum."""
        at_N = np.arange(5 * 44_100) / 44_100
        syllables_N = np.clip(np.sin(2 * np.pi * 3 * at_N), 0, 1) * (np.sin(2 * np.pi * 0.4 * at_N - 1) > -0.3)
        voice_N = sum(np.sin(overtone * 2 * np.pi * (120 + 9 * at_N) * at_N) / overtone for overtone in range(1, 20))
        left_N = 0.2 * syllables_N * voice_N
        channels_N2 = np.stack([left_N, 0.5 * left_N + 0.001 * np.sin(2 * np.pi * 50 * at_N)], axis=1)
        file = io.BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setnchannels(2)
            wav.setsampwidth(2)
            wav.setframerate(44_100)
            wav.writeframes(np.rint(channels_N2 * 32767).astype("<i2").tobytes())
        return file.getvalue()

    def to_json(self) -> dict[str, object]:
        """The settings as JSON values; `from_json` reads them back."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_json(cls, value: object) -> AudioFrontEnd:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: where a setting is missing, unknown or out of range, or the kind is another one.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.keys() != {"kind", *names}:
            raise InvalidInput(f"front end: must be an object with kind, {', '.join(names)}")
        if value["kind"] != cls.kind:
            raise InvalidInput(f"front end: kind must be {cls.kind!r}, not {value['kind']!r}")
        return cls(**{name: value[name] for name in names})


def waves_of(x_B1N: torch.Tensor) -> torch.Tensor:
    """Samples of any length (int16) as waveforms in [-1, 1], float32."""
    return x_B1N.to(torch.float32).div_(32768)


def _resampled(wave_N: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """A waveform at 16 kHz: a polyphase filter that is flat up to 7 kHz and 60 dB down at 8.2 kHz, or in proportion."""
    from scipy.signal import resample_poly  # most of a second to import, for sound only

    common = math.gcd(rate, RATE)
    up, down = RATE // common, rate // common
    resampled_N: npt.NDArray[np.float32] = resample_poly(wave_N, up, down, window=_low_pass(max(up, down)))
    return resampled_N.astype(np.float32)


@functools.cache
def _low_pass(factor: int) -> npt.NDArray[np.float64]:
    from scipy.signal import firwin

    taps: npt.NDArray[np.float64] = firwin(2 * 32 * factor + 1, 0.95 / factor, window=("kaiser", 8.0))
    return taps


def _decoded(blob: bytes, name: str) -> tuple[npt.NDArray[np.float32], int]:
    """The first minute as one channel of float32 [N], and its rate."""
    import soundfile

    container = container_of(blob)
    if container is None:
        raise DataError(f"{name}: is not a recording that can be read (WAV, FLAC, OGG, MP3, NIST SPHERE)")
    damage = complaint(container, blob)
    if damage:
        raise DataError(f"{name}: {damage}")
    try:
        with soundfile.SoundFile(io.BytesIO(blob)) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            if not _RATES[0] <= rate <= _RATES[1]:
                raise DataError(f"{name}: {rate} samples a second are outside {_RATES[0]} to {_RATES[1]}")
            if channels > _MOST_CHANNELS:
                raise DataError(f"{name}: {channels} channels are more than the {_MOST_CHANNELS} allowed")
            if frames > rate * _MOST_SECONDS:
                raise DataError(f"{name}: {frames / rate / 3600:.1f} hours are more than the 4 allowed")
            wanted = min(frames, rate * _LISTEN_SECONDS)
            wave_NC: npt.NDArray[Any] = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: the recording is damaged ({error.error_string.strip().rstrip('.')})") from error
    if not len(wave_NC):
        raise DataError(f"{name}: holds no sound at all")
    if len(wave_NC) < wanted:
        raise DataError(f"{name}: the recording is cut off: {len(wave_NC)} of {frames} samples are there")
    if not np.isfinite(wave_NC).all():
        raise DataError(f"{name}: holds samples that are not numbers (NaN or infinity)")
    return wave_NC.mean(axis=1, dtype=np.float32), rate
