"""Networks that turn a normalised input into a unit vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tercet.encoders.convnet import ConvEncoder, ConvEncoderConfig
from tercet.errors import InvalidOption

__all__ = ["ConvEncoder", "ConvEncoderConfig", "build_encoder"]


def build_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Build the encoder that a configuration (its `to_json`) describes, freshly initialised.

    Raises:
        InvalidOption: A kind of encoder that this version does not know.
        InvalidInput: A value out of range.
    """
    match config.get("kind"):
        case "convnet":
            return ConvEncoder(ConvEncoderConfig.from_json(config))
        case kind:
            raise InvalidOption.unknown("encoder", kind, ["convnet"])
