"""Speakers: who says it, whatever is said; recordings of speech, one speaker in each."""

from __future__ import annotations

from typing import Final

import torch

from tercet.data import AudioFrontEnd
from tercet.data import speech_layouts as published
from tercet.encoders import DescribedConfig, SpeechEncoderConfig
from tercet.tasks.task import Layout, Task
from tercet.train.augment_audio import add_noise, cut, limit_band, reverberate, tune, waves
from tercet.train.plan import Settings

__all__ = ["TASK"]

_SECONDS: Final = 2.0
_SPEEDS: Final = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2)


def augment(x_B1N: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two seconds of each, at speeds that make other speakers of them; then other rooms, microphones, noise, lines."""
    spectrum_BK = cut(x_B1N, labels_B, generator, seconds=_SECONDS, speeds=_SPEEDS)
    spectrum_BK = reverberate(spectrum_BK, generator, share=0.2)
    spectrum_BK = tune(spectrum_BK, generator, decibels=3.0)
    spectrum_BK = add_noise(spectrum_BK, generator, share=0.3, decibels=(5.0, 25.0))
    return waves(limit_band(spectrum_BK, generator, share=0.1))


LAYOUTS = (
    Layout(
        "voxceleb",
        "VoxCeleb 1 and 2: id10270/video/00001.wav",
        published.recognises_voxceleb,
        published.read_voxceleb,
    ),
    Layout(
        "librispeech",
        "LibriSpeech: 103/1240/103-1240-0000.flac, one subset or several",
        published.recognises_librispeech,
        published.read_librispeech,
    ),
    Layout(
        "cn-celeb",
        "CN-Celeb: data/id00000/singing-01-002.flac and eval",
        published.recognises_cn_celeb,
        published.read_cn_celeb,
    ),
    Layout(
        "kaldi",
        "a Kaldi data folder: wav.scp and utt2spk",
        published.recognises_kaldi,
        published.read_kaldi,
    ),
    Layout(
        "speechbrain",
        "SpeechBrain's CSV: columns wav and spk_id",
        published.recognises_speechbrain,
        published.read_speechbrain,
    ),
)

TASK = Task(
    name="speakers",
    summary="speech: one speaker a recording, one folder a speaker",
    front_end=AudioFrontEnd(),
    encoder=DescribedConfig(SpeechEncoderConfig(), embedding_dim=186),
    augment=augment,
    settings=Settings(minutes=5.0, identities_per_batch=24, samples_per_identity=4, validations=8),
    layouts=LAYOUTS,
    cohort=300,
)
