"""One model for all requests: what waits while it is busy goes through it together, in one thread.

N samples of one request, D embedding width
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import TercetError

__all__ = ["Batcher"]

_MOST: Final = 64  # samples in one batch, a request's always together

_Samples = Sequence[npt.NDArray[Any]]
_Waiting = tuple[_Samples, "Future[npt.NDArray[np.float32]]"]


@final
class Batcher:
    """Embeds samples of many requests in common batches. Nobody is made to wait for a batch to fill.

    Args:
        embed: Gives the unit vectors [N, D] of samples [N, *shape]; called from one thread only.
        seen: Told the size of each batch.
    """

    def __init__(
        self,
        embed: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]],
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._embed = embed
        self._seen = seen
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tercet-model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def submit(self, samples: _Samples) -> Future[npt.NDArray[np.float32]]:
        """The vectors [N, D] of one request's samples, when they are there."""
        future: Future[npt.NDArray[np.float32]] = Future()
        with self._lock:
            if self._closed:
                raise TercetError("the service is stopping")
            self._waiting.put((samples, future))
        return future

    def close(self) -> None:
        """Finish what waits and stop; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            batch: list[_Waiting] = []
            size = 0
            while size < _MOST:
                try:
                    item = self._waiting.get(block=not batch)
                except queue.Empty:
                    break
                if item is None:
                    open_ = False
                    break
                if item[1].set_running_or_notify_cancel():
                    batch.append(item)
                    size += len(item[0])
            if batch:
                self._answer(batch, size)

    def _answer(self, batch: Sequence[_Waiting], size: int) -> None:
        self._seen(size)
        try:
            vectors_ND = self._embed(np.stack([sample for samples, _ in batch for sample in samples]))
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for samples, future in batch:
            future.set_result(vectors_ND[start : start + len(samples)])
            start += len(samples)
