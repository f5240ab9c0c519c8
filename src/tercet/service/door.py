"""What every request passes on its way in and out: id, foreign pages, headers, counts, one line in the log."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, final

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tercet.service.access import check_page
from tercet.service.journal import Journal
from tercet.service.limits import Admission
from tercet.service.metrics import Metrics
from tercet.service.refusal import Refusal

__all__ = ["Door", "problem"]

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
}
_READ_ON: Final = 2**20  # bytes of a refused upload that are read and dropped, to keep the connection


@final
class Door:
    """Middleware around the whole application; `request.state` gets `id` and `facts`, a dict for the log."""

    def __init__(
        self, app: ASGIApp, *, names: frozenset[str] | None, admission: Admission, metrics: Metrics, journal: Journal
    ) -> None:
        self._app = app
        self._admission = admission
        self._names = names
        self._metrics = metrics
        self._journal = journal
        self._silent_until = 0.0
        self._unlogged = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id, facts = secrets.token_hex(8), dict[str, Any]()
        scope.setdefault("state", {}).update(id=request_id, facts=facts)
        headers = Headers(scope=scope)
        answered = 0
        body_left = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

        async def read() -> Message:
            nonlocal body_left
            message = await receive()
            body_left = body_left and bool(message.get("more_body", False))
            return message

        async def write(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = int(message["status"])
                own = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    own.setdefault(name, value)
                own["x-request-id"] = request_id
                own.setdefault("cache-control", "no-store")
                if body_left and _is_long(headers):
                    own["connection"] = "close"
            await send(message)

        try:
            try:
                check_page(headers, self._names)
                if scope["method"] == "POST":  # before anything is done that costs time: the way out must stay fast
                    self._admission.check()
            except Refusal as refusal:
                facts["refused"] = refusal.kind
                await problem(refusal, request_id)(scope, read, write)
            else:
                await self._app(scope, read, write)
        except Exception as error:
            self._journal.defect(error, request_id=request_id)
            facts["refused"] = "defect"
            if not answered:
                defect = Refusal(500, "this is a defect of the service; its log names the request", kind="defect")
                await problem(defect, request_id)(scope, read, write)
        finally:
            self._record(scope, answered, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log an answer."""
        facts = scope["state"]["facts"]
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.answered(route, status, seconds)
        if "refused" in facts:
            self._metrics.refused(facts["refused"])
        if facts.get("refused") == "busy" and not self._first_of_second(facts):
            return
        self._journal.write(
            "request",
            request_id=scope["state"]["id"],
            method=scope["method"] if scope["method"] in _METHODS else "other",
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            **facts,
        )

    def _first_of_second(self, facts: dict[str, Any]) -> bool:
        """Of refusals for want of room one a second is logged, with the number of those before it that were not."""
        now = time.monotonic()
        if now < self._silent_until:
            self._unlogged += 1
            return False
        self._silent_until = now + 1
        if self._unlogged:
            facts["unlogged"], self._unlogged = self._unlogged, 0
        return True


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def problem(refusal: Refusal, request_id: str) -> JSONResponse:
    """A refusal as an answer."""
    content = {"error": refusal.reason, "request_id": request_id}
    return JSONResponse(content, refusal.status, headers=refusal.headers)


def _is_long(headers: Headers) -> bool:
    """Whether reading on to the end of an upload costs more than a new connection."""
    length = headers.get("content-length", "")
    return not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= _READ_ON)
