"""Load on `tercet serve`: one client, then many at once, by an asyncio client; latencies, refusals, memory, recovery.

    python benchmarks/service.py RUN FILE [--clients 64] [--seconds 60] [--templates 1000]

Starts a service of its own on a free port, with a gallery of made-up templates and FILE, and measures `identify` and
`verify`:

    one          one client, a request after the other
    many         CLIENTS at once, each on a connection of its own, a request after the other; who is refused (503) comes
                 again after about the time that the service names (Retry-After), as a well-behaved client does
    storm        the same, but who is refused comes again at once
    recovered    one client again, right after the storm

A request's time is that of one answer, served or refused; waits between are not in it. "until served" is counted from
the first attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Seen:
    """What clients saw: seconds of each answer, by what it was."""

    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    until_served: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def form(**files: bytes) -> bytes:
    """A multipart body with the boundary "b"."""
    head = 'Content-Disposition: form-data; name="{0}"; filename="{0}"'
    parts = [b"--b\r\n" + head.format(name).encode() + b"\r\n\r\n" + data + b"\r\n" for name, data in files.items()]
    return b"".join(parts) + b"--b--\r\n"


async def client(url: str, path: str, body: bytes, until: float, seen: Seen, *, polite: bool) -> None:
    """Ask again and again on one connection."""
    place = urlsplit(url)
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    first = time.perf_counter()
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(answer.split()[1])
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in answer.split("\r\n")[1:])}
            await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(type(error).__name__)
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            continue
        now = time.perf_counter()
        if status == 200:
            seen.served.append(now - began)
            seen.until_served.append(now - first)
            first = now
        elif status == 503:
            seen.refused.append(now - began)
            if polite:
                # Not all at the same moment, or they would meet again.
                await asyncio.sleep(float(headers["retry-after"]) * random.uniform(0.5, 1.5))
        else:
            seen.errors.append(str(status))
    writer.close()


async def load(url: str, path: str, body: bytes, clients: int, seconds: float, *, polite: bool) -> Seen:
    """So many clients for so long."""
    seen, until = Seen(), time.perf_counter() + seconds
    await asyncio.gather(*(client(url, path, body, until, seen, polite=polite) for _ in range(clients)))
    return seen


def in_ms(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    p50, p99 = 1000 * np.percentile(seconds, [50, 99])
    return f"{p50:7.1f} {p99:7.1f}"


def memory_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def make_gallery(run: str, place: Path, templates: int) -> None:
    """A gallery of random templates, four of each identity."""
    import tercet
    from tercet.gallery import Template, open_gallery

    model = tercet.load(run)
    width = int(model.config["encoder"]["embedding_dim"])
    x_ND = np.random.default_rng(0).standard_normal((templates, width)).astype(np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    with open_gallery(str(place), model=model.fingerprint, dimension=width, create=True) as gallery:
        gallery.enroll([Template(f"p{n // 4}", x_ND[n], f"c{n}") for n in range(templates)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--templates", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2 * (os.cpu_count() or 2))
    options = parser.parse_args()
    data = options.file.read_bytes()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.clients} clients, "
        f"{options.templates} templates, {options.at_once} at once"
    )
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "g.db"
        make_gallery(options.run, gallery, options.templates)
        command = [
            sys.executable,
            "-m",
            "tercet.cli.main",
            "serve",
            options.run,
            "--gallery",
            str(gallery),
            "--port",
            "0",
        ]
        command += ["--json", "--per-minute", "1e9", "--at-once", str(options.at_once)]
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["url"]
                for path, body in (("identify", form(file=data)), ("verify", form(a=data, b=data))):
                    measure(url, path, body, process.pid, options)
            finally:
                process.terminate()
                process.wait()


def measure(url: str, path: str, body: bytes, process: int, options: argparse.Namespace) -> None:
    asyncio.run(load(url, path, body, 1, 2, polite=True))
    print(f"\n{path}: milliseconds p50, p99")
    print(f"{'':10} {'served':>15} {'until served':>15} {'refused':>15}  served/s  refused/s  errors  memory MB")
    one = 0.0
    short = options.seconds / 6
    for name, clients, seconds, polite in (
        ("one", 1, short, True),
        ("many", options.clients, options.seconds, True),
        ("storm", options.clients, short, False),
        ("recovered", 1, short, True),
    ):
        seen = asyncio.run(load(url, path, body, clients, seconds, polite=polite))
        print(
            f"{name:10} {in_ms(seen.served)} {in_ms(seen.until_served)} {in_ms(seen.refused):>15}  "
            f"{len(seen.served) / seconds:8.1f}  {len(seen.refused) / seconds:9.1f}  {len(seen.errors):6}  "
            f"{memory_mb(process):9.0f}"
        )
        if name == "one":
            one = float(np.median(seen.served))
        if name in ("many", "storm"):
            print(
                f"{'':10} p99 of the served is {np.percentile(seen.served, 99) / one:.1f} times the p50 of one client"
            )


if __name__ == "__main__":
    main()
