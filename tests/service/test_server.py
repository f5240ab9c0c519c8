"""The service as a process on a socket: how it starts, what slow and greedy clients get, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.requests import Request

from tercet.cli.main import main
from tercet.service.forms import read_form
from tercet.service.refusal import Refusal
from tercet.service.settings import Settings

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


@contextmanager
def serving(run: Path, gallery: Path, *options: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`tercet serve` in a process of its own: its address and the process, which must end by itself or is killed."""
    command = [sys.executable, "-m", "tercet.cli.main", "serve", str(run), "--gallery", str(gallery), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        yield json.loads(line)["url"], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def raw(url: str) -> socket.socket:
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port or 80), 120)
    connection.settimeout(120)
    return connection


def head(length: int | None, **headers: str) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ["POST /v1/identify HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=b", size]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def test_a_life(run: Path, pictures: Path, tmp_path: Path) -> None:
    """Keys, bodies that are too long, an upload that ends after SIGTERM came, the end, and what is left."""
    key_file = tmp_path / "keys"
    key_file.write_text("0123456789abcdef\n")
    key_file.chmod(0o600)
    picture = (pictures / "p00" / "0.png").read_bytes()
    gallery = tmp_path / "g.db"
    options = ("--api-key-file", str(key_file), "--max-mb", "0.5")
    with serving(run, gallery, *options, TERCET_API_KEY="second-key-0123456789") as (url, process):
        bearer = {"authorization": "Bearer second-key-0123456789"}
        assert httpx2.get(f"{url}/v1/list").status_code == 401
        enrolled = httpx2.post(
            f"{url}/v1/enroll", headers=bearer, files={"file": ("a.png", picture)}, data={"identity": "Zoe"}
        )
        assert enrolled.json()["enrolled"] == 1

        # Refused from its header, before any of it is sent, and the connection ends.
        with raw(url) as connection:
            connection.sendall(head(10**9, Authorization=bearer["authorization"]))
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in answer.lower()
        # Not announced: refused on the way.
        with raw(url) as connection:
            connection.sendall(head(None, Authorization=bearer["authorization"]) + b"%x\r\n%s\r\n" % (len(FORM), FORM))
            try:
                for _ in range(100):
                    connection.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
            except OSError:
                pass
            else:
                pytest.fail("six megabytes were taken")

        body = FORM + picture + b"\r\n--b--\r\n"
        with raw(url) as connection:
            connection.sendall(head(len(body), Authorization=bearer["authorization"]) + body[:100])
            wait_for(lambda: httpx2.get(f"{url}/health").status_code == 200)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: refuses(url))
            connection.sendall(body[100:])
            answer = read_all(connection)
        assert b"HTTP/1.1 200" in answer
        assert b'"identity":"Zoe"' in answer
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, ""), err
    log = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [line["status"] for line in log][-1] == 200
    assert "Zoe" not in err
    assert "0123456789" not in err
    assert main(["gallery", "list", "--gallery", str(gallery), "--json"]) == 0


def refuses(url: str) -> bool:
    try:
        with raw(url):
            return False
    except ConnectionRefusedError:
        return True


def wait_for(condition: Any) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


def test_ctrl_c_and_a_slow_client(run: Path, tmp_path: Path) -> None:
    with serving(run, tmp_path / "g.db") as (url, process):
        second = [sys.executable, "-m", "tercet.cli.main", "gallery", "list", "--gallery", str(tmp_path / "g.db")]
        done = subprocess.run(second, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert "in use by another process" in done.stderr
        with raw(url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000)
            assert b"400" in read_all(connection)[:40]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert err.splitlines()[-1] == "tercet: interrupted"
        assert "Traceback" not in err


def test_an_upload_that_takes_too_long() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(120)
        raise AssertionError

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(Refusal) as refused:
        asyncio.run(read_form(request, Settings(upload_s=0.05), files=("file",), fields=(), most_files=1))
    assert refused.value.status == 408


def test_wrong_starts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = str(tmp_path / "g.db")

    def refused(*options: str) -> str:
        assert main(["serve", str(run), "--gallery", gallery, *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()[-1]

    assert "give --api-key-file FILE" in refused("--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen there" in refused("--port", str(taken.getsockname()[1]))
    assert "No such file" in refused("--api-key-file", str(tmp_path / "none"))
    assert "max_file_bytes" in refused("--max-mb", "0")
    assert "per_minute" in refused("--per-minute", "-1")
    monkeypatch.setenv("TERCET_API_KEY", "short")
    said = refused()
    assert "TERCET_API_KEY: a key of 5 characters" in said
    monkeypatch.setenv("TERCET_API_KEY", "0123456789abcdef")
    assert "--no-key" in refused("--no-key")
    assert not Path(gallery).exists()
