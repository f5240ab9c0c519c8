"""For users' own test suites: is the gradient of a divided batch the gradient of the batch?"""

from __future__ import annotations

import copy
import datetime
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from tercet.errors import InvalidInput, RunError
from tercet.run.files import read_tensors, write_tensors
from tercet.train.ranks import Ranks
from tercet.train.step import DividedStep

__all__ = ["Equivalence", "assert_equivalent"]

_TOLERANCES: Final = {torch.float64: 1e-12, torch.float32: 1e-5}
_LEAST: Final = (
    1e-2  # of the whole gradient: a parameter whose own is smaller, by design zero, is measured against that
)
_LOSS: Final = "loss"


@final
@dataclass(frozen=True, slots=True)
class Equivalence:
    """How far a divided gradient is from the undivided one.

    Args:
        loss_error: Of the loss, relative.
        gradient_error: Of the parameter that is furthest off: norm of the difference over norm of the gradient.
        worst: The name of that parameter.
        tolerance: What was allowed of both.
    """

    loss_error: float
    gradient_error: float
    worst: str
    tolerance: float


def assert_equivalent(
    encoder: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    processes: int = 2,
    chunk: int | None = None,
    dtype: torch.dtype | None = torch.float64,
    tolerance: float | None = None,
    timeout_s: float = 120.0,
) -> Equivalence:
    """See that W processes with chunks of C rows find the loss and the gradients of one batch in one process.

    One process takes `loss(encoder(inputs), labels).backward()`, as plain as that. Then `processes` of them, over gloo
    on this machine's CPU, do a step as `tercet train` does it (`tercet.train.step`), each with its share of the rows.
    Every process must come to the same numbers.

    What makes it fail: an encoder in which rows depend on each other (batch normalisation in training mode) or that
    draws (dropout). Put such layers into evaluation mode first, or see how much they change.

    In a script, call it under `if __name__ == "__main__":`; the processes import the script anew.

    Args:
        encoder: Inputs [B, ...] -> embeddings [B, D]. It is copied; its classes must be importable.
        loss: (embeddings [B, D], labels [B]) -> a number, such as a `tercet.TripletLoss`. Importable too. Its draws
            from torch's generator begin at seed 0.
        inputs: A batch, [B, ...].
        labels: Its identities, [B].
        processes: W; 1 for chunks alone.
        chunk: Rows that go through the encoder at once; None: a process's whole share.
        dtype: What encoder and floating inputs are converted to; float64 leaves no doubt. None: as they are.
        tolerance: Largest relative error of the loss and of each parameter's gradient; None: 1e-12 in float64, 1e-5
            in float32.
        timeout_s: For the processes together.

    Returns:
        The errors.

    Raises:
        AssertionError: They are larger; the message names the parameter that is furthest off.
        InvalidInput: Numbers out of range, or an encoder or loss that cannot be sent to another process.
        RunError: A process failed or took too long.

    >>> import torch, tercet
    >>> from tercet.testing import assert_equivalent
    >>> encoder = torch.nn.Linear(6, 4)
    >>> found = assert_equivalent(
    ...     encoder, tercet.TripletLoss(), torch.randn(10, 6), torch.arange(10) // 2, processes=1, chunk=3
    ... )
    >>> found.gradient_error < 1e-12
    True
    """
    if processes < 1 or (chunk is not None and chunk < 1):
        raise InvalidInput(f"processes, chunk: must be 1 or more, got {processes} and {chunk}")
    if len(inputs) != len(labels) or not len(labels):
        raise InvalidInput(f"labels: {len(labels)} of them for {len(inputs)} inputs")
    encoder, loss = copy.deepcopy(encoder).cpu(), copy.deepcopy(loss)
    if dtype is not None:
        encoder = encoder.to(dtype)
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    if tolerance is None:
        tolerance = _TOLERANCES.get(next(encoder.parameters()).dtype, 1e-2)
    case = _Case(encoder, loss, inputs.detach().cpu(), labels.detach().cpu(), chunk)
    whole = case.undivided()
    parts = [case.divided()] if processes == 1 else _in_processes(case, processes, timeout_s)
    found = max((_errors(whole, part, tolerance) for part in parts), key=lambda e: max(e.loss_error, e.gradient_error))
    if not (found.loss_error <= tolerance and found.gradient_error <= tolerance):
        raise AssertionError(
            f"{processes} processes with chunk {chunk} do not give the gradient of the whole batch: relative error "
            f"{found.gradient_error:.2g} at {found.worst}, {found.loss_error:.2g} of the loss; allowed {tolerance:.2g}"
            + _suspects(encoder)
        )
    return found


@final
@dataclass(frozen=True)
class _Case:
    """What is compared."""

    encoder: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    labels: Tensor
    chunk: int | None

    def undivided(self) -> dict[str, Tensor]:
        """The loss and the gradients of the whole batch, by nothing but autograd."""
        encoder, loss = copy.deepcopy(self.encoder), copy.deepcopy(self.loss)
        torch.manual_seed(0)
        embeddings = encoder(self.inputs)
        torch.manual_seed(0)
        value = loss(embeddings, self.labels)
        value.backward()  # type: ignore[no-untyped-call]
        return _found(encoder, loss, value)

    def divided(self) -> dict[str, Tensor]:
        """The same by this process's part of a divided step."""
        encoder, loss = copy.deepcopy(self.encoder), copy.deepcopy(self.loss)
        step = DividedStep(encoder, encoder, Ranks(), chunk=self.chunk)
        _, value = step.backward(
            lambda rows: self.inputs[rows],
            len(self.labels),
            lambda x_BD: loss(x_BD, self.labels),
            seed=lambda row: row,
        )
        return _found(encoder, loss, value)


def _found(encoder: nn.Module, loss: Any, value: Tensor) -> dict[str, Tensor]:
    parts = {"encoder": encoder} | ({"loss": loss} if isinstance(loss, nn.Module) else {})
    gradients = {
        f"{part}.{name}": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }
    return gradients | {_LOSS: value.detach().double()}


def _errors(whole: dict[str, Tensor], part: dict[str, Tensor], tolerance: float) -> Equivalence:
    whole, part = ({name: tensor.double() for name, tensor in found.items()} for found in (whole, part))
    names = [name for name in whole if name != _LOSS]
    total = torch.cat([whole[name].flatten() for name in names]).norm()
    errors = {
        name: float((part[name] - whole[name]).norm() / max(whole[name].norm(), _LEAST * total, torch.tensor(1e-300)))
        for name in names
    }
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    loss_error = abs(part[_LOSS] - whole[_LOSS]) / max(abs(whole[_LOSS]), torch.tensor(1e-300))
    return Equivalence(float(loss_error), errors[worst], worst, tolerance)


def _in_processes(case: _Case, processes: int, timeout_s: float) -> list[dict[str, Tensor]]:
    try:
        pickle.dumps(case)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInput(f"encoder, loss: cannot be sent to another process ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, torch.get_num_threads() // processes)
        started = spawn(  # type: ignore[no-untyped-call]
            _work, (case, processes, folder, threads, timeout_s), nprocs=processes, join=False
        )
        end = time.monotonic() + timeout_s
        try:
            while not started.join(timeout=max(0.0, end - time.monotonic())):
                if time.monotonic() >= end:
                    raise RunError(f"processes: not done within {timeout_s:g} s")
        except ProcessException as error:
            raise RunError(f"processes: {str(error).strip().splitlines()[-1]}") from error
        finally:
            for process in started.processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        return [read_tensors(Path(folder) / f"{rank}.safetensors") for rank in range(processes)]


def _work(rank: int, case: _Case, processes: int, folder: str, threads: int, timeout_s: float) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    try:
        write_tensors(Path(folder) / f"{rank}.safetensors", case.divided())
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _suspects(encoder: nn.Module) -> str:
    """Which layers make it so, as far as their kind tells."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    names = [name for name, module in encoder.named_modules() if isinstance(module, kinds) and module.training]
    return f"; in training mode are {', '.join(names[:5])}, which see other rows or draw" if names else ""
