"""benchmarks/gpu.py on a machine without a GPU: it reads its options, says what is missing, and writes nothing."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_cuda_device_it_says_so_and_writes_nothing(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "no CUDA device ('cuda'): nothing measured" in capsys.readouterr().err
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())


def test_wrong_options_are_refused(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--rounds", "0"])
    assert "--rounds must be at least 1" in capsys.readouterr().err


def test_its_batch_is_the_one_it_describes(gpu):
    x, labels = gpu.batch(64, torch.bfloat16, "cpu")
    assert x.shape == (64, gpu.WIDTH) and x.dtype == torch.bfloat16 and x.requires_grad
    assert labels.bincount().tolist() == [gpu.CLASS_SIZE] * 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_records_a_small_run(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "ROWS", 1024)
    monkeypatch.setattr(gpu, "MANY_ROWS", 2048)
    assert gpu.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert '"median_ms"' in path.read_text()
