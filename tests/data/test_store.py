from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading

import numpy as np
import pytest
import torch

from tercet.data import ImageFrontEnd, Manifest, Row, SampleStore, read_data
from tercet.errors import DataError, InvalidInput

FRONT_END = ImageFrontEnd(16, 16, 3)


def read(folder, **options):
    return SampleStore.read(read_data(folder, suffixes=FRONT_END.SUFFIXES), FRONT_END, **options)


@pytest.mark.parametrize("memory_bytes", [2**30, 0])
@pytest.mark.parametrize("workers", [1, 3])
def test_samples_are_those_the_front_end_decodes_and_hashes_those_of_the_files(
    folder_of_faces, tmp_path, memory_bytes, workers
):
    with read(folder_of_faces, memory_bytes=memory_bytes, workers=workers, spill_dir=tmp_path) as store:
        assert len(store) == len(store.manifest) == len(store.hashes) == 6
        x_BCHW = store.take(np.array([5, 0, 0]))
        assert x_BCHW.dtype == torch.uint8
        for sample, row in zip(x_BCHW.numpy(), (5, 0, 0), strict=True):
            assert (sample == FRONT_END.decode(store.manifest.rows[row].path)).all()
        for row, digest in zip(store.manifest.rows, store.hashes, strict=True):
            assert digest == hashlib.sha256(row.path.read_bytes()).hexdigest()[:32]
        x_BCHW.zero_()
        assert store.take(np.array([5])).any(), "what is taken is a copy"
        assert store.take(np.array([], dtype=np.int64)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("memory_bytes", [2**30, 0])
def test_a_bad_picture_is_left_out_and_counted_and_the_rest_keeps_its_rows(folder_of_faces, memory_bytes):
    (folder_of_faces / "ada" / "1.png").write_bytes(b"no picture")
    whole = (folder_of_faces / "bob" / "0.png").read_bytes()
    (folder_of_faces / "bob" / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder_of_faces / "bob" / "notes.txt").write_text("x")
    manifest = read_data(folder_of_faces, suffixes=FRONT_END.SUFFIXES)
    (folder_of_faces / "eve" / "0.png").unlink()
    with SampleStore.read(manifest, FRONT_END, memory_bytes=memory_bytes) as store:
        assert [store.manifest.relative(row) for row in store.manifest.rows] == ["ada/0.png", "ada/2.png", "bob/1.png"]
        assert store.manifest.identities == ("ada", "bob")
        skipped = {entry.path: entry.reason for entry in store.manifest.skipped}
        assert skipped.keys() == {"ada/1.png", "bob/0.png", "bob/notes.txt", "eve/0.png"}
        assert skipped["ada/1.png"].startswith("is not an image")
        assert skipped["bob/0.png"].startswith("the image is damaged or cut off")
        assert skipped["eve/0.png"] == "No such file or directory"
        for n, row in enumerate(store.manifest.rows):
            assert (store.take(np.array([n])).numpy()[0] == FRONT_END.decode(row.path)).all()


def test_nothing_readable_is_an_error_that_gives_one_example(folder_of_faces):
    for path in folder_of_faces.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"faces: none of 6 files can be read; ada/0\.png: is not an image"):
        read(folder_of_faces)


def test_an_empty_manifest_and_no_workers_are_refused(folder_of_faces):
    with pytest.raises(DataError, match="no sample to read"):
        SampleStore.read(Manifest(folder_of_faces, ()), FRONT_END)
    with pytest.raises(InvalidInput, match="workers: must be at least 1, not 0"):
        read(folder_of_faces, workers=0)


def test_progress_comes_in_the_caller_s_thread_and_reaches_the_total(folder_of_faces):
    rows = read_data(folder_of_faces, suffixes=FRONT_END.SUFFIXES).rows
    calls = []

    def progress(done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append((done, total))

    SampleStore.read(Manifest(folder_of_faces, rows * 20), FRONT_END, progress=progress)
    assert calls[-1] == (120, 120)
    assert len(calls) > 1
    assert calls == sorted(calls)


def test_an_interruption_stops_the_reading_and_leaves_nothing(folder_of_faces, tmp_path):
    rows = read_data(folder_of_faces, suffixes=FRONT_END.SUFFIXES).rows

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    spill = tmp_path / "spill"
    spill.mkdir()
    with pytest.raises(KeyboardInterrupt):
        SampleStore.read(
            Manifest(folder_of_faces, rows * 40), FRONT_END, spill_dir=spill, memory_bytes=0, progress=interrupt
        )
    assert list(spill.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tercet-read")]


def test_the_spilled_array_is_a_mapping_in_the_named_folder_that_close_removes(folder_of_faces, tmp_path, monkeypatch):
    places = []
    real = tempfile.TemporaryFile

    def noted(**options):
        places.append(options["dir"])
        return real(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    spill = tmp_path / "spill"
    spill.mkdir()
    size = 6 * 3 * 16 * 16
    read(folder_of_faces, memory_bytes=size, spill_dir=spill).close()
    assert places == [], "an array that just fits stays in memory"
    store = read(folder_of_faces, memory_bytes=size - 1, spill_dir=spill)
    assert places == [spill]
    store.close()
    store.close()
    assert list(spill.iterdir()) == []
    with pytest.raises(InvalidInput, match="the store is closed"):
        store.take(np.array([0]))


def test_a_full_disk_is_named_before_anything_is_read(folder_of_faces, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(9, 9, 5))
        with pytest.raises(DataError, match=rf"{tmp_path}: 0\.0 GB are needed for the decoded samples, 0\.0 are free"):
            read(folder_of_faces, memory_bytes=0, spill_dir=tmp_path)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=rf"{tmp_path}: no room for .* No space left on device"):
        read(folder_of_faces, memory_bytes=0, spill_dir=tmp_path)
    with pytest.raises(DataError, match=r"absent: no room for .* No such file or directory"):
        read(folder_of_faces, memory_bytes=0, spill_dir=tmp_path / "absent")


def test_rows_that_do_not_exist_are_refused(folder_of_faces):
    store = read(folder_of_faces)
    for rows in ([-1], [6]):
        with pytest.raises(InvalidInput, match=r"rows: must lie in 0\.\.5"):
            store.take(np.array(rows))


def test_a_store_of_arrays_checks_that_all_agree(tmp_path):
    samples = np.arange(2 * 3 * 16 * 16, dtype=np.uint8).reshape(2, 3, 16, 16)
    manifest = Manifest(tmp_path, tuple(Row(tmp_path / name, name) for name in "ab"))
    store = SampleStore(manifest, FRONT_END, samples, ("1", "2"))
    assert (store.take(np.array([1])).numpy() == samples[1]).all()
    with pytest.raises(InvalidInput, match="2 samples, 2 rows and 1 hashes do not agree"):
        SampleStore(manifest, FRONT_END, samples, ("1",))
    with pytest.raises(InvalidInput, match=r"samples_N: must be uint8 \[N, 3, 16, 16\], not uint8 \[2, 3, 16, 8\]"):
        SampleStore(manifest, FRONT_END, samples[..., :8], ("1", "2"))
    with pytest.raises(InvalidInput, match="not float64"):
        SampleStore(manifest, FRONT_END, samples.astype(float), ("1", "2"))
