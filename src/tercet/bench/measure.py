"""What is done in a process of its own: compare values, time losses by turns, take one step and weigh its memory.

Legend: B rows of the batch, D embedding width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

import tercet.functional as TF
from tercet.bench.contenders import CASES, DRAW_SEED, MARGIN, PEERS, UNIT, Loss, contender, names
from tercet.bench.memory import mark, peak
from tercet.errors import InvalidOption

__all__ = ["TOLERANCE", "Setting", "check_values", "one_step", "race"]

# A value and a gradient in float32 agree with the definition in float64 when they differ by less than this share of the
# loss, or of the largest entry of the gradient, and 1e-6.
TOLERANCE: Final = 1e-4

_CHECK_ROWS: Final = 16
_CHECK_WIDTH: Final = 8
_ERROR_ROWS: Final = 1024


@dataclass(frozen=True)
class Setting:
    """The batch that is measured, and on what."""

    width: int
    samples_per_class: int
    threads: int
    device: str

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """Unit rows [B, D] that want a gradient, and labels [B]."""
        generator = torch.Generator().manual_seed(0)
        x_BD = torch.nn.functional.normalize(torch.randn(rows, self.width, generator=generator), dim=1)
        labels = torch.arange(rows) // self.samples_per_class
        return x_BD.to(self.device).requires_grad_(), labels.to(self.device)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def check_values(case: str, setting: Setting, peers: Collection[str]) -> dict[str, str]:
    """By contender: empty where loss and gradient are those of the definition, else why it is left out."""
    torch.set_num_threads(setting.threads)
    small = Setting(_CHECK_WIDTH, 4, setting.threads, setting.device)
    x_BD, labels = small.batch(_CHECK_ROWS)
    exact_BD = x_BD.detach().cpu().double().requires_grad_()
    truth = _definition(case, exact_BD, labels.cpu())
    (slope_BD,) = torch.autograd.grad(truth, exact_BD)
    said = {}
    exact = float(truth.detach())
    for name in names(case, peers=peers):
        try:
            loss = contender(case, name)(x_BD, labels)
            (got_BD,) = torch.autograd.grad(loss, x_BD)
        except InvalidOption:
            said[name] = "this engine does not do it here"
            continue
        except Exception as error:
            if name not in PEERS:
                raise
            said[name] = f"cannot be used here ({type(error).__name__}: {error})"
            continue
        value = float(loss.detach())
        off = abs(value - exact) / (TOLERANCE * abs(exact) + 1e-6)
        apart = float((got_BD.cpu().double() - slope_BD).abs().max()) / (TOLERANCE * float(slope_BD.abs().max()) + 1e-6)
        said[name] = "" if off <= 1 and apart <= 1 else _difference(value, exact, apart <= 1)
    return said


def _difference(value: float, truth: float, same_gradient: bool) -> str:
    gradient = "same" if same_gradient else "other"
    return f"does not compute the same: {value:.6g} where the definition gives {truth:.6g}, {gradient} gradient"


def _definition(case: str, x_BD: Tensor, labels: Tensor) -> Tensor:
    if case == "formula 2":
        return TF.reference.multi_sample_triplet_loss(x_BD, labels, margin=MARGIN)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(DRAW_SEED)))
    mining, reduction = CASES[case].mining, CASES[case].reduction
    return TF.reference.batch_triplet_loss(x_BD, labels, margin=MARGIN, mining=mining, reduction=reduction, seed=seed)


def race(keys: list[tuple[str, str]], rows: int, rounds: int, budget: float, setting: Setting) -> dict[str, object]:
    """Median milliseconds of each (case, contender), the unit before each, everyone by turns in one process.

    A contender stops taking part, after two rounds at least, when it has used `budget` seconds.
    """
    torch.set_num_threads(setting.threads)
    x_BD, labels = setting.batch(rows)
    unit = _product(x_BD.detach())
    steps = {key: _step(contender(*key), x_BD, labels) for key in keys}
    for work in (unit, *steps.values()):
        work()
    took: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    units: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    for _ in range(rounds):
        for key, work in steps.items():
            if len(took[key]) < 2 or sum(took[key]) < budget:
                units[key].append(_seconds(unit, setting))
                took[key].append(_seconds(work, setting))
    every = [second for some in units.values() for second in some]
    return {
        "unit_ms": 1e3 * statistics.median(every or [_seconds(unit, setting)]),
        "entries": [
            {
                "ms": 1e3 * statistics.median(took[key]),
                "times_unit": statistics.median(a / b for a, b in zip(took[key], units[key], strict=True)),
                "rounds": len(took[key]),
                "gradient_error": _gradient_error(key, min(rows, _ERROR_ROWS), setting),
            }
            for key in keys
        ],
    }


def _gradient_error(key: tuple[str, str], rows: int, setting: Setting) -> float | None:
    """The largest error of the float32 gradient, as a share of its largest entry, at the size that is timed.

    None where draws decide: there a last digit may draw another negative.
    """
    case, name = key
    if CASES[case].mining in ("distance_weighted", "random"):
        return None
    x_BD, labels = setting.batch(rows)
    exact_BD = x_BD.detach().double().requires_grad_()
    # Where float64 is computed the distances are summed directly, and the definition's own loops would take hours.
    (slope_BD,) = torch.autograd.grad(
        contender(case, "tercet" if case == "formula 2" else "tercet (tiles)")(exact_BD, labels), exact_BD
    )
    (got_BD,) = torch.autograd.grad(contender(case, name)(x_BD, labels), x_BD)
    return float((got_BD.double() - slope_BD).abs().max() / slope_BD.abs().max().clamp(min=1e-30))


def _product(x_BD: Tensor) -> Callable[[], object]:
    """The unit: one product into a buffer that is there already, because a fresh one would time page faults."""
    buffer_BB = torch.empty(len(x_BD), len(x_BD), device=x_BD.device)
    return lambda: torch.mm(x_BD, x_BD.T, out=buffer_BB)


def _step(loss: Loss, x_BD: Tensor, labels: Tensor) -> Callable[[], object]:
    def work() -> None:
        x_BD.grad = None
        loss(x_BD, labels).backward()  # type: ignore[no-untyped-call]

    return work


def _seconds(work: Callable[[], object], setting: Setting) -> float:
    setting.wait()
    start = time.perf_counter()
    work()
    setting.wait()
    return time.perf_counter() - start


def one_step(case: str, name: str, rows: int, memory: int, setting: Setting) -> dict[str, float] | None:
    """Seconds of a step (the second) and the extra memory of both at its peak; None where the memory does not suffice.

    Everything that the step needs at any size (threads, compiled code) is there before the baseline is taken; what
    counts is all that it allocates on top of the batch, its gradient among it.
    """
    torch.set_num_threads(setting.threads)
    small_BD, small_labels = Setting(setting.width, 2, setting.threads, setting.device).batch(16)
    x_BD, labels = setting.batch(rows)
    if case == UNIT:
        _product(small_BD.detach())()
    else:
        loss = contender(case, name)
        _step(loss, small_BD, small_labels)()
    before = mark(setting.device, memory)
    try:
        work = _product(x_BD.detach()) if case == UNIT else _step(loss, x_BD, labels)
        first = _seconds(work, setting)
        again = _seconds(work, setting) if first < 1.0 else first
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, InvalidOption) or not _is_memory(error):
            raise
        return None
    extra = peak(setting.device) - before
    return {"seconds": min(first, again), "extra": float(extra)} if extra <= memory else None


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error).lower()
