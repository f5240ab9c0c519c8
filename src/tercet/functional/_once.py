"""A gradient that refuses to be differentiated: the fast paths have no second derivative."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from tercet.errors import InvalidOption

__all__ = ["once"]


class _Once(torch.autograd.Function):
    """Passes a gradient on, and refuses to be differentiated: the fast path has no second derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, *_inputs: Tensor) -> Tensor:
        same: Tensor = gradient.clone()
        return same

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        raise InvalidOption(
            "tercet's losses have a first derivative only (double backward was asked for); "
            "tercet.functional.reference has every derivative, at the cost of plain loops"
        )


def once(gradient: Tensor, *inputs: Tensor) -> Tensor:
    """`gradient`; where a graph of the backward pass is recorded, with a clear refusal of a second derivative."""
    if not torch.is_grad_enabled():
        return gradient
    result: Tensor = _Once.apply(gradient, *inputs)  # type: ignore[no-untyped-call]
    return result
