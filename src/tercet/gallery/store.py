"""What a gallery needs of Milvus, the same over a local folder and over a server: the only module that speaks to it.

A gallery is two collections. `tercet_NAME_about` holds a few JSON values by key; one of them names the second, which
holds the templates. A gallery exists once that value is written, and changes to a rewritten collection by writing it
again: every step before can be repeated, every step after can be left out.

    D embedding width, Q probes
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from tercet.errors import GalleryError, InvalidInput, InvalidOption, MissingExtra
from tercet.gallery.engine import Engine

__all__ = ["INDEXES", "MOST_RESULTS", "Place", "Store"]

INDEXES: Final[Mapping[str, dict[str, int]]] = {
    "FLAT": {},
    "HNSW": {"M": 16, "efConstruction": 200},
    "IVF_FLAT": {"nlist": 128},
}
"""Indexes and the numbers they are built with. FLAT is exact; the others trade recall for speed."""

MOST_RESULTS: Final = 16_384
"""The most that Milvus answers to one search."""

_TIMEOUT_S: Final = 30.0
_CONNECT_S: Final = 5.0
_PAGE: Final = 1000
_COLUMNS: Final = ("key", "subject", "tags", "record", "picture", "expires")


@final
class Place:
    """Where a gallery is: a folder of this machine, or a Milvus server, each with a gallery's name after a "#".

    Args:
        uri: `gallery.db`, `people.db#staff`, `http://host:19530`, `http://user:password@host:19530/database#staff`.

    Raises:
        InvalidInput: An address that cannot be one.
    """

    def __init__(self, uri: str) -> None:
        self.address, _, name = uri.partition("#")
        self.name = name or "gallery"
        if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", self.name):
            raise InvalidInput(f"{uri}: after # comes a name of letters, digits and _")
        self.remote = "://" in self.address
        self.shown = self.address
        if self.remote:
            try:
                parts = urlsplit(self.address)
                host, port = parts.hostname, parts.port
            except ValueError as error:
                raise InvalidInput(f"{self.address.rpartition('@')[2]}: no address of a server ({error})") from error
            if parts.scheme not in ("http", "https", "tcp") or not host:
                raise InvalidInput(
                    f"{self.address.rpartition('@')[2]}: must be a folder or begin with http://, https:// or tcp://"
                )
            # A password in the address is nobody's business but the server's.
            self.shown = f"{parts.scheme}://{host}" + (f":{port}" if port else "") + parts.path
        elif not self.address:
            raise InvalidInput("gallery: no name given")
        if name:
            self.shown += f"#{name}"

    @property
    def path(self) -> Path:
        """The folder of a local gallery."""
        return Path(self.address)


@final
class Store:
    """An open connection to the collections of one gallery.

    Args:
        place: Where it is.
        create: Whether a local folder may be made.

    Raises:
        GalleryError: Nothing answers there, or the folder is missing or in use.
        MissingExtra: pymilvus is not installed.
    """

    def __init__(self, place: Place, *, create: bool) -> None:
        try:
            self._milvus: Any = importlib.import_module("pymilvus")
            self._no_answer: type[Exception] = importlib.import_module("grpc").RpcError
        except ImportError as error:
            raise MissingExtra.of("the gallery", "gallery") from error
        for name in ("pymilvus", "milvus_lite", "grpc._server"):
            # What they log as errors is raised too, and told in one line by whoever catches it.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.place = place
        self._about = f"tercet_{place.name}_about"
        self._broken = ""
        self._values: dict[str, dict[str, Any]] | None = None
        self._writes = 0
        self._lock = threading.Lock()
        self.engine: Engine | None = None
        if not place.remote:
            if not create and not place.path.exists():
                raise GalleryError(f"{place.shown}: no such gallery; `enroll` makes one")
            self.engine = Engine(place.path)
        try:
            uri = self.engine.uri if self.engine else place.address
            self._client: Any = self._milvus.MilvusClient(uri=uri, timeout=_CONNECT_S)
        except (self._milvus.MilvusException, self._no_answer) as error:
            self.close()
            raise GalleryError(
                f"{place.shown}: no Milvus server answers there (is it running, are host and port right?)"
            ) from error

    def values(self) -> dict[str, dict[str, Any]]:
        """The JSON values about the gallery by key; none where there is no gallery."""
        if self._values is not None:
            return dict(self._values)
        writes = self._writes
        with self._told("cannot be read"):
            if not self._client.has_collection(self._about, timeout=_TIMEOUT_S):
                return {}
            if self._client.get_load_state(self._about, timeout=_TIMEOUT_S)["state"].name != "Loaded":
                try:
                    self._client.load_collection(self._about, timeout=_TIMEOUT_S)
                except self._milvus.MilvusException:
                    return {}  # killed between its making and its index: nothing was ever written to it
            found = self._client.query(self._about, filter='key != ""', output_fields=["key", "value"], **_STRONG)
        try:
            values = {row["key"]: dict(json.loads(row["value"])) for row in found}
        except (ValueError, TypeError, KeyError) as error:
            raise GalleryError(f"{self.place.shown}: damaged, its description cannot be read") from error
        with self._lock:
            if self.engine is not None and writes == self._writes:  # nobody else writes there
                self._values = values
        return dict(values)

    def set_value(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        row = {"key": key, "value": json.dumps(value, allow_nan=False), "vector": [1.0, 0.0]}
        try:
            self._write(self._about, lambda: self._client.upsert(self._about, [row], timeout=_TIMEOUT_S))
        finally:
            with self._lock:
                self._writes += 1
                self._values = None

    def begin(self) -> None:
        """Make the collection that `values` reads, and drop what a making that was cut short has left."""
        with self._told("cannot be written"):
            for name in self._client.list_collections(timeout=_TIMEOUT_S):
                if name.startswith(f"tercet_{self.place.name}_"):
                    self._client.drop_collection(name, timeout=_TIMEOUT_S)
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            varchar = self._milvus.DataType.VARCHAR
            schema.add_field("key", varchar, is_primary=True, max_length=64)
            schema.add_field("value", varchar, max_length=65_535)
            schema.add_field("vector", self._milvus.DataType.FLOAT_VECTOR, dim=2)  # Milvus asks for one
            self._create(self._about, schema, "FLAT")

    def create(self, dimension: int, index: str) -> str:
        """Make an empty collection of templates; its name."""
        if index not in INDEXES:
            raise InvalidOption.unknown("index", index, INDEXES)
        kinds = self._milvus.DataType
        with self._told("cannot be written"):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("key", kinds.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("subject", kinds.VARCHAR, max_length=64)
            schema.add_field(
                "tags", kinds.ARRAY, element_type=kinds.VARCHAR, max_capacity=64, max_length=64, nullable=False
            )
            schema.add_field("record", kinds.VARCHAR, max_length=65_535)
            schema.add_field("picture", kinds.VARCHAR, max_length=65_535)
            schema.add_field("expires", kinds.INT64)
            schema.add_field("vector", kinds.FLOAT_VECTOR, dim=dimension)
            name = f"tercet_{self.place.name}_{secrets.token_hex(6)}"
            self._create(name, schema, index)
        return name

    def upsert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, all or none of them; a row with the key of another replaces it. On the disk on return."""
        self._write(collection, lambda: self._client.upsert(collection, list(rows), timeout=_TIMEOUT_S))

    def delete(self, collection: str, where: str) -> None:
        """Delete the rows that a condition names, all at once. On the disk on return."""
        self._write(collection, lambda: self._client.delete(collection, filter=where, timeout=_TIMEOUT_S))

    def count(self, collection: str, where: str = "") -> int:
        """How many rows there are, or fulfil a condition."""
        with self._told("cannot be read"):
            return int(
                self._client.query(collection, filter=where, output_fields=["count(*)"], **_STRONG)[0]["count(*)"]
            )

    def rows(self, collection: str, where: str = "", columns: Sequence[str] = _COLUMNS[:4]) -> Iterator[dict[str, Any]]:
        """The rows that fulfil a condition, a page at a time, in the order of their keys."""
        with self._told("cannot be read"):
            pages = self._client.query_iterator(
                collection, batch_size=_PAGE, filter=where, output_fields=list(columns), **_STRONG
            )
            try:
                while page := pages.next():
                    yield from page
            finally:
                pages.close()

    def search(
        self, collection: str, probe_D: npt.NDArray[np.float32], limit: int, where: str, index: str
    ) -> list[dict[str, Any]]:
        """The rows nearest to a vector by cosine similarity, best first, each with its vector and columns."""
        params = {"HNSW": {"ef": max(128, 2 * limit)}, "IVF_FLAT": {"nprobe": 32}}.get(index, {})
        with self._told("cannot be searched"):
            hits = self._client.search(
                collection,
                data=[probe_D.tolist()],
                limit=limit,
                filter=where,
                output_fields=["subject", "record", "vector"],
                search_params={"metric_type": "COSINE", "params": params},
                anns_field="vector",
                **_STRONG,
            )[0]
        return [{"key": hit["key"], **hit["entity"]} for hit in hits]

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection."""
        with self._told("cannot be read"):
            return bool(self._client.has_collection(collection, timeout=_TIMEOUT_S))

    def drop(self, collection: str) -> None:
        """Remove a collection with everything in it."""
        with self._told("cannot be written"):
            self._client.drop_collection(collection, timeout=_TIMEOUT_S)

    def others(self, collection: str) -> list[str]:
        """Collections that a rewriting which was cut short has left beside the gallery's own."""
        with self._told("cannot be read"):
            names = self._client.list_collections(timeout=_TIMEOUT_S)
        form = re.compile(rf"tercet_{self.place.name}_[0-9a-f]{{12}}")
        return [name for name in names if form.fullmatch(name) and name != collection]

    def load(self, collection: str) -> None:
        """Make a collection ready to be searched."""
        with self._told("cannot be opened"):
            self._client.load_collection(collection, timeout=_TIMEOUT_S)

    def settle(self, collection: str) -> None:
        """Have the engine file what it holds in memory, which is then searched faster; a server does so by itself."""
        if self.engine is not None:
            with self._told("cannot be written"):
                self.engine.flush(collection)
                self.engine.sync(collection)

    def erase(self, collection: str) -> None:
        """Ask a server to rewrite its files without what was deleted; it does so when it sees fit."""
        with self._told("cannot be written"), contextlib.suppress(self._milvus.MilvusException, self._no_answer):
            # Servers limit how often they may be asked, and compact by themselves too.
            self._client.flush(collection, timeout=_TIMEOUT_S)
            self._client.compact(collection, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Let go of the connection, and of the folder."""
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
        if self.engine is not None:
            self.engine.close()

    def _create(self, name: str, schema: Any, index: str) -> None:
        params = self._client.prepare_index_params()
        params.add_index("vector", index_type=index, metric_type="COSINE", params=INDEXES[index])
        # One shard: the rows of one write are then one entry of the log, which is there whole or not at all.
        self._client.create_collection(
            name, schema=schema, index_params=params, consistency_level="Strong", num_shards=1, timeout=_TIMEOUT_S
        )

    def _write(self, collection: str, write: Any) -> None:
        if self._broken:
            raise GalleryError(f"{self.place.shown}: a write has failed ({self._broken}); open the gallery again")
        try:
            with self._told("cannot be written"):
                write()
            if self.engine is not None:
                self.engine.sync(collection)
        except GalleryError as error:
            # The log may end in a torn entry now, behind which nothing would be found again.
            self._broken = str(error) if self.engine is not None else ""
            raise

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn the errors of Milvus into one line."""
        try:
            yield
        # What gives no answer in time comes through from beneath Milvus' client as it is.
        except (self._milvus.MilvusException, self._no_answer, OSError) as error:
            reason = str(getattr(error, "message", "") or getattr(error, "strerror", "") or error)
            if "unavailable" in reason.lower() or "deadline" in reason.lower():
                silent = f"no answer within {_TIMEOUT_S:.0f} s; is this machine busy?"
                reason = "the Milvus server does not answer any more" if self.place.remote else silent
            if "create connection first" in reason:
                reason = "it is closed"
            raise GalleryError(f"{self.place.shown}: {what} ({' '.join(reason.split())[:300]})") from error


_STRONG: Final[Mapping[str, Any]] = {"consistency_level": "Strong", "timeout": _TIMEOUT_S}
