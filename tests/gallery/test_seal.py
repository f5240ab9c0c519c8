from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enrolled import D, people, unit_rows
from tercet.errors import GalleryError, InvalidInput
from tercet.gallery import Seal, Template, export_gallery, key_from_environment, open_gallery

pytest.importorskip("cryptography", reason="the extra gallery is not installed")

KEY = bytes(range(32))


def test_a_sealed_gallery_shows_no_name_and_finds_the_same(tmp_path: Path) -> None:
    templates = [
        Template(f"person-{n}", x, f"c{n}", f"/of-{n}", ("red-tag",), {"m": "secret-m"}, b"JPG" * 9)
        for n, x in enumerate(unit_rows(30))
    ]
    found = {}
    for name, key in (("plain", None), ("sealed", KEY)):
        place = tmp_path / f"{name}.db"
        with open_gallery(str(place), model="m", dimension=D, create=True, key=key) as gallery:
            gallery.enroll(templates)
            hits = gallery.search(unit_rows(1, seed=1)[0], 5, tags=["red-tag"])
            found[name] = [(hit.identity, hit.path) for hit in hits], [hit.score for hit in hits]
            assert gallery.picture(hits[0].entry.key) == b"JPG" * 9
            assert hits[0].entry.metadata == {"m": "secret-m"}
            assert gallery.of("person-3")[0].path == "/of-3"
            assert gallery.stats()["sealed"] is (key is not None)
            for entry, vector_D, _ in gallery.entries():
                np.testing.assert_allclose(vector_D, templates[int(entry.identity[7:])].vector, atol=1e-6)
            # The log is not compressed: what stands in it can be found.
            data = b"".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
            for word in (b"person-3", b"/of-3", b"red-tag", b"secret-m", b"SlBH", templates[3].vector.tobytes()):
                assert (word in data) is (key is None), word
    assert found["plain"][0] == found["sealed"][0]
    np.testing.assert_allclose(found["plain"][1], found["sealed"][1], atol=1e-6)

    with pytest.raises(GalleryError, match="is sealed; set TERCET_GALLERY_KEY"):
        open_gallery(str(tmp_path / "sealed.db"))
    with pytest.raises(GalleryError, match="is sealed; set TERCET_GALLERY_KEY"):
        open_gallery(str(tmp_path / "sealed.db"), key=bytes(32))
    with pytest.raises(GalleryError, match="is not sealed, but TERCET_GALLERY_KEY is set"):
        open_gallery(str(tmp_path / "plain.db"), key=KEY)


def test_forget_and_replace_in_a_sealed_gallery(tmp_path: Path) -> None:
    with open_gallery(str(tmp_path / "g.db"), model="m", dimension=D, create=True, key=KEY) as gallery:
        gallery.enroll(people(4, 2))
        assert gallery.enroll(people(4, 2)).replaced == 8
        assert gallery.forget("p2").templates == 2
        assert [person.identity for person in gallery.people()] == ["p0", "p1", "p3"]
        assert export_gallery(gallery, tmp_path / "out.npz") == 6


def test_turning_keeps_similarities_and_differs_by_key() -> None:
    x_ND = unit_rows(50)
    one, other = Seal(KEY), Seal(bytes(32))
    turned = one.turn(x_ND)
    np.testing.assert_allclose(turned @ turned.T, x_ND @ x_ND.T, atol=1e-6)
    np.testing.assert_allclose(one.turn_back(turned), x_ND, atol=1e-6)
    assert np.abs((turned * other.turn(x_ND)).sum(1)).mean() < 0.5
    assert Seal(None).turn(x_ND) is x_ND


def test_records_that_were_changed_are_refused() -> None:
    hidden = Seal(KEY).hide("name")
    assert Seal(KEY).show(hidden) == "name"
    assert Seal(KEY).hide("name") != hidden
    for seal, stored in ((Seal(bytes(32)), hidden), (Seal(KEY), hidden[:-6] + "AAAAA="), (Seal(KEY), "x")):
        with pytest.raises(GalleryError, match="changed, or sealed with another key"):
            seal.show(stored)
    assert Seal(None).show(Seal(None).hide("name")) == "name"
    tokens = {Seal(None).token("identity", "x"), Seal(KEY).token("identity", "x"), Seal(KEY).token("tag", "x")}
    assert len(tokens) == 3


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_from_environment() is None
    monkeypatch.setenv("TERCET_GALLERY_KEY", KEY.hex())
    assert key_from_environment() == KEY
    for wrong in ("abc", "zz" * 32, KEY.hex()[:-2]):
        monkeypatch.setenv("TERCET_GALLERY_KEY", wrong)
        with pytest.raises(InvalidInput, match="64 hex digits"):
            key_from_environment()
    with pytest.raises(InvalidInput, match="32 bytes"):
        Seal(b"short")
