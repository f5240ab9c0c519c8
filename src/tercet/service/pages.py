"""The web page and the page about the interface: own files only, no other host is ever asked for anything."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from fastapi import FastAPI, Response
from jinja2 import Environment, PackageLoader

__all__ = ["add_pages"]

_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES: Final = {
    "/": "index.html",
    "/style.css": "style.css",
    "/app.js": "app.js",
    "/sound.js": "sound.js",
    "/icon.svg": "icon.svg",
}


def add_pages(app: FastAPI) -> None:
    """Serve the static files, and `/docs`, made from the application's own OpenAPI description."""
    for path, name in _FILES.items():
        data = resources.files("tercet.service").joinpath("static", name).read_bytes()
        app.add_api_route(path, _sender(data, _KINDS[name.rpartition(".")[2]]), include_in_schema=False)
    shown: list[bytes] = []

    async def docs() -> Response:
        if not shown:
            shown.append(_docs(app.openapi()).encode())
        return _file(shown[0], "text/html")

    app.add_api_route("/docs", docs, include_in_schema=False)


def _sender(data: bytes, kind: str) -> Any:
    async def send() -> Response:
        return _file(data, kind)

    return send


def _file(data: bytes, kind: str) -> Response:
    return Response(data, media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})


def _docs(schema: dict[str, Any]) -> str:
    pages = Environment(loader=PackageLoader("tercet.service", "static"), autoescape=True, trim_blocks=True)
    operations = [
        {"path": path, "method": method.upper(), **operation}
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return pages.get_template("docs.html.j2").render(
        title=schema["info"]["title"], version=schema["info"]["version"], operations=operations
    )
