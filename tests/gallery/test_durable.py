"""An acknowledged enrolment outlives a kill; one that was not is there whole or not at all; forgotten is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enrolled import D, open_and_tell, people, unit_rows, write_until_killed
from tercet.errors import GalleryError
from tercet.gallery import Template, open_gallery

EACH = 5

KILLER = multiprocessing.get_context("forkserver")
KILLER.set_forkserver_preload(["enrolled", "pymilvus", "milvus_lite.adapter.grpc.server"])


def kill_after(uri: Path, first: int, lines: int, extra: float, settle: bool) -> list[str]:
    """What a process says that enrolls and forgets, until it is killed `extra` seconds after its n-th line."""
    said = uri.with_suffix(".said")
    said.unlink(missing_ok=True)
    process = KILLER.Process(target=write_until_killed, args=(str(uri), said, first, settle))
    process.start()
    while process.is_alive() and (not said.exists() or said.read_bytes().count(b"\n") < lines):
        time.sleep(0.002)
    time.sleep(extra)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # A line that the kill has cut off was not yet said.
    return said.read_text().split("\n")[:-1]


def check_after_kills(uri: Path, kills: int, settle: bool) -> None:
    enrolled: set[str] = set()
    forgotten: set[str] = set()
    number = 0
    for kill in range(kills):
        # Lines 1 and 2 are those around the opening; the delays are spread over a write and a rewriting.
        said = kill_after(uri, number, lines=1 + kill * 5 % 23, extra=0.0131 * (kill % 8) ** 2, settle=settle)
        doubtful = ""
        for line in said:
            word, _, name = line.partition(" ")
            if word == "enrolled":
                enrolled.add(name)
                number = int(name[1:]) + 1
            elif word == "forgetting":
                doubtful = name
            elif word == "forgotten":
                forgotten.add(name)
                doubtful = ""
        with open_gallery(str(uri), model="m", dimension=D, create=True) as gallery:
            there = {person.identity: person.templates for person in gallery.people()}
            assert set(there.values()) <= {EACH}, "half an identity"
            assert enrolled - forgotten - {doubtful} <= set(there), "acknowledged and lost"
            assert not forgotten & set(there), "forgotten and back"
            # At most the one whose acknowledgement the kill has swallowed.
            assert set(there) - enrolled <= {f"p{number}"}
            for name in sorted(there)[:3]:
                vector_D = people(1, EACH, seed=int(name[1:]))[0].vector
                assert gallery.search(vector_D, 1)[0].identity == name
            for name in sorted(forgotten)[-3:]:
                vector_D = people(1, EACH, seed=int(name[1:]))[0].vector
                assert all(match.identity != name for match in gallery.search(vector_D, 10**4))
            number = max([number, *(int(name[1:]) + 1 for name in there)])
            # What the kill has left undecided is decided now.
            enrolled |= set(there)
            if doubtful and doubtful not in there:
                forgotten.add(doubtful)
        for name in forgotten:
            assert not holds(uri, f'"{name}"'), f"bytes of {name} in the files"


def holds(folder: Path, text: str) -> list[Path]:
    """The files of a gallery in which a text stands, also inside the columns of data files."""
    import pyarrow.parquet as parquet

    found = []
    for file in folder.rglob("*"):
        if file.is_file():
            inside = file.read_bytes()
            if file.suffix == ".parquet":
                inside += repr(parquet.read_table(file).to_pylist()).encode()
            if text.encode() in inside:
                found.append(file)
    return found


@pytest.mark.parametrize(("settle", "kills"), [(False, 3), (True, 2)])
def test_kills(tmp_path: Path, settle: bool, kills: int) -> None:
    check_after_kills(tmp_path / "g.db", kills, settle)


@pytest.mark.long
@pytest.mark.timeout(3600)  # four minutes on a quiet machine
@pytest.mark.parametrize("settle", [False, True])
def test_many_kills(tmp_path: Path, settle: bool) -> None:
    check_after_kills(tmp_path / "g.db", 60, settle)


def test_nothing_of_the_forgotten_is_left_in_the_files(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    templates = [
        Template(f"person-{n}", x, f"c{n}", path=f"/folder/of-{n}.png", tags=(f"tag-{n}",))
        for n, x in enumerate(unit_rows(20))
    ]
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(templates)
        assert holds(place, "person-7"), "this test cannot see what it looks for"
    with open_gallery(str(place)) as gallery:
        assert holds(place, "person-7"), "this test cannot see what it looks for"
        gallery.enroll([Template("person-7", unit_rows(1, seed=5)[0], "x", path="/folder/of-7-again.png")])
        removed = gallery.forget("person-7")
        assert removed.erased
        for text in ("person-7", "of-7", "tag-7"):
            assert not holds(place, text)
        # Nor its vector.
        raw = templates[7].vector.tobytes()
        assert not [file for file in place.rglob("*") if file.is_file() and raw in file.read_bytes()]
        assert holds(place, "person-8")
    assert not holds(place, "person-7")
    with open_gallery(str(place)) as gallery:
        assert len(gallery) == 19
        assert len(list((place / "collections").iterdir())) == 2


def test_a_rewriting_that_a_kill_cut_short_is_done_at_the_next_opening(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(people(4, 2))
        # As `forget` leaves it when it is killed after the delete and in the middle of the copy.
        gallery._set_about({**gallery._about, "rewrite": True})
        gallery._store.delete(gallery._collection, gallery._whose("p1"))
        gallery._store.create(D, "FLAT")
    with open_gallery(str(place)) as gallery:
        assert [person.identity for person in gallery.people()] == ["p0", "p2", "p3"]
        assert not holds(place, '"p1"')
        assert len(list((place / "collections").iterdir())) == 2


def test_a_making_that_a_kill_cut_short_is_done_again(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        about = gallery._store._about
    # Killed before the collection had a schema, and between its making and its index.
    for left in (lambda folder: (folder / "schema.json").unlink(), lambda folder: (folder / "manifest.json").unlink()):
        for file in (place / "collections" / about).rglob("*.parquet"):
            file.unlink()
        left(place / "collections" / about)
        (place / "collections" / about / "manifest.json.prev").unlink(missing_ok=True)
        with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
            gallery.enroll(people(2, 1))
            assert len(gallery) == 2


def test_a_second_process_is_told_of_the_server(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    said = tmp_path / "said"
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        process = KILLER.Process(target=open_and_tell, args=(str(place), said))
        process.start()
        process.join()
        last = said.read_text()
        assert "in use by another process" in last
        assert f"milvus-lite server --data-dir {place} --host 127.0.0.1" in last
        assert "--gallery http://127.0.0.1:19530" in last
        with pytest.raises(GalleryError, match="in use by another process"):
            open_gallery(str(place))
        gallery.enroll(people(1, 1))
    with open_gallery(str(place)) as gallery:
        assert len(gallery) == 1


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    with open_gallery(str(place), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(people(3, 2))
        gallery.forget("p1")
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        data = [file for file in place.rglob("*") if file.is_file() and file.name != "LOCK"]
        collection = place / "collections" / gallery._collection
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in data if file.is_relative_to(collection))
        # The socket it answers on lies in a folder that nobody else can enter; no port is opened.
        engine = gallery._store.engine
        assert engine is not None
        assert engine.uri.startswith("unix:")
        assert stat.S_IMODE(engine._sockets.stat().st_mode) == 0o700
    assert not engine._sockets.exists()
    for file in place.rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file


FULL = """
import resource, signal, sys
from enrolled import D, people
from tercet.errors import GalleryError
from tercet.gallery import open_gallery

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
gallery = open_gallery(sys.argv[1], model="m", dimension=D, create=True)
gallery.enroll(people(3, 2))
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
for _ in range(2):
    try:
        gallery.enroll([type(t)("late", t.vector, t.content) for t in people(100, 1, seed=1)])
        print("stored")
    except GalleryError as error:
        print(error)
print(len(gallery), flush=True)
import os
os._exit(0)
"""


def test_a_full_disk_is_told_and_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    place = tmp_path / "g.db"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", FULL, str(place)], capture_output=True, text=True, env=environment)
    first, second, count = done.stdout.splitlines()
    assert "cannot be written" in first and "too large" in first.lower() and "stored before that: 0 of 100" in first
    # What comes after a torn entry would not be found again: nothing more is taken until the log is read anew.
    assert "a write has failed" in second and "open the gallery again" in second
    assert count == "6"
    with open_gallery(str(place), model="m", dimension=D) as gallery:
        assert {person.identity: person.templates for person in gallery.people()}.keys() == {"p0", "p1", "p2"}
        gallery.enroll(people(1, 1, seed=7))
    with open_gallery(str(place)) as gallery:
        assert len(gallery) == 7


LIST = """
import sys
from tercet.cli.main import main
code = main(["gallery", "list", "--gallery", sys.argv[1]]) + main(["forget", "p0", "--gallery", sys.argv[1]])
sys.exit("torch was loaded" if "torch" in sys.modules else code)
"""


def test_who_is_enrolled_is_told_without_torch(tmp_path: Path) -> None:
    with open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True) as gallery:
        gallery.enroll(people(2, 1))
    done = subprocess.run([sys.executable, "-c", LIST, str(tmp_path / "g.db")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "p1" in done.stdout


def test_places_that_cannot_be_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "file.db").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("x")
    for place, said in (
        (tmp_path / "file.db", "a file, but a gallery is a folder"),
        (tmp_path / "folder", "a folder, but no gallery"),
        (tmp_path / "no" / "g.db", "does not exist"),
    ):
        with pytest.raises(GalleryError, match=said):
            open_gallery(str(place), model="m", dimension=D, create=True)
    with pytest.raises(GalleryError, match="no such gallery; `enroll` makes one"):
        open_gallery(str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x"]
