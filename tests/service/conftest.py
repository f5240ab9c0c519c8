from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from starlette.testclient import TestClient

import tercet
from synthetic import write_people
from tercet.data import AudioFrontEnd, ImageFrontEnd, Split
from tercet.encoders import ConvEncoderConfig, SpeechEncoderConfig, build_encoder
from tercet.evaluate import all_pairs, calibrate
from tercet.gallery import Gallery, open_gallery
from tercet.run import Model, RunSplit, save_model
from tercet.service import Journal, Settings, listen, make_app
from voices import write_speakers

pytest.importorskip("pymilvus", reason="pymilvus is not installed")


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("TERCET_GALLERY_KEY", "TERCET_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def save(path: Path, task: str, front_end: Any, encoder: Any) -> None:
    torch.manual_seed(0)
    save_model(
        path,
        task=task,
        seed=0,
        front_end=front_end,
        encoder=encoder.to_json(),
        weights=build_encoder(encoder.to_json()).state_dict(),
        split=RunSplit(Split(0, ("somebody",), (), ()), {"train": (), "validation": ()}),
        training={},
        data={"path": "made up"},
        metrics={"steps": 0},
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten made-up people with six pictures each. Not to be changed."""
    return write_people(tmp_path_factory.mktemp("pictures") / "people", side=16)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run for pictures: an untrained network with a threshold. Not to be changed."""
    path = tmp_path_factory.mktemp("runs") / "pictures"
    encoder = ConvEncoderConfig(1, 16, 16, embedding_dim=16, base_width=8, pool="flatten")
    save(path, "faces", ImageFrontEnd(16, 16, 1, fit="stretch"), encoder)
    files = sorted(pictures.glob("*/*.png"))
    model = tercet.load(path)
    _, labels_N = np.unique([file.parent.name for file in files], return_inverse=True)
    pairs = all_pairs(model.embed(files), labels_N)
    model.save_calibration(calibrate(pairs.scores, pairs.genuine, target_fmr=0.1))
    return path


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made-up speakers with three recordings each. Not to be changed."""
    return write_speakers(tmp_path_factory.mktemp("voices") / "speakers", speakers=4, utterances=3)


@pytest.fixture(scope="session")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for speech, as `run`."""
    path = tmp_path_factory.mktemp("runs") / "sounds"
    save(path, "speakers", AudioFrontEnd(seconds=1.0), SpeechEncoderConfig(width=64, embedding_dim=16))
    scores = np.concatenate([np.full(4000, 0.9), np.full(4000, 0.3)])
    tercet.load(path).save_calibration(calibrate(scores, scores > 0.5, target_fmr=0.01))
    return path


@dataclass
class Service:
    """A service under test: `client` speaks to it, `log()` gives its lines."""

    client: TestClient
    model: Model
    gallery: Gallery
    written: io.StringIO

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written.getvalue().splitlines()]

    def post(self, path: str, *files: tuple[str, Path | bytes], **fields: Any) -> Any:
        """Send a form; files are (field, path or bytes)."""
        parts = []
        for field, content in files:
            name, data = ("upload.png", content) if isinstance(content, bytes) else (content.name, content.read_bytes())
            parts.append((field, (name, data)))
        if not parts:
            return self.client.post(f"/v1/{path}", files=[(key, (None, value)) for key, value in fields.items()])
        return self.client.post(f"/v1/{path}", files=parts, data=fields)


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path, run: Path) -> Iterator[Start]:
    """Starts services, each with a fresh gallery, and stops them in the end."""
    with contextlib.ExitStack() as stack:
        names = iter(range(100))

        def begin(of: Path = run, change: Callable[[Model], None] = lambda model: None, **settings: Any) -> Service:
            model = tercet.load(of)
            change(model)
            uri = str(tmp_path / f"gallery{next(names)}.db")
            width = int(model.config["encoder"]["embedding_dim"])
            gallery = stack.enter_context(open_gallery(uri, model=model.fingerprint, dimension=width, create=True))
            written = io.StringIO()
            app = make_app(model, gallery, Settings(**({"per_minute": 1e9} | settings)), Journal(written))
            client = stack.enter_context(TestClient(app, "http://127.0.0.1", raise_server_exceptions=False))
            return Service(client, model, gallery, written)

        yield begin


@pytest.fixture
def on_a_socket() -> Callable[..., contextlib.AbstractContextManager[str]]:
    return _on_a_socket


@contextlib.contextmanager
def _on_a_socket(model: Model, gallery: Gallery, settings: Settings, journal: Journal) -> Iterator[str]:
    """The service on a real socket, in a thread; its address."""
    with listen("127.0.0.1", 0) as at:
        config = uvicorn.Config(
            make_app(model, gallery, settings, journal), http="h11", ws="none", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
