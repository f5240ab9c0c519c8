"""Milvus Lite inside this process: one folder, one process at a time, reachable only by its owner."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any, Final, final

from tercet.errors import GalleryError, MissingExtra

__all__ = ["Engine", "is_gallery_folder"]

_COLLECTIONS: Final = "collections"
_LOCK: Final = "LOCK"
_PREFIX: Final = "tercet-"
_SOCKET: Final = "milvus"
_STALE_S: Final = 60  # a socket is made and answers in less


def is_gallery_folder(path: Path) -> bool:
    """Whether a folder is one that Milvus Lite keeps its data in."""
    return (path / _LOCK).is_file() and (path / _COLLECTIONS).is_dir()


@final
class Engine:
    """Milvus Lite on a folder, answering on a socket in a private folder (on Windows: on a port of this machine).

    A write has reached the write-ahead log when it is acknowledged, which outlives a kill of the process; `sync` then
    forces it to the disk, which outlives a power cut, and takes the files from all other users of the machine.

    Args:
        path: The folder; made where it is not there, with mode 0700.

    Raises:
        GalleryError: The folder is in use by another process, is no gallery, or cannot be written.
        MissingExtra: Milvus Lite is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            server: Any = importlib.import_module("milvus_lite.adapter.grpc.server")
            locked: Any = importlib.import_module("milvus_lite.exceptions").DataDirLockedError
        except ImportError as error:
            raise MissingExtra.of("a local gallery", "gallery") from error
        self.path = path
        _prepare(path)
        _sweep()
        # A socket's address may have about 100 letters, so it cannot lie in the gallery's own folder.
        self._sockets = Path(tempfile.mkdtemp(prefix=_PREFIX))
        host, port = ("unix", str(self._sockets / _SOCKET)) if os.name == "posix" else ("127.0.0.1", "0")
        try:
            self._server, self._db, bound = server.start_server_in_thread(str(path), host=host, port=port)
        except locked as error:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise GalleryError(
                f"{path}: in use by another process; to share it, stop that one, start a server with: milvus-lite "
                f"server --data-dir {path} --host 127.0.0.1, and use --gallery http://127.0.0.1:19530"
            ) from error
        except OSError as error:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise GalleryError(f"{path}: cannot be opened ({error.strerror or error})") from error
        self.uri = f"{host}:{port}" if host == "unix" else f"http://{host}:{bound}"
        self._close = weakref.finalize(self, _stop, self._server, self._db, self._sockets, path)
        # What a kill left of the making of a collection: no data can be in it, and its name would be taken.
        for folder in (path / _COLLECTIONS).iterdir():
            if not (folder / "schema.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)

    def flush(self, collection: str) -> None:
        """Turn the write-ahead log into a data file, which is searched many times faster."""
        self._db.get_collection(collection).flush()

    def sync(self, collection: str) -> None:
        """Force the files of a collection to the disk, and leave them to their owner alone.

        Raises:
            GalleryError: The disk does not take them.
        """
        try:
            _sync_folder(self.path / _COLLECTIONS / collection)
        except OSError as error:
            raise GalleryError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        """Write out what is in memory and let go of the folder; a second call does nothing."""
        self._close()


def _sweep() -> None:
    """Remove the sockets of processes that were killed: those at which nobody answers."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_SOCKET}"):
        with contextlib.suppress(OSError):
            found = left.parent.stat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > _STALE_S and _is_silent(left):
                shutil.rmtree(left.parent)


def _is_silent(at: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(at))
        except ConnectionRefusedError:
            return True
        return False


def _prepare(path: Path) -> None:
    """Make the folder, or check that an existing one is a gallery; either way its owner's alone."""
    try:
        if path.is_dir():
            # A kill in the first moment leaves less than a gallery, and nothing else.
            if {item.name for item in path.iterdir()} - {_LOCK, _COLLECTIONS} and not is_gallery_folder(path):
                raise GalleryError(f"{path}: a folder, but no gallery; name one that does not exist yet")
        elif path.exists():
            raise GalleryError(f"{path}: a file, but a gallery is a folder")
        elif not path.parent.is_dir():
            raise GalleryError(f"{path}: the folder {path.parent} does not exist")
        else:
            path.mkdir(mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be opened ({error.strerror or error})") from error


def _sync_folder(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the engine tidies up beside us
                _sync_private(Path(place) / name)
        if os.name == "posix":
            _sync_private(Path(place), 0o700)


def _sync_private(path: Path, mode: int = 0o600) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.name == "posix":
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stop(server: Any, db: Any, sockets: Path, path: Path) -> None:
    server.stop(grace=2).wait()
    # A disk that is full at this point costs nothing: what is not written out is still in the write-ahead log.
    with contextlib.suppress(OSError):
        db.close()
        _sync_folder(path)
    shutil.rmtree(sockets, ignore_errors=True)
