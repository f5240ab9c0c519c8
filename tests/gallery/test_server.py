"""A Milvus server that stops answering, or is killed, is told in one line; what it acknowledged is there again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from enrolled import D, people
from tercet.errors import GalleryError
from tercet.gallery import Gallery, open_gallery


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds instead of half a minute."""
    monkeypatch.setattr("tercet.gallery.store._TIMEOUT_S", 2.0)
    monkeypatch.setattr("tercet.gallery.store._STRONG", {"consistency_level": "Strong", "timeout": 2.0})


def attempts(gallery: Gallery) -> Iterator[Any]:
    probe_D = people(1, 1)[0].vector
    yield lambda: gallery.search(probe_D, 1)
    yield lambda: gallery.count()
    yield lambda: gallery.enroll(people(1, 1, seed=9))
    yield lambda: gallery.forget("p1")


@pytest.mark.long  # two seconds are an age here, and may be too few on a busy machine
def test_a_server_that_hangs_is_told_in_one_line_and_used_again_when_it_goes_on(
    running_server: Any, tmp_path: Path, impatient: None
) -> None:
    with (
        running_server(tmp_path / "data") as (url, process),
        open_gallery(url, model="m", dimension=D, create=True) as gallery,
    ):
        gallery.enroll(people(3, 2))
        process.send_signal(signal.SIGSTOP)
        try:
            for attempt in islice(attempts(gallery), 2):  # the others have to read first, and wait longer
                with pytest.raises(GalleryError) as told:
                    attempt()
                assert str(told.value).startswith(f"{url}: cannot be ")
                assert str(told.value).endswith("(the Milvus server does not answer any more)")
        finally:
            process.send_signal(signal.SIGCONT)
        assert gallery.search(people(3, 2)[0].vector, 1)[0].identity == "p0"


@pytest.mark.long
def test_what_a_killed_server_has_acknowledged_is_there_when_it_is_started_again(
    running_server: Any, tmp_path: Path, impatient: None
) -> None:
    with running_server(tmp_path / "data") as (url, process):
        with open_gallery(url, model="m", dimension=D, create=True) as gallery:
            gallery.enroll(people(5, 2))
            gallery.forget("p3")
            process.kill()
            process.wait()
            for attempt in attempts(gallery):
                with pytest.raises(GalleryError, match=f"{url}: cannot be .*does not answer any more"):
                    attempt()
        with pytest.raises(GalleryError, match=f"{url}: .*(no Milvus server answers there|does not answer any more)"):
            open_gallery(url)
    with running_server(tmp_path / "data") as (url, _), open_gallery(url) as gallery:
        assert {person.identity: person.templates for person in gallery.people()} == dict.fromkeys(
            ("p0", "p1", "p2", "p4"), 2
        )
        assert all(match.identity != "p3" for match in gallery.search(people(5, 2)[6].vector, 10))


def test_an_engine_that_gives_no_answer_in_time_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "g.db"
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(people(3, 2))
        with monkeypatch.context() as hurry:
            # Due before it is asked: however fast the machine, no answer is in time.
            hurry.setattr("tercet.gallery.store._STRONG", {"consistency_level": "Strong", "timeout": -1.0})
            with pytest.raises(GalleryError, match=r"g\.db: cannot be searched \(no answer within 30 s"):
                gallery.search(people(1, 1)[0].vector, 1)
        assert len(gallery.search(people(1, 1)[0].vector, 10)) == 6
