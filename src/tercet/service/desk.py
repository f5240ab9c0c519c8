"""The work behind the routes: a form in, an answer out, by the same functions that the command line calls."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import PurePath
from typing import Any, Final, ParamSpec, TypeVar, final

import numpy as np
import numpy.typing as npt

from tercet.errors import GalleryError, TooLittle
from tercet.gallery import (
    Claim,
    Gallery,
    Match,
    are_pictures,
    check_name,
    identify,
    identify_nothing,
    prepare,
    retention_s,
    verify_claim,
)
from tercet.run import Model
from tercet.service.batching import Batcher
from tercet.service.forms import Form, Upload
from tercet.service.journal import Journal
from tercet.service.metrics import Metrics
from tercet.service.refusal import Refusal
from tercet.service.samples import Reader
from tercet.service.settings import Settings

__all__ = ["Desk"]

P = ParamSpec("P")
T = TypeVar("T")

_MOST_CANDIDATES: Final = 100
_HEALTH_S: Final = 1.0  # an answer about health is so old at most

_Answer = tuple[dict[str, Any], dict[str, Any]]
"""An answer, and what the log may say of it."""


@final
class Desk:
    """A model and a gallery at work for many callers.

    `work` and `look` run its other methods in threads; the model has one thread for all of them.
    """

    def __init__(self, model: Model, gallery: Gallery, settings: Settings, metrics: Metrics, journal: Journal) -> None:
        self.model = model
        self.gallery = gallery
        self.reader = Reader(model.front_end, settings)
        self._settings = settings
        self._metrics = metrics
        self._journal = journal
        self._batcher = Batcher(model.embed, metrics.batch)
        self._workers = ThreadPoolExecutor(settings.at_once, "tercet-work")
        self._lookers = ThreadPoolExecutor(2, "tercet-look")
        self._pictures = are_pictures(model.front_end)
        self._healthy_until = 0.0

    def close(self) -> None:
        """Finish what is being done and let go of the threads; the gallery stays open."""
        self._workers.shutdown()
        self._lookers.shutdown()
        self._batcher.close()

    async def work(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something that decides or changes, in a thread of its own from beginning to end.

        One change of threads each way: under load every one waits for its turn in the event loop.
        """
        return await asyncio.wrap_future(self._workers.submit(do, *args, **kwargs))

    async def look(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something that only looks into the gallery; it waits for no work."""
        return await asyncio.wrap_future(self._lookers.submit(do, *args, **kwargs))

    def verify(self, form: Form) -> _Answer:
        """`tercet verify`: two files, or a file and a claim."""
        a, b = _only(form, "a"), form.in_field("b")
        claim = form.one("claim")
        if bool(b) == bool(claim) or len(b) > 1:
            raise Refusal(400, "give two files, a and b, or one file a and a claim")
        name = check_name("claim", claim) if claim else ""
        vectors_ND, reason = None, ""
        try:
            _, vectors_ND = self._embedded([a, *b], ("a", "b")[: 1 + len(b)])
        except TooLittle as error:
            reason = str(error)
        if claim:
            found = self._of(name, lambda: self._claimed(vectors_ND, name, reason))
            answer = found.to_json()
        elif vectors_ND is None:
            answer = self.model.undecided(reason).to_json()
        else:
            answer = self.model.compare(vectors_ND).to_json()
        self._metrics.decided("verify", answer["decision"])
        return answer, {"decision": answer["decision"], "subject": self._pseudonym(name) if name else None}

    def identify(self, form: Form) -> _Answer:
        """`tercet identify`: who of those enrolled, or nobody."""
        upload = _only(form, "file")
        count, tags = form.count("k", 5, _MOST_CANDIDATES), _tags(form)
        try:
            _, vectors_ND = self._embedded([upload], ("file",))
            found = identify(self.gallery, self.model.calibration, vectors_ND[0], candidates=count, tags=tags)
        except TooLittle as error:
            found = identify_nothing(self.gallery, self.model.calibration, str(error))
        self._metrics.decided("identify", found.decision)
        answer = found.to_json() | {"candidates": _candidates(found.candidates)}
        subject = self._pseudonym(found.identity) if found.identity else None
        return answer, {"decision": found.decision, "subject": subject}

    def search(self, form: Form) -> _Answer:
        """`tercet search`: the enrolled samples most like one."""
        upload = _only(form, "file")
        count, tags = form.count("k", 10, _MOST_CANDIDATES), _tags(form)
        _, vectors_ND = self._embedded([upload], ("file",))
        hits = self.gallery.search(vectors_ND[0], count, tags=tags)
        size = self.gallery.count(tags=tags)
        return {"results": _candidates(hits), "gallery": size, "model": self.model.fingerprint}, {"results": len(hits)}

    def enroll(self, form: Form) -> _Answer:
        """`tercet enroll NAME FILE...`: on the disk when this returns."""
        name, tags = check_name("identity", form.one("identity")), _tags(form)
        retain_s = retention_s(form.one("retain"), "retain")
        keep, force = form.flag("store_pictures"), form.flag("force")
        uploads = form.in_field("file")
        if not uploads:
            raise Refusal(400, "file: at least one")
        if keep and not self._pictures:
            raise Refusal(400, "store_pictures: the samples of this model are not pictures")
        labels = tuple(f"file {number}" for number in range(1, len(uploads) + 1))
        samples, vectors_ND = self._embedded(uploads, labels)
        calibration = self.model.calibration

        prepared = prepare(
            self.gallery,
            vectors_ND,
            [name] * len(uploads),
            [hashlib.sha256(upload.data).hexdigest()[:32] for upload in uploads],
            paths=[upload.name for upload in uploads],
            picture=samples.__getitem__ if self._pictures else None,
            calibration=calibration,
            tags=tags,
            keep_pictures=keep,
            force=force,
        )
        if not prepared.templates:
            raise Refusal(422, f"{labels[0]}: {prepared.refused[0].reason}")
        done = self.gallery.enroll(prepared.templates, retain_s=retain_s, calibration=calibration and calibration.id)
        answer = {
            "model": self.model.fingerprint,
            "enrolled": done.templates,
            "identities": done.identities,
            "replaced": done.replaced,
            "refused": [asdict(doubt) for doubt in prepared.refused],
            "warnings": [asdict(doubt) for doubt in prepared.warnings],
            "calibration": calibration and calibration.id,
        }
        return answer, {"subject": self._pseudonym(name), "templates": done.templates}

    def forget(self, form: Form) -> _Answer:
        """`tercet forget NAME`: gone from the gallery, and a local one's files, when this returns."""
        name = check_name("identity", form.one("identity"))
        removed = self._of(name, lambda: self.gallery.forget(name))
        shown = {
            "identities": list(removed.identities),
            "templates": removed.templates,
            "pictures": removed.pictures,
        }
        answer = {"identity": name, "removed": shown, "erased": removed.erased, "model": self.model.fingerprint}
        return answer, {"subject": self._pseudonym(name), "templates": removed.templates}

    def people(self, offset: int, limit: int) -> dict[str, Any]:
        """`tercet gallery list`, a part of it."""
        found = self.gallery.people()
        shown = [
            {
                "identity": person.identity,
                "templates": person.templates,
                "tags": list(person.tags),
                "enrolled": person.enrolled,
                "expires": person.expires,
            }
            for person in found[offset : offset + limit]
        ]
        return {"identities": shown, "total": len(found), "model": self.model.fingerprint}

    def picture(self, template: str) -> bytes:
        """The stored picture of a template.

        Raises:
            Refusal: 404, there is none.
        """
        known = len(template) <= 64 and template.isascii() and template.isalnum()
        found = self.gallery.picture(template) if known else b""
        if not found:
            raise Refusal(404, "no picture is stored under that name")
        return found

    async def check(self) -> None:
        """Answer where model and gallery do.

        Raises:
            Refusal: 503, one of them does not.
        """
        if not self._batcher.alive:
            raise Refusal(503, "the model's thread has ended", kind="fault")
        if time.monotonic() > self._healthy_until:
            await self.look(self.gallery.count)
            self._healthy_until = time.monotonic() + _HEALTH_S

    async def purge_for_ever(self) -> None:
        """Remove, now and then, templates whose time is over."""
        while True:
            await asyncio.sleep(self._settings.purge_s)
            try:
                removed = await self.look(self.gallery.purge)
            except GalleryError as error:
                self._journal.defect(error, during="purge")
                continue
            if removed.templates:
                self._journal.write("purged", templates=removed.templates, pictures=removed.pictures)

    def _embedded(
        self, uploads: Sequence[Upload], labels: Sequence[str]
    ) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.float32]]:
        """Samples and vectors [N, D] of uploads; an error calls them by their labels."""
        samples: list[npt.NDArray[Any]] = []
        too_little: TooLittle | None = None
        for upload, label in zip(uploads, labels, strict=True):
            try:
                samples.append(self.reader.decode(upload.data, label))
            except TooLittle as error:
                too_little = too_little or error
        if too_little is not None:
            raise too_little  # only where all can be read: the sender has first to mend what cannot
        return samples, self._batcher.submit(samples).result()

    def _claimed(self, vectors_ND: npt.NDArray[np.float32] | None, name: str, reason: str) -> Claim:
        if vectors_ND is None:
            return Claim(self.model.undecided(reason), name, len(self.gallery.of(name)))
        return verify_claim(self.gallery, self.model.calibration, vectors_ND[0], name)

    def _of(self, name: str, work: Callable[[], T]) -> T:
        """Work on somebody who must be enrolled."""
        try:
            return work()
        except GalleryError:
            if self.gallery.has(name):
                raise
            raise Refusal(404, "nobody of that name is enrolled") from None

    def _pseudonym(self, name: str) -> str:
        return self.gallery.audit.pseudonym(name)


def _only(form: Form, field: str) -> Upload:
    found = form.in_field(field)
    if len(found) != 1:
        raise Refusal(400, f"{field}: one file is needed, {len(found)} came")
    return found[0]


def _tags(form: Form) -> tuple[str, ...]:
    return tuple(check_name("tag", tag) for tag in form.fields.get("tag", []))


def _candidates(found: Sequence[Match]) -> list[dict[str, Any]]:
    """Matches as JSON; folders of this machine are nobody's business."""
    return [
        {
            "identity": match.identity,
            "score": match.score,
            "path": PurePath(match.path.replace("\\", "/")).name,
            "template": match.entry.key,
        }
        for match in found
    ]
