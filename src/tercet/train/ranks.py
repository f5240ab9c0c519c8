"""The processes of a training: which rows each of them computes, and what they tell each other.

    torchrun / accelerate launch starts W processes -> `accelerate` joins them -> `Ranks` is all that the training sees

Process r of W has its share of each batch: a run of rows, B / W of them, one more in the first B mod W processes, and
none in the last ones where B < W. Everything else (sampler, loss, doctor, optimiser) is the same in each process,
computed from the same numbers; so one step takes two exchanges, of embeddings and of gradients, and two of a few bytes.

One process is the case W = 1, in which nothing is exchanged.

Legend: B rows of the batch, S rows of this process's share, D embedding width, W processes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tercet.errors import RunError, TercetError

__all__ = ["FailedInFirst", "Ranks", "is_first", "share"]

_BUCKET: Final = 16 * 2**20  # elements that are summed over the processes at once
_T = TypeVar("_T")


@final
class FailedInFirst(RunError):
    """What the first process alone did has failed; it says why itself."""


def is_first() -> bool:
    """Whether this process is the one that writes and prints; known before torch is imported."""
    return os.environ.get("RANK", "0") == "0"


def share(rows: int, rank: int, size: int) -> slice:
    """The rows of a batch that process `rank` of `size` computes.

    >>> [share(10, rank, 4) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    each, over = divmod(rows, size)
    start = rank * each + min(rank, over)
    return slice(start, start + each + (rank < over))


@final
class Ranks:
    """This process among those of its group; alone where there is no group.

    Args:
        device: Where the tensors are that are exchanged.

    Raises:
        RunError: From every method: another process has gone, or did not answer in the group's time.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.device = torch.device(device)
        self.size = dist.get_world_size() if joined else 1
        self.rank = dist.get_rank() if joined else 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """The rows of a batch that this process computes."""
        return share(rows, self.rank, self.size)

    def gather(self, x_SD: Tensor, rows: int) -> Tensor:
        """The whole [B, D] from the shares of all, in the order of the rows; no gradient passes.

        Receives (W - 1) ceil(B / W) D numbers.

        Args:
            x_SD: This process's share; D of an empty one does not matter.
            rows: B.
        """
        if self.size == 1:
            return x_SD
        width = x_SD.shape[1]
        if rows < self.size:
            width = int(self._greatest([float(width) if len(x_SD) else 0.0])[0])
        most_SD = x_SD.new_zeros(-(-rows // self.size), width)
        if len(x_SD):
            most_SD[: len(x_SD)] = x_SD
        parts = [torch.empty_like(most_SD) for _ in range(self.size)]
        self._together(dist.all_gather, parts, most_SD)
        shares = (share(rows, rank, self.size) for rank in range(self.size))
        return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each parameter's gradient by its sum over the processes: the same bits in all of them.

        A parameter without a gradient in any process is left without one, so that the optimiser passes over it.
        """
        if self.size == 1:
            return
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        here = torch.tensor([parameter.grad is not None for parameter in wanted], dtype=torch.uint8).to(self.device)
        self._together(dist.all_reduce, here, dist.ReduceOp.MAX)
        summed = [parameter for parameter, some in zip(wanted, here.tolist(), strict=True) if some]
        for bucket in _buckets(summed):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([parameter.grad.flatten() for parameter in bucket if parameter.grad is not None])
            self._together(dist.all_reduce, flat, dist.ReduceOp.SUM)
            parts = torch.split(flat, [parameter.numel() for parameter in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(part.view_as(parameter))

    def agreed(self, seconds: float, asked: bool) -> tuple[float, bool]:
        """The longest of the clocks, and whether anybody asked: what depends on the process, made the same in all."""
        if self.size == 1:
            return seconds, asked
        longest, anybody = self._greatest([seconds, float(asked)])
        return longest, anybody > 0

    def as_first(self, values: Sequence[float]) -> list[float]:
        """The first process's numbers; all give as many."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64).to(self.device)
        self._together(dist.broadcast, told, 0)
        return [float(value) for value in told.tolist()]

    def by_first(self, work: Callable[[], _T]) -> _T | None:
        """Have the first process alone do something while the others wait; they get None.

        Raises:
            TercetError: What it raised there.
            FailedInFirst: The same, in the others.
        """
        result, failure = None, None
        if self.first:
            try:
                result = work()
            except TercetError as error:
                failure = error
        if self.size > 1:
            told: list[str | None] = [None if failure is None else str(failure)]
            self._together(dist.broadcast_object_list, told, 0, None, self.device)
            if told[0] is not None and not self.first:
                raise FailedInFirst(told[0])
        if failure is not None:
            raise failure
        return result

    def require_equal(self, what: str, tensors: Iterable[Tensor], *, texts: Iterable[str] = ()) -> None:
        """See that the processes hold the same bits.

        Raises:
            RunError: They do not; `what` names it.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        for text in texts:
            digest.update(text.encode(errors="backslashreplace"))
        mark = float(int.from_bytes(digest.digest()[:6], "big"))  # exact in float64
        most, least = self._greatest([mark, -mark])
        if most != -least:
            raise RunError(f"{what} differ between the processes of this training; it cannot go on")

    def _greatest(self, values: Sequence[float]) -> list[float]:
        told = torch.tensor(values, dtype=torch.float64).to(self.device)
        self._together(dist.all_reduce, told, dist.ReduceOp.MAX)
        return [float(value) for value in told.tolist()]

    def _together(self, operation: Callable[..., Any], *arguments: Any) -> None:
        try:
            operation(*arguments)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(
                f"process {self.rank} of {self.size}: another process of this training has gone or does not answer "
                f"({reason}); go on from the last checkpoint with --resume"
            ) from error


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """The parameters in the same order, in lists of one dtype and about one size."""
    for _, alike in itertools.groupby(parameters, key=lambda parameter: parameter.dtype):
        bucket: list[nn.Parameter] = []
        for parameter in alike:
            bucket.append(parameter)
            if sum(each.numel() for each in bucket) >= _BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket
