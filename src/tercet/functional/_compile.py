"""How the public functions behave inside `torch.compile`: they stay outside the compiled graph, as one call.

Their tiles and their gradient are chosen from the data, which a traced graph cannot do; torch then compiles the code
before and after. The usual decorator, `torch.compiler.disable`, loads the whole compiler (seconds) when it is applied;
this one loads nothing unless a compiler is at work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["outside_graph"]

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
