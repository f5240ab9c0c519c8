"""Templates and rows in parts that one message takes, an identity's together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tercet.gallery.templates import Template

__all__ = ["PART_ROWS", "in_pages", "in_parts", "plain_value"]

PART_ROWS: Final = 1000
_PART_BYTES: Final = 16 * 2**20  # far below the 64 MiB that a Milvus server takes in one message


def in_parts(templates: Sequence[Template]) -> Iterator[list[Template]]:
    """The templates in parts of at most 1000 rows or 16 MiB, an identity's together as far as they fit."""
    by_identity: dict[str, list[Template]] = {}
    for template in templates:
        by_identity.setdefault(template.identity, []).append(template)
    part: list[Template] = []
    size = 0
    for group in by_identity.values():
        group_size = sum(map(_bytes, group))
        if part and (len(part) + len(group) > PART_ROWS or size + group_size > _PART_BYTES):
            yield part
            part, size = [], 0
        for template in group:
            if part and (len(part) == PART_ROWS or size + _bytes(template) > _PART_BYTES):
                yield part
                part, size = [], 0
            part.append(template)
            size += _bytes(template)
    if part:
        yield part


def in_pages(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in pages of at most as much."""
    page: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        page.append(row)
        size += len(row["picture"]) + len(row["record"]) + 8 * len(row["vector"])
        if len(page) == PART_ROWS or size > _PART_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _bytes(template: Template) -> int:
    return 2 * len(template.picture) + 4 * len(template.vector) + 2000


def plain_value(value: Any) -> Any:
    """A value as it came, with the containers of the wire made lists."""
    return value if isinstance(value, str | int) else list(value)
