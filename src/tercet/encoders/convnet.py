"""A small residual convolutional network that trains from scratch in minutes on a CPU.

    picture [B, C, H, W]
      -> stem           5 x 5, stride 4 / 2 / 1 by the size of the picture
      -> residual blocks, each after the first halving height and width and doubling the channels, down to about 4 x 4
      -> pool           "average": one mean a channel (where an object lies does not matter)
                        "flatten": every cell kept   (parts have their place, as in aligned faces)
      -> linear -> unit-norm embedding [B, D]

Group normalisation, not batch normalisation: a vector never depends on its batch, training and use compute the same
function, small P x K batches do no harm, and a freshly initialised network is a fair baseline as it stands.

Legend: B batch, C channels, H height, W width, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, final, get_args

import torch
from torch import nn

from tercet.encoders.configuration import check_numbers, write_config
from tercet.errors import InvalidInput, InvalidOption

__all__ = ["ConvEncoder", "ConvEncoderConfig", "Pool"]

Pool = Literal["average", "flatten"]

# Values that a configuration file may ask for, least and most, so that a foreign one cannot claim the machine's memory.
_LIMITS: Final = {
    "channels": (1, 16),
    "height": (8, 512),
    "width": (8, 512),
    "embedding_dim": (1, 2048),
    "base_width": (8, 256),
}
_MOST_BLOCKS: Final = 4  # channels end at 8 x base_width
_GROUP: Final = 8  # channels that are normalised together


@final
@dataclass(frozen=True, slots=True)
class ConvEncoderConfig:
    """The shape of a `ConvEncoder`: everything needed to build it again.

    Args:
        channels: Channels of the picture, 1 (grey) or 3 (colour).
        height: Height of the picture, 8 or more.
        width: Width of the picture, 8 or more.
        embedding_dim: Width D of the embedding.
        base_width: Channels after the stem; a multiple of 8.
        pool: "average" or "flatten", see the top of the file.
        flip_test: Whether vectors in use are of picture and mirror image together, at twice the cost.

    Raises:
        InvalidInput: A number out of range.
        InvalidOption: An unknown `pool`.
    """

    channels: int
    height: int
    width: int
    embedding_dim: int = 128
    base_width: int = 32
    pool: Pool = "average"
    flip_test: bool = False

    kind: ClassVar[str] = "convnet"
    YOUNGER: ClassVar[frozenset[str]] = frozenset({"flip_test"})  # what the first runs do not name

    def __post_init__(self) -> None:
        check_numbers(self, _LIMITS)
        if self.base_width % _GROUP:
            raise InvalidInput(f"base_width={self.base_width} must be a multiple of {_GROUP}")
        if self.pool not in get_args(Pool):
            raise InvalidOption.unknown("pool", self.pool, get_args(Pool))
        if type(self.flip_test) is not bool:
            raise InvalidInput(f"flip_test={self.flip_test!r} must be true or false")

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether pictures of this shape, (C, H, W), are what it is for."""
        return shape == (self.channels, self.height, self.width)

    def with_embedding_dim(self, embedding_dim: int) -> ConvEncoderConfig:
        """The same with another width of the embedding."""
        return replace(self, embedding_dim=embedding_dim)

    def build(self) -> ConvEncoder:
        """The encoder, freshly initialised from torch's global generator."""
        return ConvEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the kind of encoder that it is for."""
        return write_config(self)


@final
class ConvEncoder(nn.Module):
    """Map pictures [B, C, H, W] (float, as the front end normalises them) to unit vectors [B, D].

    Args:
        config: Its shape. `height` and `width` matter to `pool="flatten"`; with `"average"` other sizes pass too.
    """

    def __init__(self, config: ConvEncoderConfig) -> None:
        super().__init__()
        self.config = config
        smallest = min(config.height, config.width)
        stride = 4 if smallest >= 48 else 2 if smallest >= 16 else 1
        size = math.ceil(smallest / stride)
        widths = [config.base_width]
        while size > 4 and len(widths) < _MOST_BLOCKS:
            size = math.ceil(size / 2)
            widths.append(2 * widths[-1])
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, widths[0], 5, stride, padding=2, bias=False),
            nn.GroupNorm(widths[0] // _GROUP, widths[0]),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            *(_Block(before, after) for before, after in zip([widths[0], *widths], widths, strict=False))
        )
        height, width = config.height, config.width
        for halving in (stride, *[2] * (len(widths) - 1)):
            height, width = math.ceil(height / halving), math.ceil(width / halving)
        cells = height * width if config.pool == "flatten" else 1
        self.pool: nn.Module = nn.Flatten() if config.pool == "flatten" else _Average()
        self.embed = nn.Linear(widths[-1] * cells, config.embedding_dim)
        # Convolutions run faster on channels-last pictures, on a CPU as on a GPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D]."""
        vectors_BD = self.describe(x_BCHW)
        if self.config.flip_test and not self.training:
            vectors_BD = vectors_BD + self.describe(x_BCHW.flip(3))
        return nn.functional.normalize(vectors_BD, dim=1)

    def describe(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Vectors [B, D] as the last layer gives them, of any length."""
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        features_BF: torch.Tensor = self.pool(self.blocks(self.stem(x_BCHW)))
        vectors_BD: torch.Tensor = self.embed(features_BF)
        return vectors_BD


@final
class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a short cut; halves the picture where the channels change."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(after // _GROUP, after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(after // _GROUP, after)
        # The block begins as its short cut, which lets a deeper stack train from the first step on.
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2, ceil_mode=True),
                nn.Conv2d(before, after, 1, bias=False),
                nn.GroupNorm(after // _GROUP, after),
            )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = nn.functional.relu(self.first_norm(self.first(x_BCHW)))
        y_BCHW = self.second_norm(self.second(y_BCHW))
        return nn.functional.relu(y_BCHW + self.shortcut(x_BCHW))


@final
class _Average(nn.Module):
    """The mean over height and width."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3))
