"""What a training runs on: the device and the processes (accelerate), mixed precision, trackers.

A training that torchrun or `accelerate launch` has started joins the other processes here, and leaves them at the end.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from tercet.errors import MissingExtra
from tercet.train.ranks import Ranks

__all__ = ["REDUCED", "Engine", "LossScale"]

REDUCED: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@final
class Engine:
    """One training's device, processes and trackers; a context that lets go of them.

    Args:
        out: The run folder; tensorboard files go there.
        timeout_s: How long a process waits for the others.
        tensorboard: Whether figures go to tensorboard files.

    Raises:
        MissingExtra: tensorboard is wanted and not installed.
    """

    def __init__(self, out: Path, *, timeout_s: float, tensorboard: bool) -> None:
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra.of("tensorboard", "tracking")
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._joins = several and not torch.distributed.is_initialized()
        # Else the first training of a process would bind all later ones.
        AcceleratorState._reset_state(reset_partial_state=self._joins)
        self.accelerator = Accelerator(
            cpu=several and not torch.cuda.is_available(),
            log_with="tensorboard" if tensorboard else None,
            project_dir=out if tensorboard else None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=timeout_s))] if several else [],
        )
        self.device: torch.device = self.accelerator.device
        self.ranks = Ranks(self.device)

    def autocast(self, precision: str) -> Callable[[], AbstractContextManager[Any]]:
        """Makes the context of forward passes in this precision."""
        dtype = REDUCED.get(precision)
        return nullcontext if dtype is None else lambda: torch.autocast(self.device.type, dtype)

    def begin_tracking(self) -> None:
        """Open the trackers: tensorboard files in a folder of that name."""
        self.accelerator.init_trackers("tensorboard")

    def track(self, figures: Mapping[str, Any], step: int) -> None:
        """Give the trackers those of the figures that are numbers."""
        if self.accelerator.trackers:
            numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
            self.accelerator.log(numbers, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self._joins:
            PartialState().destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)


@final
class LossScale:
    """The factor that keeps gradients in float16's range; 1 for ever in other precisions.

    A gradient that is not finite is one that the factor has made too large: the step is left out and the factor halved.
    All processes see the same summed gradient, so all do the same.

    Args:
        device: Of the gradients.
        precision: Of the forward passes.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.used = precision == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.used)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradient is taken."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the factor."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the optimiser make its step, where the gradient is finite."""
        self._scaler.step(optimizer)

    def update(self) -> None:
        """Move the factor by what the step has shown; once a step, whether it was made or not."""
        self._scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """All of the state."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self._scaler.state_dict().items()}

    def set_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `tensors` was taken."""
        if self.used:
            whole = ("growth_interval", "_growth_tracker")
            self._scaler.load_state_dict(
                {name: int(value) if name in whole else float(value) for name, value in state.items()}
            )
