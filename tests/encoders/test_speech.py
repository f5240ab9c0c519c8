from __future__ import annotations

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from tercet.data import log_mel as log_mel_module
from tercet.data.log_mel import log_mel
from tercet.encoders import SpeechEncoderConfig, build_encoder, read_encoder
from tercet.errors import InvalidInput, InvalidOption
from voices import RATE, voice

SMALL = SpeechEncoderConfig(width=64, blocks=2, embedding_dim=16)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return SMALL.build().eval()


def kaldi(wave_N, bands):
    """The log-mel spectrogram [T, M] by kaldi-native-fbank, with the options that WeSpeaker's recipes set."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.mel_opts.num_bins = bands
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(RATE, (wave_N * 32768).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bands", [40, 80])
@pytest.mark.parametrize("samples", [400, 401, 559, 560, 16_000])
def test_the_spectrogram_is_kaldis(bands, samples, compiled, monkeypatch):
    """Speech, noise and digital silence; both sum in float32, so the tolerance is 1e-3 where there is sound.

    With the fast transform, and with the product that a compiled or exported network has in its place.
    """
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    random = np.random.default_rng(0)
    for wave_N in (voice(1, 1), random.uniform(-1, 1, RATE).astype(np.float32), np.zeros(RATE, np.float32)):
        expected_TM = kaldi(wave_N[:samples], bands)
        found_TM = log_mel(torch.from_numpy(wave_N[:samples])[None], bands)[0].numpy()
        assert found_TM.shape == expected_TM.shape
        np.testing.assert_allclose(found_TM, expected_TM, atol=1e-3)


def test_a_trace_leaves_nothing_behind():
    """What is kept between calls is made of numbers, whoever asks first: a compiler's stand-in would stay for good."""
    log_mel_module._triangles.cache_clear()
    log_mel_module._waves.cache_clear()
    wave = torch.from_numpy(voice(1, 1))[None]
    program = torch.export.export(LogMel(), (wave,))
    assert torch.allclose(program.module()(wave), log_mel(wave), atol=1e-3)


class LogMel(torch.nn.Module):
    def forward(self, wave_BN):
        return log_mel(wave_BN)


def test_a_waveform_shorter_than_a_frame_is_continued():
    short = torch.rand(2, 100) - 0.5
    assert torch.equal(log_mel(short), log_mel(torch.nn.functional.pad(short, (0, 300))))


def test_vectors_are_of_unit_length_for_any_length(encoder):
    for samples in (1, 399, 400, 5_000, 48_000):
        x_B1N = torch.rand(2, 1, samples) - 0.5
        vectors_BD = encoder(x_B1N)
        assert vectors_BD.shape == (2, 16)
        assert torch.allclose(vectors_BD.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_vector_depends_neither_on_its_batch_nor_on_the_level(encoder):
    waves = torch.from_numpy(np.stack([voice(s, 0) for s in range(9)]))[:, None]
    together = encoder(waves)
    alone = torch.cat([encoder(wave[None]) for wave in waves])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(encoder(waves * 0.05), together, atol=1e-3)


def test_speech_that_is_repeated_stays_about_the_same(encoder):
    """The front end repeats what is short; that must not make another speaker of it."""
    wave = torch.from_numpy(voice(4, 0, seconds=2.0))[None, None]
    again = encoder(wave.repeat(1, 1, 2)) @ encoder(wave).T
    other = encoder(torch.from_numpy(voice(5, 0, seconds=2.0))[None, None]) @ encoder(wave).T
    assert again.item() > 0.99 > other.item()


def test_every_weight_learns():
    torch.manual_seed(0)
    encoder = SMALL.build()
    (encoder(torch.rand(4, 1, 8_000) - 0.5) @ torch.rand(16)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_bfloat16_comes_close(encoder):
    wave = torch.from_numpy(voice(1, 0))[None, None]
    with torch.autocast("cpu", torch.bfloat16):
        halved = encoder(wave).float()
    assert (halved * encoder(wave)).sum().item() > 0.99


def test_the_configuration_comes_back_and_is_checked():
    assert read_encoder(SMALL.to_json()) == SMALL
    assert build_encoder(SMALL.to_json()).embed.out_features == 16
    assert SMALL.with_embedding_dim(8).embedding_dim == 8
    assert SMALL.takes((1, 7)) and not SMALL.takes((2, 7)) and not SMALL.takes((1, 7, 7))
    for wrong in ({"width": 100}, {"width": 0}, {"bands": 500}, {"blocks": 9}, {"embedding_dim": 0}, {"bands": 80.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            SpeechEncoderConfig(**wrong)
    with pytest.raises(InvalidInput, match="keys"):
        read_encoder({"kind": "speech", "bands": 80})
    with pytest.raises(InvalidOption, match="speech"):
        read_encoder({"kind": "wavelet"})
