"""A network beside a description that needs no training but a linear map, fitted in closed form.

    sample [B, ...]
      -> network, after the training times its whitening                        -> unit norm [B, N]    sqrt(1 - share)
      -> description: pictures   histograms of oriented gradients, with colour those of colours too
                      speech     mean and deviation over time of the cepstrum
         minus its mean over the training samples, through the fitted map       -> unit norm [B, K]    sqrt(share)
      -> side by side, unit norm [B, D], D = N + K

The similarity of two samples is so (1 - share) times that by the network plus share times that by the description. A
network that has trained for minutes on a few hundred identities and such a description err on different pairs, and
together on fewer, most of all where few false matches are allowed.

In training mode the vectors are the network's alone, N numbers: the gradient of a batch does not depend on the
description, nor on the whitening. What else looks at the vectors that learn takes them of `learning_part`.

Both maps divide by how much the samples of one identity differ (within-class covariance normalisation):
`fit_description` after it has kept the K directions in which the training samples differ most, `fit_whitening` in all
N directions of the trained network's vectors. Until they are fitted, `share` is 0, the whitening changes nothing, and
the vectors are the network's with K zeros behind.

Legend: B batch, C channels, H height, W width, D embedding width, N width of the network's part, K of the
description's, F numbers of the description, M training samples, R directions kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tercet.data.cepstrum import CEPSTRAL_STATISTICS, cepstral_statistics
from tercet.data.colours import COLOURS, colour_histogram
from tercet.data.hog import oriented_gradients
from tercet.encoders.configuration import check_numbers, read_config, write_config
from tercet.encoders.convnet import ConvEncoderConfig
from tercet.encoders.drawing import DrawingEncoderConfig
from tercet.encoders.speech import SpeechEncoderConfig
from tercet.errors import InvalidInput

__all__ = ["DescribedConfig", "DescribedEncoder", "Description", "fit_description", "fit_whitening", "learning_part"]

_LIMITS: Final = {"embedding_dim": (2, 2048)}
_COLOURS: Final = "colours"
_CELL: Final = 8  # least side of the histograms' cells in pixels
_CELLS: Final = 8  # and about so many of them along the shorter side, so that F stays within thousands
_SHAPES: Final = 0.25  # length of the gradients' part beside that of the colours, which tell more things apart
_SHRINKAGE: Final = 0.1  # of the mean variance within identities, which is added in every direction


@final
@dataclass(frozen=True, slots=True)
class DescribedConfig:
    """The shape of a `DescribedEncoder`: everything needed to build it again.

    Args:
        network: Shape of the network; pictures are of 16 x 16 pixels or more.
        embedding_dim: Width D of the embedding: the network's, and up to as much again for the description.

    Raises:
        InvalidInput: A number out of range.
    """

    network: ConvEncoderConfig | DrawingEncoderConfig | SpeechEncoderConfig
    embedding_dim: int

    kind: ClassVar[str] = "described"

    def __post_init__(self) -> None:
        check_numbers(self, _LIMITS)
        network = self.network
        if isinstance(network, ConvEncoderConfig) and min(network.height, network.width) < 2 * _CELL:
            raise InvalidInput(f"{network.height} x {network.width}: 16 x 16 is the least that can be described")
        if not 0 < self.known <= self.described:
            least, most = network.embedding_dim + 1, network.embedding_dim + self.described
            raise InvalidInput(f"embedding_dim={self.embedding_dim} must be from {least} to {most} with this network")

    @property
    def known(self) -> int:
        """K, the width of the description's part."""
        return self.embedding_dim - self.network.embedding_dim

    @property
    def described(self) -> int:
        """F, the numbers of the description."""
        network = self.network
        if isinstance(network, SpeechEncoderConfig):
            return CEPSTRAL_STATISTICS
        colours = COLOURS if isinstance(network, ConvEncoderConfig) and network.channels == 3 else 0
        return 36 * (network.height // self.cell - 1) * (network.width // self.cell - 1) + colours

    @property
    def cell(self) -> int:
        """The side of the histograms' cells in pixels: a drawing network's own, else 8 for pictures of up to 71."""
        network = self.network
        if isinstance(network, DrawingEncoderConfig):
            return network.cell
        return max(_CELL, min(network.height, network.width) // _CELLS) if isinstance(network, ConvEncoderConfig) else 0

    @property
    def mirrored(self) -> bool:
        """Whether the description is of picture and mirror image, as the network's vectors are."""
        return isinstance(self.network, ConvEncoderConfig) and self.network.flip_test

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the network takes samples of this shape."""
        return self.network.takes(shape)

    def with_embedding_dim(self, embedding_dim: int) -> DescribedConfig:
        """The same with another width of the embedding: half of it the description's, as far as that goes.

        Raises:
            InvalidInput: A width out of range, or too little for the network.
        """
        least, most = _LIMITS["embedding_dim"]
        if type(embedding_dim) is not int or not least <= embedding_dim <= most:
            raise InvalidInput(f"embedding_dim={embedding_dim!r} must be a whole number from {least} to {most}")
        if embedding_dim == self.embedding_dim:
            return self
        known = min(embedding_dim // 2, self.described)
        try:
            network = self.network.with_embedding_dim(embedding_dim - known)
        except InvalidInput as error:
            raise InvalidInput(
                f"embedding_dim={embedding_dim}: half of it is the description's, and {error}"
            ) from error
        return replace(self, network=network, embedding_dim=embedding_dim)

    def build(self) -> DescribedEncoder:
        """The encoder, freshly initialised from torch's global generator; its map is not fitted."""
        return DescribedEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the kind of encoder that it is for."""
        return write_config(self) | {"network": self.network.to_json()} | self._colours()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DescribedConfig:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: A key that is missing or unknown, or a value out of range.
        """
        network = values.get("network")
        kinds = {each.kind: each for each in (ConvEncoderConfig, DrawingEncoderConfig, SpeechEncoderConfig)}
        if not isinstance(network, Mapping) or network.get("kind") not in kinds:
            raise InvalidInput(f"encoder: network must be one of {', '.join(kinds)}")
        own = {key: value for key, value in values.items() if key != _COLOURS}
        config = read_config(cls, {**own, "network": read_config(kinds[network["kind"]], network)})
        if {key: values[key] for key in (_COLOURS,) if key in values} != config._colours():
            raise InvalidInput("encoder: of a version that described the colours of pictures otherwise; train it again")
        return config

    def _colours(self) -> dict[str, str]:
        """How colours are described, where there are any; the first runs, which had a thumbnail, do not say it."""
        coloured = isinstance(self.network, ConvEncoderConfig) and self.network.channels == 3
        return {_COLOURS: "histogram"} if coloured else {}


@final
class Description(nn.Module):
    """Map samples to unit vectors [B, K] by what can be said of them without a network.

    Attributes:
        middle: The description's mean over the training samples [F].
        known: What the description is multiplied by [F, K]; zeros until it is fitted.
    """

    middle: torch.Tensor
    known: torch.Tensor

    def __init__(self, config: DescribedConfig) -> None:
        super().__init__()
        self.mirrored, self.cell = config.mirrored, config.cell
        self.register_buffer("middle", torch.zeros(config.described))
        self.register_buffer("known", torch.zeros(config.described, config.known))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, K]."""
        return nn.functional.normalize((self.describe(x) - self.middle) @ self.known, dim=1)

    def describe(self, x: torch.Tensor) -> torch.Tensor:
        """The description itself [B, F], float32, without a gradient."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if x.ndim == 3:
                return cepstral_statistics(x[:, 0])
            x_BCHW = x.float()
            described_BF = _picture(x_BCHW, self.cell)
            return described_BF + _picture(x_BCHW.flip(3), self.cell) if self.mirrored else described_BF


@final
class DescribedEncoder(nn.Module):
    """Map samples (float, as the front end normalises them) to unit vectors: [B, N] in training, [B, D] in use.

    Args:
        config: Its shape.

    Attributes:
        network: Gives [B, N].
        description: Gives [B, K].
        share: Of the similarity, what comes from the description, 0 to 1.
        whitening: What the network's vectors in use are multiplied by [N, N]; the identity until it is fitted.
    """

    share: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, config: DescribedConfig) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build()
        self.description = Description(config)
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("whitening", torch.eye(config.network.embedding_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, N] in training, [B, D] in use."""
        network_BN: torch.Tensor = self.network(x)
        if self.training:
            return network_BN
        with torch.autocast(x.device.type, enabled=False):
            network_BN = nn.functional.normalize(network_BN.float() @ self.whitening, dim=1)
            parts = ((1 - self.share).sqrt() * network_BN, self.share.sqrt() * self.description(x))
            return nn.functional.normalize(torch.cat(parts, dim=1), dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As of every module; weights from before there was a whitening have none."""
        missing = {} if f"{prefix}whitening" in state_dict else {f"{prefix}whitening": torch.eye(len(self.whitening))}
        super()._load_from_state_dict({**state_dict, **missing}, prefix, *args)

    def as_trained(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        """The network's unit vectors [B, N] as the loss saw them, of vectors in use."""
        white_BN = vectors_BD[:, : len(self.whitening)]
        return nn.functional.normalize(torch.linalg.solve(self.whitening, white_BN, left=False), dim=1)


def learning_part(encoder: nn.Module) -> nn.Module:
    """What of an encoder gives the vectors that the loss sees: the network, where a description stands beside it."""
    return encoder.network if isinstance(encoder, DescribedEncoder) else encoder


def fit_description(
    described_MF: npt.NDArray[np.float32], labels_M: npt.NDArray[np.int64], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle [F] and the map [F, K] for the descriptions of training samples.

    The covariance of the samples gives R = min(K, rank) principal directions P. The map is P W^(-1/2), W being the
    covariance within identities along them as `fit_whitening` has it, with zeros for what is missing to K columns.

    Cost: O(M F G), with G the lesser of M and F, in float64. Source: Hatch, Kajarekar and Stolcke, Within-class
    covariance normalization for SVM-based speaker recognition, Interspeech 2006.

    Args:
        described_MF: Descriptions of the training samples.
        labels_M: Whose they are.
        width: K.
    """
    middle_F = described_MF.mean(axis=0, dtype=np.float64)
    x_MF = described_MF - middle_F
    map_FR = _principal(x_MF, width)
    map_FK = np.zeros((len(middle_F), width))
    map_FK[:, : map_FR.shape[1]] = map_FR @ _inverse_root(_within(x_MF @ map_FR, labels_M))
    return torch.from_numpy(middle_F).float(), torch.from_numpy(map_FK).float()


def fit_whitening(x_MN: npt.NDArray[np.float32], labels_M: npt.NDArray[np.int64]) -> torch.Tensor:
    """A = ((I + c W^-1) / 2)^(1/2) [N, N], by which a direction counts the less, the more identities differ within it.

    So of two vectors' product x A A y half is theirs as they are, and half is theirs whitened, c being such that both
    have the training samples as long. With the whitened half alone recall@1 rises further, and on some data the EER
    does, too (docs/log.md). W is the covariance within identities: the mean of the identities' own, each
    counting alike however many samples it has, plus a tenth of its mean variance in every direction. The mean of the
    samples stays where it is: a network's vectors lie around the origin as the loss wants them to.

    Of vectors without a length, as a network that has died gives them, it is the identity.

    Cost: O(M N^2 + N^3), in float64. Source: as for `fit_description`.

    Args:
        x_MN: The network's unit vectors of the training samples.
        labels_M: Whose they are.
    """
    wide_MN = x_MN.astype(np.float64)
    root_NN = _inverse_root(_within(wide_MN, labels_M))
    length = np.square(wide_MN @ root_NN).sum(axis=1).mean()
    if not length > 0:
        return torch.eye(len(root_NN))
    white_NN = root_NN @ root_NN / length
    weight_N, turn_NN = np.linalg.eigh((np.eye(len(root_NN)) + white_NN) / 2)
    return torch.from_numpy((turn_NN * np.sqrt(weight_N)) @ turn_NN.T).float()


def _principal(x_MF: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """The directions [F, R] in which centred samples differ, those in which they differ most first."""
    samples, width = x_MF.shape
    few = samples < width  # x^T x and x x^T have the same eigenvalues; the smaller one has them sooner
    gram = (x_MF @ x_MF.T if few else x_MF.T @ x_MF) / samples
    variance_G, vectors_GG = np.linalg.eigh(gram)
    kept = min(most, int((variance_G > 1e-9 * max(variance_G[-1], 1e-30)).sum()))
    variance_R, vectors_GR = variance_G[::-1][:kept], vectors_GG[:, ::-1][:, :kept]
    return x_MF.T @ (vectors_GR / np.sqrt(samples * variance_R)) if few else vectors_GR


def _within(x_MR: npt.NDArray[np.float64], labels_M: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The covariance within identities [R, R], each identity counting alike."""
    _, identity_M, count_I = np.unique(labels_M, return_inverse=True, return_counts=True)
    sum_IR = np.zeros((len(count_I), x_MR.shape[1]))
    np.add.at(sum_IR, identity_M, x_MR)
    several_M = count_I[identity_M] > 1
    apart_MR = (x_MR - (sum_IR / count_I[:, None])[identity_M])[several_M]
    apart_MR /= np.sqrt(count_I[identity_M][several_M] - 1)[:, None]
    within_RR: npt.NDArray[np.float64] = apart_MR.T @ apart_MR / max(1, (count_I > 1).sum())
    return within_RR


def _inverse_root(within_RR: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse root of a covariance and a tenth of its mean variance; the identity where it is zero."""
    floor = _SHRINKAGE * np.trace(within_RR) / max(len(within_RR), 1)
    if not floor > 0:  # all samples of each identity are the same, and there is nothing to divide by
        return np.eye(len(within_RR))
    spread_R, turn_RR = np.linalg.eigh(within_RR + floor * np.eye(len(within_RR)))
    root_RR: npt.NDArray[np.float64] = (turn_RR / np.sqrt(spread_R)) @ turn_RR.T
    return root_RR


def _picture(x_BCHW: torch.Tensor, cell: int) -> torch.Tensor:
    shapes_BF = oriented_gradients(x_BCHW.mean(dim=1), cell=cell)
    if x_BCHW.shape[1] != 3:
        return shapes_BF
    return torch.cat([_SHAPES * shapes_BF, colour_histogram(x_BCHW)], dim=1)
