"""A network for drawings that begins near their histograms of oriented gradients and learns what these do not see.

    picture [B, 1, H, W]
      -> histograms of oriented gradients (tercet.data.hog), a learnt middle taken off, linear, at first orthogonal
                                                                                                    [B, three D / 4]
      -> beside them a convolutional network (tercet.encoders.convnet)                              [B, the rest of D]
      -> together scaled to unit norm                                                               [B, D]

Of a few dozen writers a network alone learns less in minutes than the histograms know of any drawing, above all where
few false matches are allowed. Here the training begins near theirs: the linear map keeps similarities as well as so
many numbers can, and is slow to leave that, being stored with entries of size 1; the network's part is small at first.
The middle is soon learnt: what all drawings have in common says nothing of any of them.

The histograms have no weights, and no gradient passes through them.

Legend: B batch, H height, W width, D embedding width, F numbers of the histograms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, final

import torch
from torch import nn

from tercet.data.hog import oriented_gradients
from tercet.encoders.configuration import check_numbers, write_config
from tercet.encoders.convnet import ConvEncoder, ConvEncoderConfig
from tercet.errors import InvalidInput

__all__ = ["DrawingEncoder", "DrawingEncoderConfig"]

_LIMITS: Final = {"cell": (4, 64), "embedding_dim": (4, 2048)}


@final
@dataclass(frozen=True, slots=True)
class DrawingEncoderConfig:
    """The shape of a `DrawingEncoder`: everything needed to build it again.

    Args:
        height: Height of the picture, 8 or more.
        width: Width of the picture, 8 or more.
        embedding_dim: Width D of the embedding, 4 or more.
        base_width: Channels after the stem of the convolutional network; a multiple of 8.
        cell: Side of the histograms' cells in pixels; two cells at least fit into the picture each way.

    Raises:
        InvalidInput: A number out of range.
    """

    height: int
    width: int
    embedding_dim: int = 512
    base_width: int = 32
    cell: int = 8

    kind: ClassVar[str] = "drawing"

    def __post_init__(self) -> None:
        check_numbers(self, _LIMITS)
        self.network()  # checks the numbers that both have
        if min(self.height, self.width) < 2 * self.cell:
            raise InvalidInput(f"cell={self.cell} must fit twice into {self.height} x {self.width}")

    def network(self) -> ConvEncoderConfig:
        """The shape of the convolutional network, which has a quarter of the embedding."""
        return ConvEncoderConfig(1, self.height, self.width, self.embedding_dim // 4, self.base_width, "flatten")

    @property
    def histograms(self) -> int:
        """F, the numbers that describe a picture."""
        return 36 * (self.height // self.cell - 1) * (self.width // self.cell - 1)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether pictures of this shape, (1, H, W), are what it is for."""
        return shape == (1, self.height, self.width)

    def with_embedding_dim(self, embedding_dim: int) -> DrawingEncoderConfig:
        """The same with another width of the embedding."""
        return replace(self, embedding_dim=embedding_dim)

    def build(self) -> DrawingEncoder:
        """The encoder, freshly initialised from torch's global generator."""
        return DrawingEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the kind of encoder that it is for."""
        return write_config(self)


@final
class DrawingEncoder(nn.Module):
    """Map grey pictures [B, 1, H, W] (float, as the front end normalises them) to unit vectors [B, D].

    Args:
        config: Its shape.
    """

    def __init__(self, config: DrawingEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = ConvEncoder(config.network())
        self.middle = nn.Parameter(torch.zeros(config.histograms))
        known = config.embedding_dim - config.network().embedding_dim
        self.shapes = nn.Linear(config.histograms, known, bias=False)
        nn.init.orthogonal_(self.shapes.weight, gain=config.histograms**0.5)

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D]."""
        with torch.no_grad(), torch.autocast(x_B1HW.device.type, enabled=False):
            histograms_BF = oriented_gradients(x_B1HW[:, 0].float(), cell=self.config.cell)
        known = self.shapes(histograms_BF - self.middle)
        return nn.functional.normalize(torch.cat([known, self.network.describe(x_B1HW)], dim=1), dim=1)
