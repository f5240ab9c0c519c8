"""An encoder's configuration as JSON and back: what the dataclasses of all encoders share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from tercet.errors import InvalidInput

if TYPE_CHECKING:
    from dataclasses import Field

__all__ = ["check_numbers", "read_config", "write_config"]


class _Kind(Protocol):
    """A dataclass that names its kind of encoder."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]


_Config = TypeVar("_Config", bound=_Kind)


def write_config(config: _Kind) -> dict[str, Any]:
    """The configuration as plain JSON values, with its kind of encoder; `read_config` reads them back."""
    values = {"kind": config.kind, **asdict(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_config(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Read what `write_config` wrote of a configuration of this kind.

    What the class names as YOUNGER than the first runs may be missing and is then its default, which is what they did.

    Raises:
        InvalidInput: A key that is missing or unknown, or a value out of range.
    """
    known = {field.name for field in fields(kind)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "kind"}
    younger: frozenset[str] = getattr(kind, "YOUNGER", frozenset())
    if not known - younger <= set(given) <= known:
        raise InvalidInput(f"encoder: keys {sorted(given)} where {sorted(known)} are needed")
    return kind(**given)


def check_numbers(config: object, limits: Mapping[str, tuple[int, int]]) -> None:
    """See that the named attributes are whole numbers within their limits, from the least to the most.

    Raises:
        InvalidInput: One is not.
    """
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            raise InvalidInput(f"{name}={value!r} must be a whole number from {least} to {most}")
