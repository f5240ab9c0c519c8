"""A gallery: enrolled templates of known identities, searched by similarity, bound to one model.

N templates, D embedding width
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self, TypeVar, final

import numpy as np
import numpy.typing as npt

from tercet.errors import GalleryError, InvalidInput
from tercet.evaluate import nearest
from tercet.gallery.answers import Enrolled, Match, Person, Removed
from tercet.gallery.audit import Audit, home_of
from tercet.gallery.counts import Counts
from tercet.gallery.parts import PART_ROWS, in_pages, in_parts, plain_value
from tercet.gallery.seal import Seal
from tercet.gallery.store import MOST_RESULTS, Store
from tercet.gallery.templates import Entry, Template, check_name, entry_of, picture_of, row_of

__all__ = ["Gallery"]

T = TypeVar("T")

_CLEAR: Final = ("key", "record")
_LONGEST_S: Final = 100 * 365.25 * 86_400  # far below the last year that a date can name


@final
class Gallery:
    """An open gallery; `open_gallery` gives it. A context manager; safe to use from several threads.

    Attributes:
        name: The address, without a password.
        model: The fingerprint of its model.
        dimension: The width of its vectors.
        index: FLAT, HNSW or IVF_FLAT.
    """

    def __init__(self, store: Store, about: Mapping[str, Any], seal: Seal) -> None:
        self.name = store.place.shown
        self.model = str(about["model"])
        self.dimension = int(about["dimension"])
        self.index = str(about["index"])
        self._store = store
        self._about = dict(about)
        self._seal = seal
        self._lock = threading.RLock()
        self._counts = Counts()
        store.load(self._collection)
        if store.engine is not None:
            for left in store.others(self._collection):
                store.drop(left)
            if self._about.get("rewrite"):
                self._rewrite()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the gallery; another process may open it then."""
        self._store.close()

    @cached_property
    def audit(self) -> Audit:
        """The audit log."""
        return Audit(home_of(self._store.place))

    def enroll(
        self,
        templates: Sequence[Template],
        *,
        retain_s: float | None = None,
        calibration: str | None = None,
        by_path: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Enrolled:
        """Store templates. When this returns they are on the disk.

        The templates of an identity are stored together, all or none, up to 1000 of them or 16 MiB; more than that, and
        many identities, in several such parts one after the other. The same content of the same identity replaces what
        was there.

        Args:
            templates: What to store.
            retain_s: Seconds, up to a hundred years, after which they may be purged and are no longer found; None:
                never.
            calibration: The id of the calibration in force, for the record.
            by_path: A path names a file of this machine, whose older content is replaced too.
            progress: Told (stored, total) after each part.

        Raises:
            InvalidInput: A vector of another width; a time out of range.
            GalleryError: A part could not be stored; says how many templates are.
        """
        for template in templates:
            if len(template.vector) != self.dimension:
                raise InvalidInput(f"{self.name}: vectors of width {self.dimension}, not {len(template.vector)}")
        if retain_s is not None and not 0 < retain_s <= _LONGEST_S:
            raise InvalidInput(f"retain_s={retain_s:g} must be above 0 and at most a hundred years")
        expires_ms = int((time.time() + retain_s) * 1000) if retain_s else 0
        done, replaced, identities = 0, 0, set[str]()
        with self._lock:
            for part in in_parts(templates):
                rows = {}
                for template in part:
                    row = row_of(template, self._seal, enrolled=_now(), expires_ms=expires_ms, calibration=calibration)
                    rows[row["key"]] = row
                names = sorted({template.identity for template in part})
                try:
                    replaced += self._store_part(part, list(rows.values()), names, by_path)
                except GalleryError as error:
                    raise GalleryError(f"{error}; stored before that: {done} of {len(templates)} templates") from error
                done += len(rows)
                identities.update(names)
                if progress is not None:
                    progress(done, len(templates))
            if len(templates) >= PART_ROWS:
                self._store.settle(self._collection)
        return Enrolled(done, len(identities), replaced)

    def search(self, probe_D: npt.NDArray[np.float32], k: int = 10, *, tags: Sequence[str] = ()) -> list[Match]:
        """The k templates most like a vector, best first, of those that bear all the tags; exact with the index FLAT.

        Scores are computed by `tercet.evaluate`, so that they equal those of `verify` on every backend.
        """
        if k < 1 or k > MOST_RESULTS:
            raise InvalidInput(f"k={k} must be 1 to {MOST_RESULTS}")
        if probe_D.shape != (self.dimension,):
            raise InvalidInput(f"probe: must be a vector of width {self.dimension}, not {list(probe_D.shape)}")
        turned_D = self._seal.turn(probe_D[None])[0]
        found = self._read(lambda name: self._store.search(name, turned_D, k, self._alive(tags), self.index))
        return self._scored(probe_D, found)

    def candidates(
        self, probe_D: npt.NDArray[np.float32], identities: int = 5, *, tags: Sequence[str] = ()
    ) -> list[Match]:
        """The best template of each of the identities most like a vector, best first.

        A person with many templates does not crowd out the next one: the search is widened until enough are found.
        """
        limit = max(16, 4 * identities)
        while True:
            found = self.search(probe_D, limit, tags=tags)
            best: dict[str, Match] = {}
            for match in found:
                best.setdefault(match.identity, match)
            if len(best) >= identities or len(found) < limit or limit == MOST_RESULTS:
                return list(best.values())[:identities]
            limit = min(MOST_RESULTS, 4 * limit)

    def of(self, identity: str, probe_D: npt.NDArray[np.float32] | None = None) -> list[Match]:
        """The templates of one identity, those most like the probe first (score 0 without a probe).

        Raises:
            GalleryError: Nobody of that name is enrolled.
        """
        where = f"({self._alive(())}) and {self._whose(identity)}"
        rows = self._read(lambda name: list(self._store.rows(name, where, (*_CLEAR, "vector"))))
        if not rows:
            raise GalleryError(f"{self.name}: {identity!r} is not enrolled")
        return self._scored(np.zeros(self.dimension, np.float32) if probe_D is None else probe_D, rows)

    def picture(self, key: str) -> bytes:
        """The stored picture of a template; empty where none was stored."""
        if not key.isalnum():
            raise InvalidInput(f"key={key!r} names no template")
        where = f'({self._alive(())}) and key == "{key}"'
        rows = self._read(lambda name: list(self._store.rows(name, where, ("key", "picture"))))
        return picture_of(rows[0]["picture"], self._seal) if rows else b""

    def has(self, identity: str) -> bool:
        """Whether an identity is enrolled."""
        where = f"({self._alive(())}) and {self._whose(identity)}"
        return self._read(lambda name: self._store.count(name, where)) > 0

    def __len__(self) -> int:
        """Templates that a search can find."""
        return self.count()

    def count(self, *, tags: Sequence[str] = ()) -> int:
        """Templates that a search for these tags can find."""
        words = tuple(sorted({check_name("tag", tag) for tag in tags}))
        known = self._counts.get(words)
        if known is not None:
            return known
        writes = self._counts.writes
        found = self._read(lambda name: self._store.count(name, self._alive(words)))
        if self._store.engine is not None:  # nobody else writes there
            until_ms = self._read(self._next_expiry)
            self._counts.keep(words, found, until_ms=until_ms, writes=writes)
        return found

    def entries(self) -> Iterator[tuple[Entry, npt.NDArray[np.float32], bytes]]:
        """Every template with its vector and its picture (empty: none), in a fixed order."""
        with self._lock:
            for row in self._store.rows(self._collection, self._alive(()), (*_CLEAR, "picture", "vector")):
                vector_D = self._seal.turn_back(np.asarray(row["vector"], np.float32)[None])[0]
                yield self._entry(row), vector_D, picture_of(row["picture"], self._seal)

    def people(self) -> list[Person]:
        """Every enrolled identity, by name."""
        found: dict[str, list[Entry]] = {}
        for row in self._read(lambda name: list(self._store.rows(name, self._alive(()), _CLEAR))):
            entry = self._entry(row)
            found.setdefault(entry.identity, []).append(entry)
        return [
            Person(
                identity,
                len(entries),
                tuple(sorted({tag for entry in entries for tag in entry.tags})),
                min(entry.enrolled for entry in entries),
                min((entry.expires for entry in entries if entry.expires), default=None),
            )
            for identity, entries in sorted(found.items())
        ]

    def stats(self) -> dict[str, Any]:
        """Figures about the gallery, as JSON values."""
        people = self.people()
        name, now_ms = self._collection, int(time.time() * 1000)
        engine = self._store.engine
        return {
            "gallery": self.name,
            "model": self.model,
            "dimension": self.dimension,
            "index": self.index,
            "exact": self.index == "FLAT",
            "sealed": self._seal.sealed,
            "created": self._about["created"],
            "identities": len(people),
            "templates": sum(person.templates for person in people),
            "most_templates_of_one": max((person.templates for person in people), default=0),
            "tags": dict(sorted(Counter(tag for person in people for tag in person.tags).items())),
            "pictures": self._store.count(name, 'picture != ""'),
            "expiring": self._store.count(name, f"expires > {now_ms}"),
            "expired": self._store.count(name, f"expires > 0 and expires <= {now_ms}"),
            "bytes": engine and sum(file.stat().st_size for file in engine.path.rglob("*") if file.is_file()),
            "audit": str(self.audit.path),
            "margin": self.value("margin"),
        }

    def forget(self, identity: str) -> Removed:
        """Remove an identity: vectors, metadata, pictures. No search finds it from here on, also after a restart.

        A local gallery is written anew without it before this returns, so that its bytes are gone from the files.

        Raises:
            GalleryError: Nobody of that name is enrolled.
        """
        removed = self._remove("forget", self._whose(identity), check_name("identity", identity))
        if removed is None:
            raise GalleryError(f"{self.name}: {identity!r} is not enrolled")
        return removed

    def purge(self) -> Removed:
        """Remove every template whose retention time is over, as `forget` does."""
        where = f"expires > 0 and expires <= {int(time.time() * 1000)}"
        return self._remove("purge", where) or Removed((), 0, 0, (), self._store.engine is not None)

    def value(self, key: str) -> dict[str, Any] | None:
        """A JSON value kept with the gallery under a key, or None."""
        return self._store.values().get(key)

    def set_value(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value with the gallery."""
        if key == "gallery":
            raise InvalidInput("key='gallery' is the gallery's own")
        with self._lock:
            self._store.set_value(key, value)

    @property
    def _collection(self) -> str:
        return str(self._about["collection"])

    def _alive(self, tags: Sequence[str]) -> str:
        where = f"(expires == 0 or expires > {int(time.time() * 1000)})"
        tokens = [self._seal.token("tag", check_name("tag", tag)) for tag in tags]
        return " and ".join([where, *(f'array_contains(tags, "{token}")' for token in tokens)])

    def _next_expiry(self, name: str) -> float:
        """When the next template expires, in milliseconds; infinity for never."""
        rows = self._store.rows(name, f"expires > {int(time.time() * 1000)}", ("key", "expires"))
        return min((float(row["expires"]) for row in rows), default=np.inf)

    def _whose(self, identity: str) -> str:
        # Only hashes ever stand in a condition: no name can change what it means.
        return f'subject == "{self._seal.token("identity", check_name("identity", identity))}"'

    def _read(self, read: Callable[[str], T]) -> T:
        """Read from the collection in use; once more where another thread has just exchanged it."""
        name = self._collection
        try:
            return read(name)
        except GalleryError:
            with self._lock:
                if self._collection == name:
                    raise
                return read(self._collection)

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        try:
            return entry_of(row, self._seal)
        except GalleryError as error:
            raise GalleryError(f"{self.name}: {error}") from error

    def _scored(self, probe_D: npt.NDArray[np.float32], rows: Sequence[Mapping[str, Any]]) -> list[Match]:
        """Rows with their exact similarity to a probe, best first; at ties in the order of their keys."""
        if not rows:
            return []
        rows = sorted(rows, key=lambda row: str(row["key"]))
        x_ND = self._seal.turn_back(np.asarray([row["vector"] for row in rows], np.float32))
        found = nearest(probe_D[None], x_ND, len(rows))
        matches = []
        for index, score in zip(found.index_QK[0], found.score_QK[0], strict=True):
            entry = self._entry(rows[index])
            matches.append(Match(entry.identity, entry.path, float(score), entry))
        return matches

    def _store_part(
        self, part: Sequence[Template], rows: Sequence[Mapping[str, Any]], names: Sequence[str], by_path: bool
    ) -> int:
        """Store one part; the number of templates that were there before and are replaced."""
        subjects = ", ".join(f'"{subject}"' for subject in sorted({str(row["subject"]) for row in rows}))
        before = list(self._store.rows(self._collection, f"subject in [{subjects}]", _CLEAR))
        new = {str(row["key"]) for row in rows}
        same = {str(row["key"]) for row in before} & new
        stale: list[str] = []
        if by_path and before:
            here = {(template.identity, template.path) for template in part if template.path}
            entries = [self._entry(row) for row in before]
            stale = [entry.key for entry in entries if entry.key not in new and (entry.identity, entry.path) in here]
        with self.audit.operation("enroll", names, templates=len(rows)) as result:
            try:
                self._store.upsert(self._collection, rows)
                if stale:
                    keys = ", ".join(f'"{key}"' for key in stale)
                    self._store.delete(self._collection, f"key in [{keys}]")
            finally:
                self._counts.clear()
            result["replaced"] = len(same) + len(stale)
        return len(same) + len(stale)

    def _remove(self, event: str, where: str, *asked: str) -> Removed | None:
        with self._lock:
            rows = list(self._store.rows(self._collection, where, (*_CLEAR, "picture")))
            if not rows:
                return None
            entries = []
            for row in rows:
                with contextlib.suppress(GalleryError):  # damaged: a reason less to keep it
                    entries.append(self._entry(row))
            names = tuple(sorted({*asked, *(entry.identity for entry in entries)}))
            local = self._store.engine is not None
            with self.audit.operation(event, names, templates=len(rows)) as result:
                if local:
                    # A kill from here on leaves a note to write the gallery anew when it is opened next.
                    self._set_about({**self._about, "rewrite": True})
                self._store.delete(self._collection, where)
                self._counts.clear()
                if self._store.count(self._collection, where):
                    raise GalleryError(f"{self.name}: what was to be removed is still there")
                if local:
                    self._rewrite()
                else:
                    self._store.erase(self._collection)
                result["erased"] = local
            pictures = sum(bool(row["picture"]) for row in rows)
            return Removed(names, len(rows), pictures, tuple(sorted(entry.path for entry in entries)), local)

    def _rewrite(self) -> None:
        """Copy what is left into a new collection and drop the old one: no deleted byte stays in a file."""
        old, new = self._collection, self._store.create(self.dimension, self.index)
        columns = ("key", "subject", "tags", "record", "picture", "expires", "vector")
        for rows in in_pages(self._store.rows(old, "", columns)):
            self._store.upsert(new, [{column: plain_value(row[column]) for column in columns} for row in rows])
        self._store.settle(new)
        self._set_about({**{key: value for key, value in self._about.items() if key != "rewrite"}, "collection": new})
        self._store.drop(old)

    def _set_about(self, about: Mapping[str, Any]) -> None:
        self._store.set_value("gallery", about)
        self._about = dict(about)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
