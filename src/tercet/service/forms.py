"""The form that a request brings: fields and files, in memory, read no further than the limits allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, final

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from tercet.service.refusal import Refusal
from tercet.service.settings import Settings

__all__ = ["Form", "Upload", "declared_bytes", "read_form"]

_MOST_FIELDS: Final = 80
_MOST_FIELD_BYTES: Final = 4096
_MOST_NAME: Final = 200


@final
@dataclass(frozen=True)
class Upload:
    """One uploaded file: the field it came in, what its sender calls it (without folders), and its bytes."""

    field: str
    name: str
    data: bytes


@final
@dataclass(frozen=True)
class Form:
    """Fields with their values in order, and files in order."""

    fields: dict[str, list[str]]
    files: tuple[Upload, ...]

    def one(self, field: str, default: str = "") -> str:
        """The value of a field that may come once.

        Raises:
            Refusal: 400, it came twice.
        """
        values = self.fields.get(field, [])
        if len(values) > 1:
            raise Refusal(400, f"{field}: given {len(values)} times")
        return values[0] if values else default

    def flag(self, field: str) -> bool:
        """The value of a field that is true or false (false where it is missing).

        Raises:
            Refusal: 400, it is something else.
        """
        value = self.one(field, "false")
        if value not in ("true", "false"):
            raise Refusal(400, f"{field}: must be true or false")
        return value == "true"

    def count(self, field: str, default: int, most: int) -> int:
        """The value of a field that is a whole number from 1 on.

        Raises:
            Refusal: 400, it is none or too large.
        """
        value = self.one(field, str(default))
        if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most):
            raise Refusal(400, f"{field}: must be a whole number from 1 to {most}")
        return int(value)

    def in_field(self, field: str) -> list[Upload]:
        """The files of one field."""
        return [upload for upload in self.files if upload.field == field]


def declared_bytes(request: Request, most: int) -> int:
    """How large a request says it is; the most that one may be where it does not say.

    Raises:
        Refusal: 413, more than that; 400, no number.
    """
    length = request.headers.get("content-length")
    if length is None:
        return most
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, "content-length: is no number")
    if len(length) > 15 or int(length) > most:
        raise Refusal(413, f"more than the {most} bytes that a request may have")
    return int(length)


async def read_form(
    request: Request, settings: Settings, *, files: Collection[str], fields: Collection[str], most_files: int
) -> Form:
    """Read a multipart form into memory.

    Args:
        request: Whose body it is.
        settings: The limits.
        files: Fields that may hold files.
        fields: Fields that may hold text.
        most_files: How many files there may be.

    Raises:
        Refusal: 415, 400, 408 or 413, each before more is read than needed to know.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(415, "must be multipart/form-data")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "content-encoding: send the form as it is")
    parser = MultiPartParser(
        request.headers,
        _limited(request, settings.body_bytes(most_files)),
        max_files=most_files,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_FIELD_BYTES,
    )
    parser.spool_max_size = settings.body_bytes(most_files) + 1  # in memory, never in a file
    try:
        async with asyncio.timeout(settings.upload_s):
            found = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message}") from error
    except TimeoutError as error:
        raise Refusal(408, f"the upload took longer than {settings.upload_s:g} s", kind="slow") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the upload broke off", kind="gone") from error
    try:
        return _sorted(found, settings, files, fields)
    finally:
        await found.close()


def _sorted(found: FormData, settings: Settings, files: Collection[str], fields: Collection[str]) -> Form:
    texts: dict[str, list[str]] = {}
    uploads = []
    for field, value in found.multi_items():
        if isinstance(value, UploadFile):
            if field not in files:
                places = ", ".join(sorted(files)) or "none"
                raise Refusal(400, f"a file in a field that takes none; files go in: {places}")
            if value.size is not None and value.size > settings.max_file_bytes:
                raise Refusal(413, f"{field}: is larger than {settings.max_file_bytes} bytes")
            uploads.append(Upload(field, _last_part(value.filename or ""), value.file.read()))
        elif field in files:
            raise Refusal(400, f"{field}: must be a file (with a file name), not text")
        elif field not in fields:
            raise Refusal(400, f"an unknown field; known: {', '.join(sorted({*files, *fields}))}")
        else:
            texts.setdefault(field, []).append(value)
    return Form(texts, tuple(uploads))


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise Refusal(413, f"more than the {most} bytes that a request may have")
        yield chunk


def _last_part(name: str) -> str:
    """A file's name without folders of its sender's machine, printable and short."""
    last = PurePath(name.replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[:_MOST_NAME]
