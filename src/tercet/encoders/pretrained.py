"""A network of another library, and a linear layer after it, as an encoder.

    picture [B, C, H, W] in [-1, 1], grey or colour
      -> normalise    with the mean and deviation that the backbone was trained with; grey becomes three equal channels
      -> backbone     features [B, F], scaled to unit norm; "frozen": as they were published, for good
      -> linear       begins as a rotation (of F numbers into as many; into fewer: a projection without distortion), so
                      that training starts where the frozen features stand
      -> unit-norm embedding [B, D]

With `flip_test` a vector in use is that of the picture and of its mirror image together, at twice the cost.

Batch normalisation of a pretrained backbone keeps the statistics that it came with: those of P x K batches are of no
use. With random weights it learns its own.

Legend: B batch, C channels, H height, W width, F features, D embedding width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, final

import torch
from torch import nn

from tercet.encoders.backbones import build_backbone
from tercet.encoders.configuration import check_numbers, write_config
from tercet.errors import InvalidInput

__all__ = ["PREFIX", "RANDOM", "PretrainedConfig", "PretrainedEncoder", "digest_of"]

PREFIX: Final = "backbone."
"""Of the backbone's weights in the encoder's `state_dict`."""

RANDOM: Final = "random"
"""What `weights` says of a backbone that begins with random weights."""

_LIMITS: Final = {
    "channels": (1, 3),
    "height": (8, 4096),
    "width": (8, 4096),
    "features": (1, 65536),
    "embedding_dim": (1, 2048),
}


@final
@dataclass(frozen=True, slots=True)
class PretrainedConfig:
    """Everything needed to build a `PretrainedEncoder` again, without the network and without foreign code.

    Args:
        source: Where the backbone comes from, as `--encoder` names it.
        library: The library that builds it: "timm", "transformers" or "dlib".
        architecture: What that library needs to build it, as JSON values.
        channels: Channels of the picture, 1 (grey) or 3 (RGB).
        height: Height of the picture.
        width: Width of the picture.
        mean: That the backbone expects to be taken off each of its three channels, in shares of white.
        std: And by which it expects them to be divided.
        features: Width F of what the backbone gives.
        weights: "random", or a digest of the pretrained weights that the backbone begins with.
        embedding_dim: Width D of the embedding.
        frozen: Whether the backbone stays as it is in training.
        flip_test: Whether vectors in use are of picture and mirror image.

    Raises:
        InvalidInput: A value out of range, or a backbone that is frozen at random weights.
    """

    source: str
    library: str
    architecture: Mapping[str, Any]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    features: int
    weights: str
    embedding_dim: int
    frozen: bool = False
    flip_test: bool = False

    kind: ClassVar[str] = "pretrained"

    def __post_init__(self) -> None:
        check_numbers(self, _LIMITS)
        if self.channels == 2:
            raise InvalidInput("channels=2 must be 1 or 3")
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            values = getattr(self, name)
            numbers = isinstance(values, tuple) and all(isinstance(value, float | int) for value in values)
            if not numbers or len(values) != 3 or not all(math.isfinite(v) and v > least for v in values):
                raise InvalidInput(f"{name}={values!r} must be three numbers" + (" above 0" if least == 0 else ""))
        if not isinstance(self.architecture, Mapping):
            raise InvalidInput(f"architecture={self.architecture!r} must be an object")
        if self.frozen and not self.is_pretrained:
            raise InvalidInput(f"{self.source}: a backbone with random weights cannot be frozen, it has learnt nothing")

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone begins with pretrained weights."""
        return self.weights != RANDOM

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether pictures of this shape, (C, H, W), are what it is for."""
        return shape == (self.channels, self.height, self.width)

    def with_embedding_dim(self, embedding_dim: int) -> PretrainedConfig:
        """The same with another width of the embedding."""
        return replace(self, embedding_dim=embedding_dim)

    def build(self) -> PretrainedEncoder:
        """The encoder with random weights, from torch's global generator."""
        return PretrainedEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the kind of encoder that it is for."""
        return write_config(self)


@final
class PretrainedEncoder(nn.Module):
    """Map pictures [B, C, H, W] (float in [-1, 1]) to unit vectors [B, D].

    Args:
        config: Its shape.

    Raises:
        InvalidInput: The installed libraries cannot build the backbone.
        MissingExtra: The backbone's library is not installed.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.library, config.architecture)
        self.embed = nn.Linear(config.features, config.embedding_dim)
        nn.init.orthogonal_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        for name in ("mean", "std"):
            values_C11 = torch.tensor(getattr(config, name), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, values_C11, persistent=False)
        if config.frozen:
            self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Training or use; what is frozen stays in use."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        elif self.config.is_pretrained:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def begin_with(self, start: Mapping[str, torch.Tensor]) -> str:
        """Put in the weights that a run began with, as `Backbone.start` gives them; returns their digest.

        Raises:
            InvalidInput: They are not those of this backbone.
        """
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in start.items()}
        try:
            self.backbone.load_state_dict(weights)
        except RuntimeError as error:
            raise InvalidInput(f"start: not the weights of {self.config.source} ({error})") from error
        return digest_of(weights)

    def features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The backbone's own vectors [B, F], of unit norm: what the frozen baseline is."""
        features_BF = self._features(x_BCHW)
        if self.config.flip_test and not self.training:
            features_BF = features_BF + self._features(x_BCHW.flip(3))
        return nn.functional.normalize(features_BF, dim=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D]."""
        return nn.functional.normalize(self.embed(self.features(x_BCHW)), dim=1)

    def _features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.mean, torch.Tensor) and isinstance(self.std, torch.Tensor)
        x_BCHW = ((x_BCHW + 1) / 2 - self.mean) / self.std
        features_BF: torch.Tensor = self.backbone(x_BCHW)
        return nn.functional.normalize(features_BF.float(), dim=1)


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits that name weights."""
    summary = hashlib.sha256()
    for name in sorted(weights):
        summary.update(name.encode())
        summary.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return summary.hexdigest()[:16]
