"""The HTTP interface: routes, and what each of them asks of a caller before it does anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from tercet import __version__
from tercet.errors import TercetError
from tercet.gallery import Gallery
from tercet.run import Model
from tercet.service import answers
from tercet.service.access import who_calls
from tercet.service.desk import Desk
from tercet.service.door import Door, problem
from tercet.service.forms import Form, declared_bytes, read_form
from tercet.service.journal import Journal
from tercet.service.limits import Admission, Rate
from tercet.service.metrics import Metrics
from tercet.service.pages import add_pages
from tercet.service.refusal import Refusal, refusal_of
from tercet.service.schema import COUNT, FILE, FILES, FLAG, NAME, RETAIN, TAGS, form, problems
from tercet.service.settings import Settings

__all__ = ["make_app"]

_ABOUT: Final = (
    "Who or what does a picture or a recording show? Files come as a form; nothing is kept but what is enrolled."
)

_BEARER: Final[Any] = Security(HTTPBearer(auto_error=False))  # checked by `who_calls`; here for the description

_Work = Callable[[Form], tuple[dict[str, Any], dict[str, Any]]]


def make_app(model: Model, gallery: Gallery, settings: Settings, journal: Journal | None = None) -> FastAPI:
    """The service as an ASGI application. The gallery stays the caller's to close, after the application has ended.

    Args:
        model: Decides.
        gallery: Of the same model.
        settings: Keys and limits.
        journal: Where the log goes; None: stderr.
    """
    journal = journal or Journal()
    metrics = Metrics()
    desk = Desk(model, gallery, settings, metrics, journal)
    admission = Admission(settings.at_once, settings.bytes_at_once)
    rate = Rate(settings.per_minute)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        purging = asyncio.create_task(desk.purge_for_ever())
        try:
            yield
        finally:
            purging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await purging
            await asyncio.to_thread(desk.close)

    app = FastAPI(title="tercet", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, lifespan=life)
    names = None if settings.keys else settings.names
    app.add_middleware(Door, names=names, admission=admission, metrics=metrics, journal=journal)

    def caller(request: Request, _: Any = _BEARER) -> str:
        name = who_calls(request.headers, settings.keys, request.client.host if request.client else "")
        request.state.facts["caller"] = name
        return name

    def limited(name: str = Depends(caller)) -> None:
        rate.take(name)

    async def serve(
        request: Request, work: _Work, *, files: tuple[str, ...], fields: tuple[str, ...], most_files: int
    ) -> dict[str, Any]:
        """Read a form and work on it, each only while there is room."""
        with admission.memory(declared_bytes(request, settings.body_bytes(most_files))):
            found = await read_form(request, settings, files=files, fields=fields, most_files=most_files)
            with admission.work():
                metrics.working(admission.working)
                try:
                    answer, facts = await desk.work(work, found)
                finally:
                    metrics.working(admission.working - 1)
        request.state.facts.update(facts)
        return answer | {"request_id": request.state.id}

    @app.post(
        "/v1/verify",
        response_model=answers.Verified,
        response_model_exclude_unset=True,
        dependencies=[Depends(limited)],
        responses=problems(404, 422, 429, upload=True),
        openapi_extra=form({"a": FILE, "b": FILE, "claim": NAME}, ["a"], (("b",), ("claim",))),
    )
    async def verify(request: Request) -> dict[str, Any]:
        """Do two files show the same identity, or does one show the claimed one?"""
        return await serve(request, desk.verify, files=("a", "b"), fields=("claim",), most_files=2)

    @app.post(
        "/v1/identify",
        response_model=answers.Identified,
        response_model_exclude_unset=True,
        dependencies=[Depends(limited)],
        responses=problems(422, 429, upload=True),
        openapi_extra=form({"file": FILE, "k": COUNT, "tag": TAGS}, ["file"]),
    )
    async def identify(request: Request) -> dict[str, Any]:
        """Who of those enrolled does a file show, or nobody?"""
        return await serve(request, desk.identify, files=("file",), fields=("k", "tag"), most_files=1)

    @app.post(
        "/v1/search",
        response_model=answers.Searched,
        dependencies=[Depends(limited)],
        responses=problems(422, 429, upload=True),
        openapi_extra=form({"file": FILE, "k": COUNT, "tag": TAGS}, ["file"]),
    )
    async def search(request: Request) -> dict[str, Any]:
        """The enrolled samples that are most like a file, best first."""
        return await serve(request, desk.search, files=("file",), fields=("k", "tag"), most_files=1)

    enrolment: dict[str, dict[str, Any]] = {
        "identity": NAME,
        "file": FILES | {"maxItems": settings.max_files},
        "tag": TAGS,
        "retain": RETAIN,
        "store_pictures": FLAG,
        "force": FLAG,
    }

    @app.post(
        "/v1/enroll",
        response_model=answers.Enrolled,
        dependencies=[Depends(caller)],
        responses=problems(422, upload=True),
        openapi_extra=form(enrolment, ["identity", "file"]),
    )
    async def enroll(request: Request) -> dict[str, Any]:
        """Store what the model sees of somebody; it is on the disk when the answer comes."""
        fields = ("identity", "tag", "retain", "store_pictures", "force")
        return await serve(request, desk.enroll, files=("file",), fields=fields, most_files=settings.max_files)

    @app.post(
        "/v1/forget",
        response_model=answers.Forgotten,
        dependencies=[Depends(caller)],
        responses=problems(404, upload=True),
        openapi_extra=form({"identity": NAME}, ["identity"]),
    )
    async def forget(request: Request) -> dict[str, Any]:
        """Remove somebody: vectors, metadata and pictures. The name is in the body, so that no log has it."""
        return await serve(request, desk.forget, files=(), fields=("identity",), most_files=0)

    @app.get("/v1/list", response_model=answers.Listed, dependencies=[Depends(caller)], responses=problems(400))
    async def people(
        request: Request,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> dict[str, Any]:
        """Who is enrolled, by name."""
        with admission.work():
            return await desk.work(desk.people, offset, limit) | {"request_id": request.state.id}

    @app.get(
        "/v1/picture/{template}",
        response_class=Response,
        dependencies=[Depends(caller)],
        responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}, **problems(404)},
    )
    async def picture(template: str) -> Response:
        """The small picture that was stored with a template."""
        return Response(await desk.look(desk.picture, template), media_type="image/jpeg")

    @app.get(
        "/v1/about",
        response_model=answers.About,
        response_model_exclude_unset=True,
        dependencies=[Depends(caller)],
        responses=problems(),
    )
    async def about(request: Request) -> dict[str, Any]:
        """What is served, and its limits."""
        calibration = model.undecided("").to_json()
        return {
            "model": model.fingerprint,
            "task": model.task,
            "kind": desk.reader.kind,
            "suffixes": sorted(model.front_end.SUFFIXES),
            "calibration": calibration["calibration"],
            "threshold": calibration["threshold"],
            "limits": {
                "file_bytes": settings.max_file_bytes,
                "files": settings.max_files,
                "pixels": settings.max_pixels,
                "seconds": settings.max_seconds,
            },
            "request_id": request.state.id,
        }

    @app.get("/health", response_model=answers.Health, responses=problems())
    async def health(request: Request) -> dict[str, Any]:
        """Whether model and gallery answer; asks for no key."""
        await desk.check()
        return {"status": "ok", "model": model.fingerprint, "request_id": request.state.id}

    @app.get(
        "/metrics",
        response_class=Response,
        dependencies=[Depends(caller)],
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text."}, **problems()},
    )
    async def metrics_text() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type=metrics.content_type)

    add_pages(app)
    _add_problems(app)
    return app


def _add_problems(app: FastAPI) -> None:
    """Every error as JSON of one form, with the request's id."""

    def told(request: Request, refusal: Refusal) -> JSONResponse:
        request.state.facts["refused"] = refusal.kind
        return problem(refusal, request.state.id)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return told(request, error)

    @app.exception_handler(TercetError)
    async def unusable(request: Request, error: TercetError) -> JSONResponse:
        return told(request, refusal_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return told(request, Refusal(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        answer = told(request, Refusal(error.status_code, str(error.detail).lower()))
        answer.headers.update(error.headers or {})
        return answer
