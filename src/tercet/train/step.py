"""The gradient of one global batch, however it is computed: in W processes, each in C chunks.

Let E(w) [B, D] be the embeddings of all B rows and L(E) the loss, which sees all of them: every mining mode, every
reduction, a memory beside. By the chain rule, with rows divided in any way into parts p,

    dL/dw = sum over p of  (dE_p / dw)^T  (dL/dE)_p

so a step is

    1. each process embeds its share of the rows, chunk by chunk; with several chunks it keeps no graph
    2. the shares are gathered: every process has E
    3. every process computes L(E) and dL/dE: the same numbers everywhere
    4. each process takes the rows (dL/dE)_p of each of its chunks back through the encoder; with several chunks it
       embeds the chunk again, with the same draws
    5. the parameters' gradients are summed over the processes

There is no factor anywhere: nothing is averaged, so nothing has to be scaled back. That is why the encoder is not
wrapped in DistributedDataParallel, which divides by W and exchanges gradients in each backward pass, once a chunk; and
why the gather carries no gradient of its own: the derivative of all that follows is taken once, at E, in step 3. A
process without rows (B < W) takes part in the exchanges and adds zero. A loss with parameters of its own has their
whole gradient in every process: they are not summed.

This holds where a row's embedding does not depend on the other rows: batch normalisation in training mode does, so a
step that is divided has it use its stored statistics (`hold_batch_norm`). Draws inside the encoder (dropout) follow
the seed, the step and the first row of the chunk; another division draws others.

Cost: one more forward pass where a process has several chunks, and the activations of one chunk at a time. Bytes, with
P parameters: docs/scaling.md.

Source of the chunks: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache),
RepL4NLP 2021. Legend: B rows, S rows of a share, D embedding width, W processes, C chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import final

import torch
from torch import Tensor, nn

from tercet.errors import InvalidInput
from tercet.train.ranks import Ranks
from tercet.train.stopwatch import Stopwatch

__all__ = ["DividedStep", "hold_batch_norm"]


@final
class DividedStep:
    """Takes gradients of global batches; holds how they are divided.

    Args:
        forward: The encoder's forward pass: the module itself, or a compiled form of it.
        encoder: The module with the parameters.
        ranks: The processes.
        chunk: Rows that go through the encoder at once; None: the whole share.
        autocast: Makes the context of the forward passes: mixed precision.
        watch: Counts the time in the encoder.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        encoder: nn.Module,
        ranks: Ranks,
        *,
        chunk: int | None = None,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
        watch: Stopwatch | None = None,
    ) -> None:
        self.forward, self.encoder, self.ranks, self.chunk = forward, encoder, ranks, chunk
        self.autocast = autocast
        self.watch = watch or Stopwatch(ranks.device)

    def is_divided(self, rows: int) -> bool:
        """Whether a batch of so many rows is computed in more than one part."""
        return self.ranks.size > 1 or len(self._chunks(rows)) > 1

    def backward(
        self,
        part: Callable[[slice], Tensor],
        rows: int,
        objective: Callable[[Tensor], Tensor],
        *,
        seed: Callable[[int], int],
        scaled: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Add dL/dw to the gradients of the encoder's parameters, in every process.

        Args:
            part: rows of the batch -> the network's input for them; the same whenever it is asked.
            rows: B.
            objective: E [B, D] -> L, the same in every process: its draws follow the seed of row 0, which is set.
            seed: first row of a chunk -> the seed of the draws in it.
            scaled: L -> the number whose gradient is taken; None: L itself.

        Returns:
            E [B, D], at least float32, and L; without graphs.

        Raises:
            InvalidInput: What `objective` raises: in every process, and before any gradient is there.
        """
        chunks = self._chunks(rows)
        keep = len(chunks) == 1
        kept: list[Tensor] = []
        with torch.set_grad_enabled(keep):
            for chunk in chunks:
                kept.append(self._embed(part(chunk), seed(chunk.start)))
        x_SD = torch.cat([x.detach() for x in kept]) if kept else self._nothing()
        x_BD = self.ranks.gather(x_SD, rows).requires_grad_()
        self._seed(seed(0))
        loss = objective(x_BD)
        (loss if scaled is None else scaled(loss)).backward()  # type: ignore[no-untyped-call]
        dx_BD = torch.zeros_like(x_BD) if x_BD.grad is None else x_BD.grad
        for chunk in chunks:
            x_CD = kept.pop() if keep else self._embed(part(chunk), seed(chunk.start))
            with self.watch:
                x_CD.backward(dx_BD[chunk])  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(self.encoder.parameters())
        return x_BD.detach(), loss.detach()

    @torch.no_grad()
    def embed(self, part: Callable[[slice], Tensor], rows: int, encoder: nn.Module) -> Tensor:
        """E [B, D] of another encoder of the same kind, divided in the same way, without a gradient."""
        parts = []
        for chunk in self._chunks(rows):
            x = part(chunk)
            with self.autocast():
                parts.append(_at_least_single(encoder(x)))
        return self.ranks.gather(torch.cat(parts) if parts else self._nothing(), rows)

    def _embed(self, x: Tensor, seed: int) -> Tensor:
        self._seed(seed)
        # One context for each pass: it keeps the weights that it has cast, with or without their graph.
        with self.watch, self.autocast():
            x_CD = self.forward(x)
        return _at_least_single(x_CD)

    def _seed(self, seed: int) -> None:
        if self.ranks.device.type == "cpu":
            # On a machine without a GPU `torch.manual_seed` notes the whole call stack each time.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _chunks(self, rows: int) -> list[slice]:
        own = self.ranks.share(rows)
        step = self.chunk or max(1, own.stop - own.start)
        return [slice(start, min(start + step, own.stop)) for start in range(own.start, own.stop, step)]

    def _nothing(self) -> Tensor:
        """An empty share."""
        like = next(self.encoder.parameters())
        return _at_least_single(like.detach().new_empty(0, 0))


def hold_batch_norm(encoder: nn.Module) -> tuple[str, ...]:
    """Have batch-normalisation layers use their stored statistics; returns the names of those that did not yet.

    With the statistics of a chunk or share instead, the gradient would be that of another function: another one for
    each number of processes.

    Raises:
        InvalidInput: A layer keeps no statistics that it could use.
    """
    changed = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if not module.track_running_stats:
                raise InvalidInput(f"encoder: layer {name} normalises by the batch alone, so a batch cannot be divided")
            if module.training:
                module.eval()
                changed.append(name)
    return tuple(changed)


def _at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
