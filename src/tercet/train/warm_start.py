"""The warm start: for the first steps a softmax over the identities instead of triplets.

To a network that knows nothing yet all triplets are alike, and hard ones take it to one point. Naming the identity of
each sample has no such way out: no point is right for all of them. So some steps of that come first,

    loss = mean over rows of  -log softmax_c(16 <x, w_c>)  at the row's identity,  x and w_c made of unit length

and then the w_c have served. A step costs O(B C D) more, and they stand with the moments of AdamW in memory and in
the checkpoints: 3 C D numbers. Source of the loss: Wang et al., "NormFace", ACM Multimedia 2017.

Legend: B rows of the batch, R of them with an identity, C identities, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["WarmStart"]

_SCALE: Final = 16.0


@final
class WarmStart(nn.Module):
    """A vector for each identity of the training, and the loss that pulls its samples to it.

    Args:
        labels: Of the training's rows, any number of each; below 0: of no identity.
        width: D.
        seed: Of the first vectors.
        device: Where they are.
    """

    labels_C: Tensor

    def __init__(self, labels: npt.NDArray[np.int64], width: int, *, seed: int, device: torch.device) -> None:
        super().__init__()
        known = torch.from_numpy(np.unique(labels[labels >= 0])).to(device)
        self.register_buffer("labels_C", known, persistent=False)
        self._seed = seed
        self.weight_CD = nn.Parameter(torch.empty(len(known), width, device=device))
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Begin with the first vectors again."""
        count, width = self.weight_CD.shape
        drawn_CD = torch.randn(count, width, generator=torch.Generator().manual_seed(self._seed))
        self.weight_CD.copy_(drawn_CD / width**0.5)

    def forward(self, x_BD: Tensor, labels_B: Tensor) -> Tensor:
        """The loss of a batch; rows with a label below 0 do not count, all others are of the training."""
        named_R = labels_B >= 0
        x_RD = nn.functional.normalize(x_BD[named_R], dim=1)
        scores_RC = _SCALE * x_RD @ nn.functional.normalize(self.weight_CD, dim=1).T
        own_R = torch.searchsorted(self.labels_C, labels_B[named_R])
        return nn.functional.cross_entropy(scores_RC, own_R, reduction="sum") / max(len(own_R), 1)

    def tensors(self) -> dict[str, Tensor]:
        """All of the state."""
        return {"weight": self.weight_CD.detach()}

    @torch.no_grad()
    def set_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `tensors` was taken."""
        self.weight_CD.copy_(state["weight"])
