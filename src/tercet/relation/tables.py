"""What relations look their rows up in: checked, one entry or one list per row, on the device that asks.

Legend: B anchor rows, M other rows, T rows asked for, E and F entries of lists.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InvalidInput

__all__ = [
    "CHUNK",
    "Columns",
    "Lists",
    "Names",
    "check_matrix",
    "check_rows",
    "check_sequences",
    "coded",
    "meetings",
]

# Numbers that a tile may hold beside itself while it is made.
CHUNK = 1 << 20

Names = Tensor | Sequence[Hashable]


@final
class Columns:
    """One entry per row."""

    def __init__(self, column: Tensor) -> None:
        self._column = {column.device: column}
        self._rows = len(column)

    def at(self, rows_T: Tensor) -> Tensor:
        """The entries of these rows."""
        check_rows(rows_T, self._rows)
        return _on(self._column, rows_T.device)[rows_T]


@final
class Lists:
    """A list of numbers per row, given as entries in the order of their rows."""

    def __init__(self, row_E: Tensor, value_E: Tensor, *, rows: int) -> None:
        count_B = torch.bincount(row_E, minlength=rows)
        self._count = {row_E.device: count_B}
        self._first = {row_E.device: count_B.cumsum(0) - count_B}
        self._value = {row_E.device: value_E.contiguous()}
        self._rows = rows

    def at(self, rows_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of these rows: (place in `rows_T` [E], value [E], entries of each row [T])."""
        check_rows(rows_T, self._rows)
        device = rows_T.device
        count_T = _on(self._count, device)[rows_T]
        place_E = torch.repeat_interleave(torch.arange(len(rows_T), device=device), count_T)
        inside_E = torch.arange(len(place_E), device=device) - (count_T.cumsum(0) - count_T)[place_E]
        value_E = _on(self._value, device)[_on(self._first, device)[rows_T][place_E] + inside_E]
        return place_E, value_E, count_T


def _on(copies: dict[torch.device, Tensor], device: torch.device) -> Tensor:
    if device not in copies:
        copies[device] = next(iter(copies.values())).to(device)
    return copies[device]


def check_rows(rows_T: Tensor, rows: int) -> None:
    """Raise `InvalidInput` where a relation is asked for a row that it does not know."""
    if len(rows_T) and not 0 <= int(rows_T.min()) <= int(rows_T.max()) < rows:
        raise InvalidInput(
            f"relation was made for {rows} rows and is asked for row {int(rows_T.max())}; "
            "describe the reference rows with `others`"
        )


def meetings(a_E: Tensor, a_key_E: Tensor, b_F: Tensor, b_key_F: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All (a, b) of entries with equal keys, about `CHUNK` at a time."""
    b_key_F, order_F = torch.sort(b_key_F)
    b_F = b_F[order_F]
    first_E = torch.searchsorted(b_key_F, a_key_E)
    count_E = torch.searchsorted(b_key_F, a_key_E, right=True) - first_E
    found_E = count_E > 0
    a_E, first_E, count_E = a_E[found_E], first_E[found_E], count_E[found_E]
    total_E = count_E.cumsum(0)
    start, done = 0, 0
    while start < len(a_E):
        stop = max(start + 1, int(torch.searchsorted(total_E, done + CHUNK, right=True)))
        count = count_E[start:stop]
        entry = torch.repeat_interleave(torch.arange(start, stop, device=a_E.device), count)
        inside = torch.arange(len(entry), device=a_E.device) - (total_E - count_E - done)[entry]
        yield a_E[entry], b_F[first_E[entry] + inside]
        start, done = stop, int(total_E[stop - 1])


def coded(name: str, values: Names, others: Names | None) -> tuple[Tensor, Tensor, dict[Hashable, int] | None]:
    """Labels of the rows and of the others as int64, and the numbers that stand for names where they were names."""
    mine = _integers(name, values)
    theirs = mine if others is None else _integers("others", others)
    if mine is not None and theirs is not None:
        return mine, theirs, None
    if (mine is None) != (theirs is None) and len(values) and others is not None and len(others):
        raise InvalidInput(f"others must be integers where {name} is, and names where {name} is")
    codes: dict[Hashable, int] = {}
    lists = [_names(name, values, codes)]
    lists.append(lists[0] if others is None else _names("others", others, codes))
    return lists[0], lists[1], codes


def _integers(name: str, values: Any) -> Tensor | None:
    """A vector of integers as int64, or None where the values are names."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufcb":
        values = torch.from_numpy(values)
    if isinstance(values, Tensor):
        if values.ndim != 1 or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise InvalidInput(
                f"{name} must be a vector of integers or a list, got {values.dtype} {list(values.shape)}"
            )
        return values.detach().to(torch.int64, copy=True)
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        raise InvalidInput(f"{name} must be a vector of integers or a list, got {type(values).__name__}")
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        return torch.tensor([int(value) for value in values], dtype=torch.int64)
    return None


def _names(name: str, values: Any, codes: dict[Hashable, int]) -> Tensor:
    numbers = []
    for i, value in enumerate(values.tolist() if isinstance(values, Tensor | np.ndarray) else values):
        if not isinstance(value, Hashable) or isinstance(value, float):
            raise InvalidInput(f"{name}: entry {i} cannot be a label, it is a {type(value).__name__}")
        numbers.append(-1 if value is None else codes.setdefault(value, len(codes)))
    return torch.tensor(numbers, dtype=torch.int64)


def check_matrix(name: str, matrix: Tensor) -> None:
    """Raise `InvalidInput` unless it is a matrix of whole numbers."""
    if matrix.ndim != 2 or matrix.is_floating_point() or matrix.is_complex():
        raise InvalidInput(f"{name} must be a matrix of integers, got {matrix.dtype} {list(matrix.shape)}")


def check_sequences(name: str, rows: Any, what: str) -> None:
    """Raise `InvalidInput` unless it is a list of collections, none of which is a string."""
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise InvalidInput(f"{name} must be a matrix or a list with one {what} per row, got {type(rows).__name__}")
    for i, row in enumerate(rows):
        if isinstance(row, str) or not hasattr(row, "__iter__"):
            raise InvalidInput(f"{name}: row {i} must be a {what}, got {type(row).__name__}")
        for value in row:
            if not isinstance(value, Hashable):
                raise InvalidInput(f"{name}: row {i} holds a {type(value).__name__}, which cannot be a label")
