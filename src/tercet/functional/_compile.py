"""How the public functions behave inside `torch.compile` and autocast: as one call, computed in full precision.

Their tiles and their gradient are chosen from the data, which a traced graph cannot do; torch then compiles the code
before and after. The usual decorator, `torch.compiler.disable`, loads the whole compiler (seconds) when it is applied;
this one loads nothing unless a compiler is at work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["full_precision", "outside_graph"]

P = ParamSpec("P")
R = TypeVar("R")


def outside_graph(function: Callable[P, R]) -> Callable[P, R]:
    """The function, as one opaque call where `torch.compile` is tracing."""
    opaque: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            if not opaque:
                opaque.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
            return opaque[0](*args, **kwargs)
        return function(*args, **kwargs)

    return call


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with autocast off while it runs: distances in bfloat16 would move the thresholds."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call
