"""Runs the service on a socket until it is told to stop, and then finishes what it has begun."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tercet.errors import InvalidOption
from tercet.service.journal import Journal, ServerLog

__all__ = ["listen", "run"]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free.

    Raises:
        InvalidOption: The address cannot be had: taken, not allowed, not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, because only then asyncio turns off Nagle's algorithm, with which every answer would wait
    # 40 ms for an acknowledgement.
    at = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        at.bind((host, port))
        at.listen(256)
        return at
    except OSError as error:
        at.close()
        raise InvalidOption(f"{host}:{port}: cannot listen there ({error.strerror or error})") from error


def run(app: FastAPI, at: socket.socket, journal: Journal, *, finish_s: int = 30) -> None:
    """Serve until SIGTERM or SIGINT; then take no more requests, finish those inside, and return.

    A second SIGINT does not wait for them. After SIGINT `KeyboardInterrupt` is raised.

    Args:
        app: What is served.
        at: Where it listens.
        journal: The log.
        finish_s: Seconds that requests have for their end.
    """
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(ServerLog(journal))
    logger.propagate = False
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that a client can make up is none to count by
        limit_concurrency=1000,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=finish_s,
        h11_max_incomplete_event_size=32_768,
    )
    # Threads that compute let go of the interpreter sooner, so that who is refused learns it at once.
    sys.setswitchinterval(0.001)
    with _survive(signal.SIGTERM):
        uvicorn.Server(config).run(sockets=[at])


@contextmanager
def _survive(number: signal.Signals) -> Iterator[None]:
    """The server raises the signal that ended it again when it has finished; that must not kill what closes then."""

    def nothing(number: int, frame: types.FrameType | None) -> None: ...

    before = signal.signal(number, nothing)
    try:
        yield
    finally:
        signal.signal(number, before)
