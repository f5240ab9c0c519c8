"""`serve`: a model and a gallery as an HTTP service with a web page, until it is stopped."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.enroll import GalleryOption, open_for
from tercet.cli.output import JsonOption, Screen, program
from tercet.cli.use import RunArgument
from tercet.errors import InvalidOption

__all__ = ["KEY_VARIABLE", "serve"]

KEY_VARIABLE = "TERCET_API_KEY"


def serve(
    run: RunArgument,
    gallery: GalleryOption = "gallery.db",
    host: Annotated[str, typer.Option(help="Where to listen; another than 127.0.0.1 needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Keys, one a line, of mode 0600; or one in {KEY_VARIABLE}."),
    ] = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Let everybody call who reaches an address other than 127.0.0.1.")
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, help="Requests worked on at a time; others are told to come again.", show_default="two for each core"
        ),
    ] = None,
    per_minute: Annotated[
        float, typer.Option(help="Verifications, identifications and searches a minute for each key.")
    ] = 120.0,
    max_mb: Annotated[float, typer.Option(help="Largest file, in MB.")] = 16.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest picture.")] = 50_000_000,
    max_seconds: Annotated[float, typer.Option(help="Longest recording.")] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Serve a model and a gallery over HTTP, with a web page: enroll, verify, identify, search, forget.

    The log goes to stderr, a JSON object a line. SIGTERM and Ctrl-C let running requests finish.
    """
    from tercet.run import load
    from tercet.service import LOOPBACK, Journal, Settings, check_key, is_loopback, listen, make_app, read_keys
    from tercet.service import run as run_until_stopped

    screen = Screen(as_json=as_json)
    keys = () if api_key_file is None else read_keys(api_key_file)
    in_environment = os.environ.get(KEY_VARIABLE, "")
    if in_environment:
        keys = (*keys, check_key(in_environment, KEY_VARIABLE))
    here = is_loopback(host)
    if not here and not keys and not no_key:
        raise InvalidOption(
            f"--host {host}: everybody who reaches that address could enroll and forget; give --api-key-file FILE or "
            f"{KEY_VARIABLE}, or --no-key if that is meant"
        )
    if keys and no_key:
        raise InvalidOption("--no-key: there are keys as well")
    settings = Settings(
        keys=keys,
        names=LOOPBACK | {host} if here else None,
        max_file_bytes=int(max_mb * 1e6),
        max_pixels=max_pixels,
        max_seconds=max_seconds,
        **({} if at_once is None else {"at_once": at_once}),
        per_minute=per_minute,
    )
    model = load(run)
    with listen(host, port) as at, open_for(model, gallery, create=True) as opened:
        journal = Journal()
        app = make_app(model, opened, settings, journal)
        url = _url(at)
        screen.say(
            f"serving {run} and {opened.name} on {url} ({'with a key' if keys else 'without a key'}; Ctrl-C stops)"
        )
        if not here and not keys:
            screen.note("WARNING: no key is asked for; everybody who reaches this address can enroll and forget")
        if model.calibration is None:
            screen.note(f"no threshold to decide by yet; choose one with: {program()} calibrate {run} DATA --fmr 0.01")
        screen.emit({"url": url, "model": model.fingerprint, "gallery": opened.name, "key": bool(keys)})
        run_until_stopped(app, at, journal)


def _url(at: socket.socket) -> str:
    host, port = at.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
