"""The forms of the requests and the problems of all answers, as OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tercet.service.answers import Problem

__all__ = ["COUNT", "FILE", "FILES", "FLAG", "NAME", "RETAIN", "TAGS", "form", "problems"]

NAME: Final = {"type": "string", "minLength": 1, "maxLength": 512}
FLAG: Final = {"type": "string", "enum": ["true", "false"], "default": "false"}
COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 100}
TAGS: Final = {"type": "array", "items": NAME, "maxItems": 64}
RETAIN: Final = {
    "type": "string",
    "pattern": "^[1-9][0-9]{0,2}[hdw]$",
    "description": "Found for so long, then removed: 12h, 365d, 8w, 3y. Without it: until it is forgotten.",
}
FILE: Final = {"type": "string", "format": "binary"}
FILES: Final = {"type": "array", "items": FILE, "minItems": 1, "maxItems": 10}

_WORDS: Final = {
    400: "Wrong use: a field is missing, unknown or out of range.",
    401: "A key is needed: Authorization: Bearer KEY.",
    403: "A page of another site called, or this machine was called by a foreign name.",
    404: "Not there.",
    408: "The upload took too long.",
    413: "More bytes than a request may have.",
    415: "Not multipart/form-data.",
    422: "A file that cannot be used: no such kind, damaged, too large; the reason is given.",
    429: "Too many calls; Retry-After says when to come again.",
    503: "Too many requests at once, or the gallery does not answer; Retry-After says when to come again.",
}
_ALWAYS: Final = (401, 403, 503)
_UPLOAD: Final = (400, 408, 413, 415)


def form(
    properties: Mapping[str, Mapping[str, Any]], required: Sequence[str], either: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """A multipart body; `either`: sets of fields of which one must be there."""
    body: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
    if either:
        body["oneOf"] = [{"required": list(names)} for names in either]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": body}}}}


def problems(*statuses: int, upload: bool = False) -> dict[int | str, dict[str, Any]]:
    """The refusals that an operation knows, beside those that all know."""
    known = sorted({*statuses, *_ALWAYS, *(_UPLOAD if upload else ())})
    return {status: {"model": Problem, "description": _WORDS[status]} for status in known}
