"""Which code does the work: chosen per call, or named by the user.

`"fused"` is one compiled pass per block of distances (CPU, float32, labels; see `_fused`); `"triton"` is kernels for a
GPU (labels, any dtype but float64; see `_triton`); `"tiles"` is the same reduction tile by tile (any device, any
option; compiled passes on a CPU with numba, else torch operations; see `_tiles`). All are exact; `"auto"` takes the
fastest that can do the call. The environment variable `TERCET_ENGINE` sets the start value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tercet.functional.options import check_choice

__all__ = ["ENGINES", "chosen_engine", "use_engine"]

ENGINES = ("auto", "fused", "triton", "tiles")

_engine: ContextVar[str | None] = ContextVar("tercet_engine", default=None)


def chosen_engine() -> str:
    """The engine that the user named, or `"auto"`."""
    name = _engine.get()
    if name is None:
        name = os.environ.get("TERCET_ENGINE", "auto")
        check_choice("TERCET_ENGINE", name, ENGINES)
    return name


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Have the losses computed by `name` (`"auto"`, `"fused"`, `"triton"`, `"tiles"`) inside a `with` block.

    `"fused"` and `"triton"` raise `InvalidOption` where that engine cannot do a call, instead of falling back. With
    `TRITON_INTERPRET=1` in the environment `"triton"` also runs on the CPU, for tests.

    Raises:
        InvalidOption: an unknown name.

    >>> import torch, tercet.functional as TF
    >>> with TF.use_engine("tiles"):
    ...     TF.batch_triplet_loss(torch.zeros(3, 2), torch.tensor([0, 0, 1]))
    tensor(0.2000)
    """
    check_choice("engine", name, ENGINES)
    token = _engine.set(name)
    try:
        yield
    finally:
        _engine.reset(token)
