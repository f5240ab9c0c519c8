"""torchvision beside a torch that it does not fit; where none is installed there is nothing to prove."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tercet.encoders import torchvision as module
from tercet.encoders.torchvision import import_torchvision
from tercet.errors import MissingExtra

# A torchvision whose compiled part is missing, as it describes its operators while it is imported.
DESCRIBES = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, threshold): ...
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, threshold): ...
"""


def imported(tmp_path, text, then=""):
    """A fresh Python in which torchvision is this text."""
    (tmp_path / "torchvision.py").write_text(text)
    code = f"from tercet.encoders.torchvision import import_torchvision\nimport_torchvision()\n{then}"
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)


def test_operators_that_nobody_has_declared_are_declared_and_say_that_they_do_nothing(tmp_path):
    use = "import torch, torchvision\nprint(torchvision.__file__)\n"
    done = imported(tmp_path, DESCRIBES, use + "torch.ops.torchvision.nms(torch.rand(1, 4), torch.rand(1), 0.5)")
    assert str(tmp_path) in done.stdout, done.stderr
    assert done.returncode != 0 and "NotImplementedError" in done.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("operator torchvision::roll does not exist"), "torchvision does not fit torch .*roll"),
        (RuntimeError("another"), "torchvision does not fit torch .*another"),
        (ImportError("none"), r"pip install 'tercet\[vision\]'"),
    ],
)
def test_what_cannot_be_helped_is_one_line(monkeypatch, error, message):
    def fail(name):
        raise error

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.raises(MissingExtra, match=message):
        import_torchvision()


def test_it_does_not_try_for_ever(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(module.importlib, "import_module", fail)
    monkeypatch.setattr(module.torch.library, "Library", lambda *names: type("Library", (), {"define": print})())
    with pytest.raises(MissingExtra, match="does not fit"):
        import_torchvision()
