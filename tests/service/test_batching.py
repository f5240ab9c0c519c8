from __future__ import annotations

import threading

import numpy as np
import pytest

from tercet.errors import TercetError
from tercet.service.batching import Batcher


def sample(value: float) -> np.ndarray:
    return np.full((2,), value, np.float32)


def test_what_waits_goes_together_and_comes_back_apart() -> None:
    sizes, began, go = [], threading.Event(), threading.Event()

    def embed(samples_ND: np.ndarray) -> np.ndarray:
        began.set()
        assert go.wait(60)
        return samples_ND * 10

    batcher = Batcher(embed, sizes.append)
    first = batcher.submit([sample(0)])
    assert began.wait(60)
    rest = [batcher.submit([sample(n), sample(n + 0.5)]) for n in range(1, 6)]
    go.set()
    assert first.result(60).tolist() == [[0, 0]]
    for n, future in enumerate(rest, start=1):
        assert future.result(60)[:, 0].tolist() == [10 * n, 10 * n + 5]
    assert sizes == [1, 10]
    batcher.close()
    assert not batcher.alive


def test_an_error_reaches_everybody_and_the_next_are_served() -> None:
    def embed(samples_ND: np.ndarray) -> np.ndarray:
        if (samples_ND < 0).any():
            raise ValueError("negative")
        return samples_ND

    batcher = Batcher(embed)
    with pytest.raises(ValueError, match="negative"):
        batcher.submit([sample(-1)]).result(60)
    assert batcher.submit([sample(1)]).result(60).shape == (1, 2)
    batcher.close()


def test_close_finishes_what_waits_and_takes_no_more() -> None:
    go = threading.Event()

    def embed(samples_ND: np.ndarray) -> np.ndarray:
        assert go.wait(60)
        return samples_ND

    batcher = Batcher(embed)
    futures = [batcher.submit([sample(n)]) for n in range(200)]
    threading.Timer(0.05, go.set).start()
    batcher.close()
    assert [future.result(0)[0, 0] for future in futures] == list(range(200))
    with pytest.raises(TercetError, match="stopping"):
        batcher.submit([sample(0)])
    batcher.close()
