from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tercet.data import Manifest, Row, Skipped

ROOT = Path("/data")
ROWS = tuple(Row(ROOT / f"{n}.png", identity) for n, identity in enumerate(["5", "0", "5", "1"]))


def test_labels_index_the_sorted_identities_whatever_gaps_their_names_have():
    manifest = Manifest(ROOT, ROWS)
    assert manifest.identities == ("0", "1", "5")
    assert manifest.labels.tolist() == [2, 0, 2, 1]
    assert manifest.labels.dtype == np.int64
    assert manifest.counts() == {"0": 1, "1": 1, "5": 2}
    assert len(manifest) == 4


def test_labels_cannot_be_changed_by_a_reader():
    with pytest.raises(ValueError, match="read-only"):
        Manifest(ROOT, ROWS).labels[0] = 7


def test_of_keeps_order_and_ignores_names_that_are_not_there():
    manifest = Manifest(ROOT, ROWS, (Skipped("x.txt", "no"),))
    part = manifest.of(["5", "nobody"])
    assert [row.path.name for row in part.rows] == ["0.png", "2.png"]
    assert part.labels.tolist() == [0, 0]
    assert part.skipped == ()


def test_relative_is_posix_below_the_root_and_absolute_elsewhere():
    manifest = Manifest(ROOT, ())
    assert manifest.relative(Row(ROOT / "a" / "b.png", "a")) == "a/b.png"
    assert manifest.relative(Row(Path("/other/b.png"), "a")) == "/other/b.png"


def test_an_empty_manifest_has_empty_labels():
    assert Manifest(ROOT, ()).labels.shape == (0,)


def test_forgeries_belong_to_their_target_and_are_not_counted_as_its_samples():
    rows = [
        Row(Path("/d/a.png"), "a"),
        Row(Path("/d/b.png"), "a", kind="skilled"),
        Row(Path("/d/c.png"), "b", kind="simple"),
    ]
    manifest = Manifest(Path("/d"), tuple(rows))
    assert manifest.identities == ("a", "b")
    assert manifest.labels.tolist() == [0, 0, 1]
    assert manifest.genuine.tolist() == [True, False, False]
    assert manifest.kinds.tolist() == ["genuine", "skilled", "simple"]
    assert manifest.counts() == {"a": 1, "b": 0}
    enrolled = manifest.enrolled()
    assert [row.path.name for row in enrolled.rows] == ["a.png"]
    assert [(item.path, item.reason.split(",")[0]) for item in enrolled.skipped] == [
        ("b.png", "a forgery (skilled)"),
        ("c.png", "a forgery (simple)"),
    ]
    assert enrolled.enrolled() is enrolled
    with pytest.raises(ValueError, match="read-only"):
        manifest.genuine[0] = False
