"""`bench gallery` measures recall against an exact search and leaves out who claims to be exact and is not."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from tercet.bench import gallery
from tercet.bench.gallery import CONTENDERS, OURS, GalleryPlan, bench_gallery
from tercet.errors import InvalidInput

PLAN = GalleryPlan(templates=60, width=8, probes=4, results=5)


def silent(*_: object) -> None:
    pass


def test_exact_searches_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("numpy, one product", "faiss, flat", "faiss, HNSW")
    monkeypatch.setattr(
        gallery, "CONTENDERS", {OURS: CONTENDERS["numpy, one product"], **{k: CONTENDERS[k] for k in kept}}
    )
    entries = {entry["contender"]: entry for entry in bench_gallery(PLAN, silent)["entries"]}
    assert entries[OURS]["recall"] == entries["numpy, one product"]["recall"] == 1.0
    assert entries[OURS]["times_tercet"] is None and entries["numpy, one product"]["times_tercet"] > 0
    if "faiss, flat" in entries:
        assert entries["faiss, flat"]["recall"] == 1.0 and 0.5 < entries["faiss, HNSW"]["recall"] <= 1.0


def test_one_that_is_not_exact_is_left_out_and_an_index_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def blind(x_ND, k):
        yield lambda probe_D: np.arange(k)

    exact = CONTENDERS["numpy, one product"]
    monkeypatch.setattr(gallery, "CONTENDERS", {OURS: exact, "numpy, one product": blind, "tercet, HNSW": blind})
    result = bench_gallery(PLAN, silent)
    assert {entry["contender"] for entry in result["entries"]} == {OURS, "tercet, HNSW"}
    assert result["entries"][1]["recall"] < 1
    (left,) = result["left_out"]
    assert left["contender"] == "numpy, one product" and "does not find the same" in left["reason"]


def test_libraries_that_are_not_there_or_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = CONTENDERS["numpy, one product"]
    monkeypatch.setattr(gallery, "CONTENDERS", {OURS: exact, "faiss, flat": exact})
    monkeypatch.setattr(gallery.importlib.util, "find_spec", lambda name: None)
    assert bench_gallery(PLAN, silent)["left_out"] == [{"contender": "faiss, flat", "reason": "not installed"}]
    without = bench_gallery(GalleryPlan(templates=60, width=8, probes=4, results=5, peers=False), silent)
    assert len(without["entries"]) == 1 and without["left_out"] == []


@pytest.mark.parametrize("given", [{"templates": 3}, {"width": 1}, {"probes": 0}, {"results": 0}, {"results": 10_001}])
def test_what_has_no_meaning_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(given))):
        GalleryPlan(**given)
