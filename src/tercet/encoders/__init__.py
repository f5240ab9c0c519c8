"""Networks that turn a normalised input into a unit vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from tercet.encoders.configuration import read_config
from tercet.encoders.convnet import ConvEncoder, ConvEncoderConfig
from tercet.encoders.described import DescribedConfig, DescribedEncoder, learning_part
from tercet.encoders.drawing import DrawingEncoder, DrawingEncoderConfig
from tercet.encoders.pretrained import PretrainedConfig, PretrainedEncoder
from tercet.encoders.sources import Backbone, find_backbone
from tercet.encoders.speech import SpeechEncoder, SpeechEncoderConfig
from tercet.errors import InvalidOption

__all__ = [
    "Backbone",
    "ConvEncoder",
    "ConvEncoderConfig",
    "DescribedConfig",
    "DescribedEncoder",
    "DrawingEncoder",
    "DrawingEncoderConfig",
    "EncoderConfig",
    "PretrainedConfig",
    "PretrainedEncoder",
    "SpeechEncoder",
    "SpeechEncoderConfig",
    "build_encoder",
    "find_backbone",
    "learning_part",
    "read_encoder",
]


class EncoderConfig(Protocol):
    """Everything needed to build an encoder again; a frozen dataclass."""

    @property
    def embedding_dim(self) -> int:
        """Width D of the embedding."""
        ...

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the encoder takes a batch of samples of this shape, as the front end normalises them."""
        ...

    def with_embedding_dim(self, embedding_dim: int) -> EncoderConfig:
        """The same with another width of the embedding.

        Raises:
            InvalidInput: It is out of range.
        """
        ...

    def build(self) -> nn.Module:
        """The encoder, freshly initialised from torch's global generator."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with `kind`; `read_encoder` reads them back."""
        ...


def read_encoder(config: Mapping[str, Any]) -> EncoderConfig:
    """Read what an encoder configuration's `to_json` wrote.

    Raises:
        InvalidOption: A kind of encoder that this version does not know.
        InvalidInput: A value out of range.
    """
    match config.get("kind"):
        case ConvEncoderConfig.kind:
            return read_config(ConvEncoderConfig, config)
        case DescribedConfig.kind:
            return DescribedConfig.from_json(config)
        case DrawingEncoderConfig.kind:
            return read_config(DrawingEncoderConfig, config)
        case SpeechEncoderConfig.kind:
            return read_config(SpeechEncoderConfig, config)
        case PretrainedConfig.kind:
            return read_config(PretrainedConfig, config)
        case kind:
            kinds = (ConvEncoderConfig, DescribedConfig, DrawingEncoderConfig, SpeechEncoderConfig, PretrainedConfig)
            known = tuple(config.kind for config in kinds)
            raise InvalidOption.unknown("encoder", kind, known)


def build_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Build the encoder that a configuration (its `to_json`) describes, freshly initialised.

    Raises:
        InvalidOption: A kind of encoder that this version does not know.
        InvalidInput: A value out of range.
    """
    return read_encoder(config).build()
