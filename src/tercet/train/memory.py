"""The memory bank: embeddings of past batches that the anchors of this one are compared with.

    reference = the rows of this batch, with their gradient  +  the rows of the bank, without one

A sample stands in the reference once, in its newest embedding: rows of samples that are in the batch are left out, and
a sample that comes again replaces its older row. Rows are kept in the order in which they came, which is the order of
the batches and so the same in every process; the oldest leave when the bank is full, or too old.

Embeddings drift while the encoder learns. Against that there are an age beyond which rows do not count, a number of
steps before the bank is used at all, and a momentum encoder, whose weights follow the trained ones slowly and which
then makes the bank's rows (at the cost of another forward pass).

Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020; momentum: He et al., "Momentum Contrast",
CVPR 2020. Legend: B rows of the batch, M rows of the bank, D embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from tercet.encoders import learning_part
from tercet.losses import TripletLoss

__all__ = ["MemoryBank"]


@final
class MemoryBank:
    """The bank of one training.

    Args:
        encoder: What is trained; copied where there is a momentum encoder.
        rows: How many rows the bank has, M.
        age: Steps after which a row does not count any more; None: no limit.
        warmup: Steps before the bank is used; it fills from the first.
        momentum: What the momentum encoder keeps of its weights at each step, 0 to below 1; None: there is none.
    """

    def __init__(
        self, encoder: nn.Module, *, rows: int, age: int | None = None, warmup: int = 0, momentum: float | None = None
    ) -> None:
        self.rows, self.age, self.warmup, self.momentum = rows, age, warmup, momentum
        self.follower = None if momentum is None else _frozen(encoder)
        self._device = next(encoder.parameters()).device
        self.clear(encoder)

    def clear(self, encoder: nn.Module) -> None:
        """Forget all rows, and have the momentum encoder begin at these weights: the others lead nowhere."""
        self._x_MD: Tensor | None = None
        empty = torch.zeros(0, dtype=torch.int64, device=self._device)
        self._labels_M, self._samples_M, self._steps_M = empty, empty, empty
        if self.follower is not None:
            self.follower.load_state_dict(learning_part(encoder).state_dict())

    def __len__(self) -> int:
        return len(self._labels_M)

    def loss(self, criterion: TripletLoss, x_BD: Tensor, labels_B: Tensor, samples_B: Tensor, step: int) -> Tensor:
        """The loss of a batch whose positives and negatives come from the batch and the bank.

        Args:
            criterion: The loss.
            x_BD: Embeddings.
            labels_B: Their identities.
            samples_B: Which samples they are, so that the bank's rows of the same ones are left out.
            step: The number of this step.
        """
        counts_M = ~torch.isin(self._samples_M, samples_B)
        if self.age is not None:
            counts_M &= step - self._steps_M <= self.age
        if self._x_MD is None or step < self.warmup or not bool(counts_M.any()):
            alone: Tensor = criterion(x_BD, labels_B)
            return alone
        loss: Tensor = criterion(
            x_BD,
            labels_B,
            torch.cat([x_BD, self._x_MD[counts_M].to(x_BD)]),
            torch.cat([labels_B, self._labels_M[counts_M]]),
            anchor_rows=torch.arange(len(x_BD), device=x_BD.device),
        )
        return loss

    def add(self, x_BD: Tensor, labels_B: Tensor, samples_B: Tensor, step: int) -> None:
        """Take in a batch: the newest rows, in its order."""
        old = ~torch.isin(self._samples_M, samples_B)
        before_MD = x_BD[:0] if self._x_MD is None else self._x_MD[old]
        last = slice(-self.rows, None)
        self._x_MD = torch.cat([before_MD, x_BD.detach()])[last].clone()
        self._labels_M = torch.cat([self._labels_M[old], labels_B])[last]
        self._samples_M = torch.cat([self._samples_M[old], samples_B])[last]
        self._steps_M = torch.cat([self._steps_M[old], torch.full_like(samples_B, step)])[last]

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Move the momentum encoder, where there is one, towards the trained one."""
        if self.follower is None or self.momentum is None:
            return
        encoder = learning_part(encoder)
        for slow, now in zip(self.follower.parameters(), encoder.parameters(), strict=True):
            slow.lerp_(now.detach(), 1 - self.momentum)
        for slow_buffer, buffer in zip(self.follower.buffers(), encoder.buffers(), strict=True):
            slow_buffer.copy_(buffer)

    def tensors(self) -> dict[str, Tensor]:
        """All of the state."""
        state = {"labels": self._labels_M, "samples": self._samples_M, "steps": self._steps_M}
        if self._x_MD is not None:
            state["rows"] = self._x_MD
        if self.follower is not None:
            state |= {f"follower.{name}": tensor for name, tensor in self.follower.state_dict().items()}
        return state

    def set_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `tensors` was taken; KeyError or RuntimeError where that does not fit."""
        self._labels_M, self._samples_M, self._steps_M = (
            state[name].to(self._device) for name in ("labels", "samples", "steps")
        )
        self._x_MD = state["rows"].to(self._device) if "rows" in state else None
        if self.follower is not None:
            names = self.follower.state_dict()
            self.follower.load_state_dict({name: state[f"follower.{name}"] for name in names})


def _frozen(encoder: nn.Module) -> nn.Module:
    """A copy that embeds as the encoder does in training, but without dropout."""
    return copy.deepcopy(learning_part(encoder)).eval().requires_grad_(False)
