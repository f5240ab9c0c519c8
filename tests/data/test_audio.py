from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.data import AudioFrontEnd, SampleStore, read_data, read_front_end
from tercet.data.containers import complaint, container_of
from tercet.data.voice import speech_of
from tercet.errors import DataError, InvalidInput, TooLittle
from voices import RATE, voice, write, write_speakers

FRONT_END = AudioFrontEnd(seconds=2.0)


def blob_of(wave, *, rate=RATE, format="WAV", subtype=None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


def likeness(a, b) -> float:
    """The correlation of two waveforms at the best shift of up to 20 ms."""
    a, b = a.astype(float).ravel(), b.astype(float).ravel()
    return max(np.corrcoef(a, np.roll(b, shift))[0, 1] for shift in range(-320, 321, 4))


def tones(seconds, rate, *hertz):
    """Tones that come and go, so that they pass for speech, with quiet ends."""
    at_N = np.arange(round(seconds * rate)) / rate
    gate_N = np.clip(np.sin(2 * np.pi * 1.5 * at_N), 0, 1)
    return (0.3 * gate_N * sum(np.sin(2 * np.pi * h * at_N) for h in hertz)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_a_rate_does_not_change_what_is_heard(rate):
    """The same tones written at another rate give the same samples, to a few percent."""
    same = FRONT_END.decode(blob_of(tones(2.5, RATE, 440, 1333)))
    other = FRONT_END.decode(blob_of(tones(2.5, rate, 440, 1333), rate=rate))
    assert other.shape == same.shape == (1, 32_000) and other.dtype == np.int16
    assert likeness(same, other) > 0.98


def test_nothing_folds_down_from_above_eight_kilohertz():
    """A 9 kHz tone at 48 kHz would be heard at 7 kHz if samples were simply dropped."""
    sample = FRONT_END.decode(blob_of(tones(2.5, 48_000, 500, 9_000), rate=48_000))
    power_K = np.abs(np.fft.rfft(sample[0] * np.hanning(32_000))) ** 2
    assert power_K[13_900:14_100].sum() < 1e-4 * power_K[900:1100].sum()


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW")),
        *(("OGG", subtype) for subtype in ("VORBIS", "OPUS")),
        *((format, "PCM_16") for format in ("FLAC", "WAVEX", "RF64", "NIST")),
        ("MP3", None),
    ],
)
def test_every_kind_of_file_is_read(format, subtype):
    wave_N = voice(1, 0, seconds=2.0)
    same = FRONT_END.decode(blob_of(wave_N))
    assert likeness(same, FRONT_END.decode(blob_of(wave_N, format=format, subtype=subtype))) > 0.7


def test_channels_are_averaged_and_level_does_not_matter():
    wave_N = voice(2, 0)
    plain = FRONT_END.decode(blob_of(wave_N, subtype="FLOAT"))
    stereo = np.stack([wave_N, np.zeros_like(wave_N)], axis=1)
    assert np.abs(FRONT_END.decode(blob_of(stereo, subtype="FLOAT")).astype(int) - plain).max() <= 1
    for gain in (0.02, 30_000):
        assert np.abs(FRONT_END.decode(blob_of(wave_N * gain, subtype="FLOAT")).astype(int) - plain).max() <= 1
    assert np.abs(plain).max() == round(0.9 * 32767)


def test_pauses_are_cut_out_and_what_is_short_is_repeated():
    """Speech between long silences is found; a second of it fills two, beginning again."""
    wave_N = voice(3, 0, seconds=1.0)
    silence = np.zeros(3 * RATE, np.float32)
    alone, between = (FRONT_END.decode(blob_of(w)) for w in (wave_N, np.concatenate([silence, wave_N, silence])))
    # The margins about the speech hold a little of the silence.
    assert np.corrcoef(np.abs(np.fft.rfft(alone[0])), np.abs(np.fft.rfft(between[0])))[0, 1] > 0.6
    found = speech_of(wave_N)
    assert np.array_equal(alone[0, : len(found.wave_N)], alone[0, len(found.wave_N) : 2 * len(found.wave_N)])
    # A long recording gives its first seconds of speech.
    first = FRONT_END.decode(blob_of(voice(3, 1, seconds=9.0)))
    assert np.array_equal(first, FRONT_END.decode(blob_of(voice(3, 1, seconds=9.0))))


@pytest.mark.parametrize(
    ("name", "wave"),
    [
        ("silence", np.zeros(RATE)),
        ("a quiet room", np.random.default_rng(0).normal(size=2 * RATE) * 1e-3),
        ("loud noise", np.random.default_rng(0).normal(size=2 * RATE) * 0.1),
        ("hum", 0.5 * np.sin(2 * np.pi * 50 * np.arange(2 * RATE) / RATE)),
        ("a tone", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)),
        ("a click", np.eye(1, 2 * RATE, RATE)[0]),
        ("an offset", np.full(RATE, 0.5)),
        ("a hundredth of a second", np.random.default_rng(0).normal(size=160) * 0.1),
        ("one sample", np.ones(1) * 0.5),
    ],
)
def test_what_holds_no_speech_is_too_little(name, wave):
    with pytest.raises(TooLittle, match=r"^recording: too little speech: 0\.\d s found in"):
        FRONT_END.decode(blob_of(wave.astype(np.float32)))


def test_a_word_is_enough_and_half_a_syllable_is_not():
    word = np.concatenate([np.zeros(RATE), tones(0.6, RATE, 200, 500, 1500), np.zeros(RATE)]).astype(np.float32)
    assert FRONT_END.decode(blob_of(word)).any()
    with pytest.raises(TooLittle, match=r"0\.2 s are needed|1\.5 s are needed"):
        AudioFrontEnd(seconds=2.0, least_speech=1.5).decode(blob_of(word))


def test_speech_is_found_in_noise():
    """Under noise 10 dB weaker, more than half of the pauses are still told from speech."""
    wave_N = np.concatenate([np.zeros(RATE, np.float32), voice(5, 0, seconds=3.0), np.zeros(RATE, np.float32)])
    noise_N = np.random.default_rng(1).normal(size=len(wave_N)).astype(np.float32) * wave_N.std() * 0.3
    found = speech_of(wave_N + noise_N)
    assert 0.5 < found.seconds < 3.0
    assert len(found.wave_N) < 4.0 * RATE


def test_damaged_files_are_one_line_each(tmp_path):
    wave_N = voice(0, 0)
    whole = {format: blob_of(wave_N, format=format) for format in ("WAV", "FLAC", "OGG", "MP3", "NIST")}
    nan, infinite = wave_N.copy(), wave_N.copy()
    nan[5000], infinite[5000] = np.nan, -np.inf
    hours = bytearray(whole["FLAC"])
    hours[18:26] = ((RATE << 44) | (0 << 41) | (15 << 36) | (8 * 3600 * RATE)).to_bytes(8, "big")
    for said, blob in {
        "the file is empty": b"",
        "is not a recording that can be read": b"no sound at all",
        "cut off": whole["WAV"][: len(whole["WAV"]) // 2],
        "cut off before": whole["WAV"][:30],
        r"cut off: \d+ of \d+ samples|damaged": whole["FLAC"][: len(whole["FLAC"]) // 2],
        "cut off within a page": whole["OGG"][: len(whole["OGG"]) // 2],
        "damaged at byte": whole["OGG"] + b"tail",
        r"cut off: \d+ of \d+ bytes": whole["NIST"][:-2000],
        "does not state": whole["NIST"].replace(b"sample_count", b"sample_cuunt"),
        "not numbers": blob_of(nan, subtype="FLOAT"),
        "not numbers ": blob_of(infinite, subtype="FLOAT"),
        "holds no sound": blob_of(wave_N[:0]),
        "8.0 hours": bytes(hours),
        "9 channels": blob_of(np.zeros((800, 9), np.float32)),
        "2000 samples a second": blob_of(wave_N, rate=2000),
        "damaged": whole["WAV"][:20] + struct.pack("<H", 999) + whole["WAV"][22:],
    }.items():
        with pytest.raises(DataError, match=rf"^x\.wav: .*(?:{said.strip()})") as caught:
            FRONT_END.decode_bytes(blob, "x.wav")
        assert "\n" not in str(caught.value) and not isinstance(caught.value, TooLittle)
    with pytest.raises(DataError, match=r"larger than 100 bytes"):
        AudioFrontEnd(max_bytes=100).decode(write(tmp_path / "a.wav", wave_N))
    with pytest.raises(DataError, match=r"larger than 100 bytes"):
        AudioFrontEnd(max_bytes=100).decode_bytes(whole["WAV"], "a")
    for missing in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(DataError, match=str(missing)):
            FRONT_END.decode(missing)


WHOLE = {format: blob_of(voice(0, 0, seconds=0.4), format=format) for format in ("WAV", "FLAC", "OGG", "MP3", "NIST")}


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_any_damage_ends_in_a_sample_or_in_one_line(format, data):
    blob = bytearray(WHOLE[format])
    for at in data.draw(st.lists(st.integers(0, min(len(blob), 400) - 1), max_size=8), label="changed"):
        blob[at] = data.draw(st.integers(0, 255))
    blob = bytes(blob[: data.draw(st.integers(0, len(blob)), label="kept")])
    try:
        sample = FRONT_END.decode_bytes(blob, "x")
    except DataError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        assert sample.shape == (1, 32_000)


def test_files_written_without_their_length_are_read():
    """Programs that write to a pipe leave the sizes of a WAV at their largest value or at 0."""
    blob = blob_of(voice(0, 0))
    at = blob.index(b"data") + 4
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        assert container_of(blob) == "wav" and complaint("wav", blob[:at] + size + blob[at + 4 :]) == ""


def test_settings_are_checked_and_come_back():
    assert read_front_end(FRONT_END.to_json()) == FRONT_END
    for wrong in ({"seconds": 0.1}, {"seconds": True}, {"seconds": 61}, {"least_speech": -1}, {"max_bytes": 0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            AudioFrontEnd(**wrong)
    for wrong in ({}, FRONT_END.to_json() | {"rate": 1}, FRONT_END.to_json() | {"kind": "image"}, []):
        with pytest.raises(InvalidInput, match="front end"):
            AudioFrontEnd.from_json(wrong)
    x_B1N = torch.zeros(2, 1, 100, dtype=torch.int16)
    with pytest.raises(InvalidInput, match="x_B1N"):
        FRONT_END.normalise(x_B1N)


def test_the_synthetic_voices_differ_and_can_be_seen_and_heard():
    golden = FRONT_END.golden()
    assert golden.shape == (4, *FRONT_END.shape) and golden.dtype == np.int16
    vectors_4D = FRONT_END.baseline(torch.from_numpy(golden))
    assert np.allclose(np.linalg.norm(vectors_4D, axis=1), 1, atol=1e-5)
    likeness_44 = vectors_4D @ vectors_4D.T
    assert (likeness_44[~np.eye(4, dtype=bool)] < 0.999).all()
    picture_CHW = FRONT_END.picture(golden[0])
    assert picture_CHW.shape[:2] == (1, 80) and picture_CHW.dtype == np.uint8 and np.ptp(picture_CHW) > 200
    heard, rate = soundfile.read(io.BytesIO(FRONT_END.sound(golden[0])))
    assert rate == RATE and abs(len(heard) - 32_000) < 3000


def test_the_baseline_knows_speakers_a_little():
    """Of made-up voices, two recordings of one are more alike than recordings of two, most of the time."""
    samples = np.stack([FRONT_END.decode(blob_of(voice(s, u))) for s in range(6) for u in range(3)])
    vectors_ND = FRONT_END.baseline(torch.from_numpy(samples))
    alike_NN = vectors_ND @ vectors_ND.T - 2 * np.eye(18)
    assert (alike_NN.argmax(1) // 3 == np.arange(18) // 3).mean() > 0.5


def test_a_store_notes_recordings_without_speech(tmp_path):
    folder = write_speakers(tmp_path / "speakers", speakers=2, utterances=2)
    write(folder / "s00" / "silence.wav", np.zeros(RATE, np.float32))
    with SampleStore.read(read_data(folder, suffixes=AudioFrontEnd.SUFFIXES), FRONT_END) as store:
        assert len(store) == 4
        assert [(s.path, s.reason[:17]) for s in store.manifest.skipped] == [("s00/silence.wav", "too little speech")]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "speakers", "files"), [("librispeech_mini", 251, 681), ("arabic_speech_commands", 30, 600)]
)
def test_real_speech_is_found(shared_data, name, speakers, files):
    manifest = read_data(shared_data / "speakers" / name, suffixes=AudioFrontEnd.SUFFIXES)
    assert (len(manifest.identities), len(manifest)) == (speakers, files)
    front_end = AudioFrontEnd()
    for row in manifest.rows[::40]:
        assert front_end.decode(row.path).shape == front_end.shape
