"""dlib's network for faces in torch, against dlib itself; needs the extra `faces`."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from portraits import PORTRAIT
from tercet.data import FaceFrontEnd
from tercet.data.faces import face_model
from tercet.encoders import find_backbone
from tercet.encoders.face_network import FaceNetwork, read_face_weights
from tercet.errors import DataError, InvalidInput, MissingExtra

dlib = pytest.importorskip("dlib", reason="dlib is not installed (the extra faces)")
FILE = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(scope="module")
def blob():
    try:
        return face_model(FILE).read_bytes()
    except MissingExtra:
        pytest.skip("face-recognition-models is not installed (the extra faces)")


def test_vectors_are_those_of_dlib(blob):
    """A face, another crop of it, and noise: dlib's 128 numbers to 1e-5 of their largest, 0.4 or so."""
    random = np.random.default_rng(0)
    face_CHW = FaceFrontEnd(150, 3).decode(PORTRAIT)
    noise_CHW = random.integers(0, 256, size=face_CHW.shape, dtype=np.uint8)
    x_BCHW = np.stack([face_CHW, np.roll(face_CHW, 9, axis=2), noise_CHW])
    theirs = dlib.face_recognition_model_v1(str(face_model(FILE)))
    expected_BD = [
        np.array(theirs.compute_face_descriptor(np.ascontiguousarray(np.moveaxis(x_CHW, 0, 2)))) for x_CHW in x_BCHW
    ]
    network = FaceNetwork()
    network.load_state_dict(read_face_weights(blob))
    backbone = find_backbone("dlib")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        found_BD = network((torch.from_numpy(x_BCHW).float() / 255 - mean) / std)
    np.testing.assert_allclose(found_BD.numpy(), expected_BD, atol=1e-5)


def test_the_encoder_gives_dlibs_cosines(blob):
    """Through front end, normalisation and the first rotation."""
    encoder = find_backbone("dlib").config(3, frozen=True).build().eval()
    encoder.begin_with(find_backbone("dlib").start())
    front_end = FaceFrontEnd(150, 3)
    face_CHW = front_end.decode(PORTRAIT)
    x_BCHW = np.stack([face_CHW, np.ascontiguousarray(face_CHW[:, :, ::-1])])
    theirs = dlib.face_recognition_model_v1(str(face_model(FILE)))
    a, b = (np.array(theirs.compute_face_descriptor(np.ascontiguousarray(np.moveaxis(x, 0, 2)))) for x in x_BCHW)
    with torch.inference_mode():
        x_BD = encoder(front_end.normalise(torch.from_numpy(x_BCHW)))
    assert float(x_BD[0] @ x_BD[1]) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def test_a_file_that_is_cut_off_or_another_one_is_refused(blob, monkeypatch, tmp_path):
    first = re.search(rb"\x01\x05con_4", blob).end()
    for damaged in (
        b"",
        blob[: len(blob) // 2],
        blob[: first + 1],
        blob[:first] + b"\x00" * 20 + blob[first + 20 :],
        blob[:first] + b"\x01\x03" + blob[first + 2 :],
        blob.replace(b"\x01\x05con_4", b"\x01\x05con_3", 1),
        blob.replace(b"\x01\x04fc_2", b"\x01\x04fc_3"),
    ):
        with pytest.raises(InvalidInput, match="blob: "):
            read_face_weights(damaged)
    (tmp_path / "file.dat").write_bytes(b"nothing")
    monkeypatch.setattr("tercet.encoders.sources.face_model", lambda name: tmp_path / "file.dat")
    with pytest.raises(DataError, match=r"file\.dat: is not dlib's network for faces"):
        find_backbone("dlib")
