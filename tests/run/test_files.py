import errno
import json
import os
from pathlib import Path

import pytest
import torch

from tercet.errors import RunError
from tercet.run.files import read_bytes, read_json, read_tensors, write_bytes, write_json, write_tensors


def test_what_is_written_is_read_again(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Zoë", "n": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"name": "Zoë", "n": [1, 2.5, None]}
    tensors = {"w": torch.randn(2, 3), "n": torch.tensor(7)}
    sha256 = write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors", sha256=sha256)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_nan_does_not_become_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"eer": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "run.json"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
    with pytest.raises(RunError, match=r"run\.json: cannot be written \(No space left on device\)$"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_the_system_cuts_short_leaves_no_half_file(tmp_path):
    resource = pytest.importorskip("resource", reason="the limit on file sizes is POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RunError, match=r"a: cannot be written \(File too large\)"):
            write_bytes(tmp_path / "a", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"gone/a\.json: cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "gone" / "a.json", {})


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{", "no valid JSON"), (b"[1]", "no JSON object"), (b"\xff\xfe", "no valid JSON")]
)
def test_damaged_json(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=rf"a\.json: damaged, {reason}"):
        read_json(tmp_path / "a.json")


def test_deep_json_is_damaged_too_not_a_crash(tmp_path):
    (tmp_path / "a.json").write_text('{"a":' + "[" * 100_000)
    with pytest.raises(RunError, match="damaged"):
        read_json(tmp_path / "a.json")


def test_damaged_and_exchanged_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    sha256 = write_tensors(path, {"w": torch.ones(4)})
    write_tensors(path, {"w": torch.zeros(4)})
    with pytest.raises(RunError, match="checksum"):
        read_tensors(path, sha256=sha256)
    for damaged in (b"", path.read_bytes()[:-3], json.dumps({"w": 1}).encode(), b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"w\.safetensors: damaged, no valid safetensors file"):
            read_tensors(path)


def test_a_file_above_the_limit_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", limit=5) == b"12345"
    with pytest.raises(RunError, match="5 bytes, more than the 4 allowed"):
        read_bytes(tmp_path / "a", limit=4)
    with pytest.raises(RunError, match="cannot be read"):
        read_bytes(tmp_path / "b", limit=4)
