"""One suite for every backend: a folder, and a server over the wire."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from enrolled import Backend, D, people, unit_rows
from tercet.errors import GalleryError, InvalidInput, InvalidOption
from tercet.evaluate import nearest
from tercet.gallery import Gallery, Template, open_gallery


def test_search_equals_an_exact_search_in_memory(gallery: Gallery) -> None:
    templates = people(40, 3)
    gallery.enroll(templates)
    x_ND = np.stack([template.vector for template in templates])
    for probe_D in unit_rows(10, seed=1):
        oracle = nearest(probe_D[None], x_ND, 7)
        found = gallery.search(probe_D, 7)
        assert [match.path for match in found] == [templates[row].path for row in oracle.index_QK[0]]
        # The same numbers to the last bit, on every backend.
        assert [match.score for match in found] == oracle.score_QK[0].tolist()
    assert len(gallery.search(x_ND[0], 1000)) == len(gallery) == 120


@pytest.mark.parametrize("index", ["HNSW", "IVF_FLAT"])
def test_an_index_finds_nearly_what_exact_search_finds(backend: Backend, index: str) -> None:
    gallery = backend.open(index=index)
    x_ND = unit_rows(1500)
    gallery.enroll([Template(f"p{n}", x, f"c{n}") for n, x in enumerate(x_ND)])
    hits = 0
    for probe_D in unit_rows(20, seed=1):
        oracle = {f"p{row}" for row in nearest(probe_D[None], x_ND, 10).index_QK[0]}
        hits += len(oracle & {match.identity for match in gallery.search(probe_D, 10)})
    assert hits >= 0.95 * 200
    assert gallery.stats()["index"] == index
    assert not gallery.stats()["exact"]
    with pytest.raises(GalleryError, match=f"has the index {index}"):
        backend.open(index="FLAT")


def test_candidates_are_ranked_per_identity(gallery: Gallery) -> None:
    # 200 templates of one person lie nearer to the probe than the only one of the next.
    near_ND = unit_rows(1) + 0.01 * unit_rows(200, seed=1)
    near_ND /= np.linalg.norm(near_ND, axis=1, keepdims=True)
    crowd = [Template("crowd", x, f"c{n}") for n, x in enumerate(near_ND)]
    gallery.enroll([*crowd, Template("other", unit_rows(1, seed=2)[0], "c"), Template("third", -near_ND[0], "c")])
    found = gallery.candidates(near_ND[0], 3)
    assert [match.identity for match in found] == ["crowd", "other", "third"]
    assert found[0].score == pytest.approx(1, abs=1e-6)
    assert [match.identity for match in gallery.candidates(near_ND[0], 2)] == ["crowd", "other"]


def test_the_same_content_or_file_replaces(backend: Backend) -> None:
    gallery = backend.open()
    x_ND = unit_rows(4)
    first = Template("ann", x_ND[0], "content 1", path="/ann.png")
    assert gallery.enroll([first]).replaced == 0
    assert gallery.enroll([first]).replaced == 1
    # The same content from elsewhere, now with a tag.
    done = gallery.enroll([Template("ann", x_ND[0], "content 1", path="/copy.png", tags=("staff",))])
    assert (done.replaced, len(gallery)) == (1, 1)
    assert gallery.of("ann")[0].entry.tags == ("staff",)
    # The file has new content: by_path says that a path means a file.
    assert gallery.enroll([Template("ann", x_ND[1], "content 2", path="/copy.png")], by_path=True).replaced == 1
    assert [match.entry.content for match in gallery.of("ann")] == ["content 2"]
    gallery.enroll([Template("ann", x_ND[2], "content 3", path="/copy.png")])
    assert len(gallery) == 2
    # Another identity's file of the same content or name is its own.
    gallery.enroll([Template("bob", x_ND[3], "content 2", path="/copy.png")], by_path=True)
    gallery = backend.open()
    assert [(person.identity, person.templates) for person in gallery.people()] == [("ann", 2), ("bob", 1)]


def test_tags_filter(gallery: Gallery) -> None:
    x_ND = unit_rows(3)
    odd = 'x" or "a" == "a'
    gallery.enroll([Template("a", x_ND[0], "c", tags=("staff", odd)), Template("b", x_ND[1], "c", tags=("staff",))])
    gallery.enroll([Template("c", x_ND[2], "c")])
    assert {match.identity for match in gallery.search(x_ND[0], 9, tags=["staff"])} == {"a", "b"}
    assert {match.identity for match in gallery.search(x_ND[0], 9, tags=["staff", odd])} == {"a"}
    assert gallery.search(x_ND[0], 9, tags=["nothing"]) == []
    assert gallery.stats()["tags"] == {"staff": 2, odd: 1}


@pytest.mark.parametrize("name", ["Zoë 🦊", 'a" or subject != "', "back\\slash", "new\nline", "%s{}", "'; drop"])
def test_any_name_can_be_enrolled_and_forgotten(gallery: Gallery, name: str) -> None:
    x_ND = unit_rows(2)
    gallery.enroll([Template(name, x_ND[0], "c", metadata={"ü": [1, None]}), Template("other", x_ND[1], "c")])
    assert gallery.has(name)
    assert gallery.of(name)[0].entry.metadata == {"ü": [1, None]}
    assert gallery.forget(name).identities == (name,)
    assert not gallery.has(name)
    assert [person.identity for person in gallery.people()] == ["other"]


def test_forget_removes_all_and_at_once(backend: Backend) -> None:
    gallery = backend.open()
    templates = people(5, 4)
    pictured = Template("p2", unit_rows(1, seed=9)[0], "c", path="/p2/x.png", picture=b"not really a JPEG")
    gallery.enroll([*templates, pictured])
    key = gallery.search(pictured.vector, 1)[0].entry.key
    assert gallery.picture(key) == b"not really a JPEG"
    removed = gallery.forget("p2")
    assert (removed.templates, removed.pictures, removed.identities) == (5, 1, ("p2",))
    assert removed.paths == ("/p2/0.png", "/p2/1.png", "/p2/2.png", "/p2/3.png", "/p2/x.png")
    assert removed.erased is not backend.remote
    for reopened in (False, True):
        now = backend.open() if reopened else gallery
        assert all(match.identity != "p2" for match in now.search(pictured.vector, 100))
        assert now.picture(key) == b""
        assert len(now) == 16
        assert now.stats()["pictures"] == 0
        with pytest.raises(GalleryError, match="'p2' is not enrolled"):
            now.forget("p2")
        with pytest.raises(GalleryError, match="'p2' is not enrolled"):
            now.of("p2")


def test_retention(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = backend.open()
    templates = people(3, 2)
    gallery.enroll(templates[:2], retain_s=3600)
    gallery.enroll(templates[2:])
    assert gallery.people()[0].expires is not None
    assert gallery.purge().templates == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    # Found no more from the moment on, and gone when purged.
    assert {match.identity for match in gallery.search(templates[0].vector, 9)} == {"p1", "p2"}
    assert not gallery.has("p0")
    assert (gallery.stats()["expired"], len(gallery)) == (2, 4)
    assert gallery.purge().identities == ("p0",)
    assert gallery.stats()["expired"] == 0
    assert gallery.purge().templates == 0


def test_bound_to_one_model(backend: Backend) -> None:
    backend.open().enroll(people(2, 1))
    with pytest.raises(GalleryError, match=r"of model m, not of n.*tercet enroll RUN DATA"):
        backend.open(model="n")
    with pytest.raises(GalleryError, match="width 16, not 17"):
        backend.open(dimension=17)
    assert backend.open(model=None, dimension=None, create=False).model == "m"


def test_a_name_typed_in_another_way_is_the_same_person(gallery: Gallery) -> None:
    x_ND = unit_rows(3)
    gallery.enroll([Template("Zoe\u0308", x_ND[0], "a", tags=("cafe\u0301",)), Template(" Zo\u00eb ", x_ND[1], "b")])
    gallery.enroll([Template("other", x_ND[2], "c")])
    assert [(person.identity, person.templates) for person in gallery.people()] == [("Zo\u00eb", 2), ("other", 1)]
    assert len(gallery.search(x_ND[0], 9, tags=["caf\u00e9 "])) == 1
    assert gallery.forget("Zoe\u0308 ").templates == 2
    assert len(gallery) == 1
    # What no terminal can type ends in an error of its own.
    for name in ("\udcff", " "):
        with pytest.raises(InvalidInput, match="identity"):
            gallery.forget(name)
        with pytest.raises(InvalidInput, match="tag"):
            gallery.search(x_ND[0], 9, tags=[name])


def test_what_cannot_be_stored_is_refused_before_anything_is(gallery: Gallery) -> None:
    good = people(1, 1)
    with pytest.raises(InvalidInput, match="width 16, not 17"):
        gallery.enroll([*good, Template("p", unit_rows(1, d=17)[0], "c")])
    with pytest.raises(InvalidInput, match="no JSON"):
        gallery.enroll([*good, Template("p", good[0].vector, "c", metadata={"x": float("nan")})])
    with pytest.raises(InvalidInput, match="longer than"):
        gallery.enroll([*good, Template("p", good[0].vector, "c", metadata={"x": "x" * 50_000})])
    for seconds in (0.0, -1.0, float("nan"), 1e12):
        with pytest.raises(InvalidInput, match="hundred years"):
            gallery.enroll(good, retain_s=seconds)
    assert len(gallery) == 0
    for name, said in (("", "blank"), ("  ", "blank"), ("x" * 600, "600 bytes"), ("\udcff", "not valid text")):
        with pytest.raises(InvalidInput, match=said):
            Template(name, good[0].vector, "c")
    for vector in (np.zeros(D, np.float32), np.full(D, np.nan, np.float32), np.ones(D, np.float32)):
        with pytest.raises(InvalidInput, match="unit norm"):
            Template("p", vector, "c")
    with pytest.raises(InvalidInput, match="tags"):
        Template("p", good[0].vector, "c", tags=tuple(map(str, range(65))))
    with pytest.raises(InvalidInput, match="picture"):
        Template("p", good[0].vector, "c", picture=b"x" * 40_000)
    with pytest.raises(InvalidInput, match="k=0"):
        gallery.search(good[0].vector, 0)
    with pytest.raises(InvalidInput, match="width 16"):
        gallery.search(unit_rows(1, d=17)[0])
    gallery.close()
    with pytest.raises(GalleryError, match="it is closed"):
        gallery.search(good[0].vector)


def test_a_damaged_record_is_told_with_the_gallery_and_can_be_forgotten(gallery: Gallery) -> None:
    gallery.enroll(people(2, 1))
    row = next(iter(gallery._store.rows(gallery._collection, gallery._whose("p0"), ("key", "subject", "vector"))))
    columns = {"tags": [], "record": "{", "picture": "", "expires": 0, "vector": list(row["vector"])}
    gallery._store.upsert(gallery._collection, [{"key": row["key"], "subject": row["subject"]} | columns])
    with pytest.raises(GalleryError, match=rf"^{re.escape(gallery.name)}: a record is damaged \({row['key']}\)"):
        gallery.people()
    removed = gallery.forget("p0")
    assert (removed.identities, removed.templates, removed.paths) == (("p0",), 1, ())
    assert [person.identity for person in gallery.people()] == ["p1"]


def test_an_empty_gallery_answers(gallery: Gallery) -> None:
    assert gallery.search(unit_rows(1)[0]) == gallery.candidates(unit_rows(1)[0]) == gallery.people() == []
    assert gallery.stats()["identities"] == len(gallery) == 0


def test_more_than_one_part(gallery: Gallery) -> None:
    told: list[tuple[int, int]] = []
    templates = people(12, 90)
    done = gallery.enroll(templates, progress=lambda *now: told.append(now))
    assert (done.templates, done.identities) == (1080, 12)
    # 11 people make 990 rows; a twelfth would be torn.
    assert told == [(990, 1080), (1080, 1080)]
    assert len(gallery) == 1080
    assert sum(person.templates for person in gallery.people()) == 1080
    assert {entry.identity for entry, _, _ in gallery.entries()} == {f"p{n}" for n in range(12)}


def test_the_audit_log_names_nobody(backend: Backend) -> None:
    gallery = backend.open()
    gallery.enroll(people(2, 2))
    gallery.forget("p1")
    lines = gallery.audit.path.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(entry["event"], entry["state"]) for entry in entries] == [
        ("enroll", "begin"), ("enroll", "done"), ("forget", "begin"), ("forget", "done")
    ]  # fmt: skip
    assert "p1" not in gallery.audit.path.read_text()
    assert entries[0]["subjects"] == [gallery.audit.pseudonym("p0"), gallery.audit.pseudonym("p1")]
    assert entries[3]["subjects"] == [gallery.audit.pseudonym("p1")]
    assert (entries[1]["templates"], entries[3]["templates"], entries[3]["erased"]) == (4, 2, not backend.remote)
    for path in (gallery.audit.path, gallery.audit.path.with_name("audit.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A line that a kill has cut off harms none after it.
    with gallery.audit.path.open("ab") as log:
        log.write(b'{"torn": ')
    gallery = backend.open()
    gallery.forget("p0")
    assert [entry["event"] for entry in gallery.audit.entries()][-2:] == ["forget", "forget"]


def test_values_are_kept(backend: Backend) -> None:
    gallery = backend.open()
    gallery.set_value("margin", {"margin": 0.25})
    again = backend.open()
    assert again.value("margin") == {"margin": 0.25}
    assert again.value("none") is None
    with pytest.raises(InvalidInput):
        again.set_value("gallery", {})


def test_two_galleries_in_one_place(backend: Backend) -> None:
    backend.open().enroll(people(2, 1))
    first = backend.uri
    backend.uri = first.partition("#")[0] + "#another_one"
    gallery = backend.open(model="n", dimension=8)
    gallery.enroll([Template("q", unit_rows(1, d=8)[0], "c")])
    assert [person.identity for person in gallery.people()] == ["q"]
    backend.uri = first
    gallery = backend.open()
    gallery.forget("p0")
    assert [person.identity for person in gallery.people()] == ["p1"]
    backend.uri = first.partition("#")[0] + "#another_one"
    assert len(backend.open(model="n", dimension=8)) == 1


def test_an_unknown_index_is_refused(backend: Backend) -> None:
    with pytest.raises(InvalidOption, match=r"index='TREE'.*FLAT"):
        backend.open(index="TREE")
    assert backend.open().index == "FLAT"


def test_addresses_that_cannot_be_one(tmp_path: Path) -> None:
    for uri, said in (
        ("ftp://host:1", "must be a folder or begin with http"),
        ("http://host:99999", "no address of a server"),
        ("http://:19530", "must be a folder"),
        ("g.db#a b", "letters, digits"),
        ("", "no name"),
    ):
        with pytest.raises(InvalidInput, match=said):
            open_gallery(uri)
    with pytest.raises(GalleryError, match="no Milvus server answers") as caught:
        open_gallery("http://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


def test_a_folder_that_a_kill_left_at_its_making_becomes_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "g.db").mkdir()
    (tmp_path / "g.db" / "LOCK").touch()
    made = Backend(str(tmp_path / "g.db"), False)
    made.open().enroll(people(1, 1))
    made.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "LOCK").touch()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(GalleryError, match="no gallery"):
        Backend(str(tmp_path / "other"), False).open()


def test_counts_are_right_after_writes_and_expiry(backend: Backend) -> None:
    gallery = backend.open()
    assert gallery.count() == gallery.count() == 0
    gallery.enroll(people(2, 2))
    assert gallery.count() == gallery.count() == 4
    gallery.enroll(people(1, 3, seed=1), retain_s=2.0)
    assert gallery.count() in (4, 7)
    while gallery.count() != 4:
        time.sleep(0.1)
    gallery.forget("p1")
    assert gallery.count() == 2
    gallery.set_value("margin", {"x": 1})
    assert gallery.value("margin") == {"x": 1}
    gallery.set_value("margin", {"x": 2})
    assert gallery.value("margin") == {"x": 2}


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="looks into Linux' /proc")
def test_a_local_gallery_opens_no_port_and_its_socket_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(people(1, 1))
        own = {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
        tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        listening = [line.split() for table in tables for line in table if line.split()[3] == "0A"]
        assert not [line for line in listening if f"socket:[{line[9]}]" in own]
        (folder,) = tmp_path.glob("tercet-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(tmp_path.glob("tercet-*"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such sockets")
def test_sockets_of_killed_processes_are_removed_and_those_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, age_s, answers in (("dead", 100, False), ("young", 0, False), ("live", 100, True)):
        folder = tmp_path / f"tercet-{name}"
        folder.mkdir(mode=0o700)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(str(folder / "milvus"))
        if answers:
            bound.listen()
            live = bound
        else:
            bound.close()
        os.utime(folder, (time.time() - age_s,) * 2)
    (tmp_path / "tercet-other").mkdir()
    with live, open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True):
        left = {folder.name for folder in tmp_path.glob("tercet-*")}
    assert left >= {"tercet-young", "tercet-live", "tercet-other"}
    assert "tercet-dead" not in left
