"""Fresh processes for measurements: started in milliseconds from one that has imported everything, killed on time.

A forked process has the memory of its parent and nothing more, so that what a measurement adds can be told apart; and a
loss that takes too long, or more memory than there is, ends with its process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

from tercet.errors import TercetError

__all__ = ["Died", "Fresh"]


class Died(Exception):
    """The process was ended: by the time limit, or by the system for want of memory."""


@final
class Fresh:
    """Calls functions, each in a process of its own, with these modules imported beforehand (where they exist)."""

    def __init__(self, modules: Sequence[str]) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(list(modules))
            self._start_server()

    @staticmethod
    def _start_server() -> None:
        """Ctrl-C is for the command, which then ends its processes: the server and what it forks never see it."""
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()  # started along with the server otherwise, and it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def call(self, function: Callable[..., Any], *args: Any, seconds: float) -> Any:
        """What the function returns.

        Raises:
            Died: it took longer, or was ended by the system.
            TercetError: it raised something; the message says what.
        """
        mine, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(theirs, function, args), daemon=True)  # type: ignore[attr-defined]
        try:
            process.start()
            theirs.close()
            if not mine.poll(seconds):
                raise Died(f"not done after {seconds:.0f} s")
            try:
                fine, answer = mine.recv()
            except EOFError:
                raise Died("ended by the system") from None
            if not fine:
                raise TercetError(answer)
            return answer
        finally:
            mine.close()
            if process.pid is not None:
                process.kill()
                process.join()


def _run(answers: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stderr = nowhere  # peers' warnings; what goes wrong here is sent to the command
        try:
            answer = (True, function(*args))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        answers.send(answer)
        answers.close()
        sys.stderr = sys.__stderr__
