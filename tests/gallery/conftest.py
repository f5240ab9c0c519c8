from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enrolled import Backend
from tercet.gallery import Gallery

pytest.importorskip("pymilvus", reason="the extra gallery is not installed")
pytest.importorskip("milvus_lite", reason="the extra gallery is not installed")


Running = Callable[[Path], contextlib.AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TERCET_GALLERY_KEY", raising=False)


@contextlib.contextmanager
def _running(data: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    program = Path(sys.executable).with_name("milvus-lite")
    if not program.exists():
        pytest.skip("no milvus-lite program beside this Python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "server", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.skip(f"milvus-lite server ended with {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.1)
        else:
            pytest.skip("milvus-lite server did not answer within a minute")
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def running_server() -> Running:
    """Starts a Milvus server on a folder, as a process of its own: its address and the process."""
    return _running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus server that tests share."""
    with _running(tmp_path_factory.mktemp("server") / "data") as (url, _):
        yield url


@pytest.fixture(params=["folder", "server"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, fresh_name: Callable[[], str]) -> Iterator[Backend]:
    if request.param == "server":
        made = Backend(f"{request.getfixturevalue('server')}#{fresh_name()}", True)
    else:
        made = Backend(str(tmp_path / "gallery.db"), False)
    yield made
    made.close()


_names = iter(range(10**6))


@pytest.fixture(scope="session")
def fresh_name() -> Callable[[], str]:
    return lambda: f"g{next(_names)}"


@pytest.fixture
def gallery(backend: Backend) -> Gallery:
    return backend.open()
