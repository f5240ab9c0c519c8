import pickle
import zipfile

import numpy as np
import pytest

from tercet.errors import DataError, InvalidInput
from tercet.run import Vectors
from tercet.run import vectors as module

VECTORS = Vectors(np.eye(3, 4, dtype=np.float32), ("a/1.png", "b/2.png", "ü.png"), ("a", "b", ""), "0123456789abcdef")


def test_what_is_written_is_read_again(tmp_path):
    VECTORS.write(tmp_path / "v.npz")
    found = Vectors.read(tmp_path / "v.npz")
    assert (found.paths, found.identities, found.fingerprint) == (
        VECTORS.paths,
        VECTORS.identities,
        VECTORS.fingerprint,
    )
    np.testing.assert_array_equal(found.vectors, VECTORS.vectors)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
        assert arrays["paths"].tolist() == list(VECTORS.paths)


def test_no_vectors_at_all(tmp_path):
    none = Vectors(np.zeros((0, 4), np.float32), (), (), "f")
    none.write(tmp_path / "v.npz")
    with pytest.raises(DataError, match="holds no vectors"):
        Vectors.read(tmp_path / "v.npz")


def test_ties_go_to_the_lower_row():
    twins = Vectors(np.float32([[0, 1], [1, 0], [1, 0]]), ("x", "y", "z"), ("x", "y", "z"), "f")
    assert [hit.path for hit in twins.nearest(np.float32([1, 0]), 3)] == ["y", "z", "x"]


def savez(path, **changed):
    arrays = {"vectors": VECTORS.vectors, "paths": ["a", "b", "c"], "identities": ["a", "b", "c"], "fingerprint": "f"}
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"identities": None}, "no array 'identities'"),
        ({"paths": ["a"]}, "differ in number"),
        ({"paths": np.array(3)}, "differ in number"),
        ({"vectors": np.eye(3)}, "float32"),
        ({"vectors": np.float32([[np.nan]] * 3)}, "finite"),
        ({"vectors": np.ones(3, np.float32)}, r"\[N, D\]"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(tmp_path, changed, message):
    savez(tmp_path / "v.npz", **changed)
    with pytest.raises(DataError, match=rf"v\.npz: .*{message}"):
        Vectors.read(tmp_path / "v.npz")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickle_is_never_opened(tmp_path):
    savez(tmp_path / "v.npz", paths=np.array([Bomb()] * 3, dtype=object))
    with pytest.raises(DataError, match="damaged, or not a file of"):
        Vectors.read(tmp_path / "v.npz")
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="damaged, or not a file of"):
        Vectors.read(tmp_path / "p.npz")


def test_truncated_missing_and_too_large_files(tmp_path, monkeypatch):
    VECTORS.write(tmp_path / "v.npz")
    content = (tmp_path / "v.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="damaged"):
        Vectors.read(tmp_path / "half.npz")
    with pytest.raises(DataError, match="cannot be read"):
        Vectors.read(tmp_path / "gone.npz")
    with zipfile.ZipFile(tmp_path / "v.npz") as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    monkeypatch.setattr(module, "_MAX_BYTES", unpacked - 1)
    with pytest.raises(DataError, match="when unpacked"):
        Vectors.read(tmp_path / "v.npz")


def test_lengths_that_differ_are_refused():
    with pytest.raises(InvalidInput, match="N paths"):
        Vectors(VECTORS.vectors, ("a",), ("a",), "f")
