"""The exported file gives the run's vectors and decisions to programs that have neither tercet nor torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tercet
from tercet.data import AudioFrontEnd, FaceFrontEnd, FrontEnd, ImageFrontEnd, SignatureFrontEnd, Split
from tercet.encoders import build_encoder
from tercet.errors import MissingExtra, RunError
from tercet.evaluate import AsNorm, calibrate
from tercet.run import RunSplit, save_model
from tercet.run.export import export_onnx, sample_in_words
from tercet.run.files import read_tensors, write_tensors
from tercet.tasks import load_task
from voices import voice, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def example(words: str) -> str:
    """The block of the page that holds these words."""
    return next(
        code for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S) if words in code
    )


def write_run(path: Path, name: str, seed: int = 0) -> Path:
    """A run of a task as it comes, with random weights in every layer."""
    task = load_task(name)
    torch.manual_seed(seed)
    encoder = build_encoder(task.encoder.to_json())
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 0.1 * torch.randn_like(weight)
    save_model(
        path,
        task=name,
        seed=seed,
        front_end=task.front_end,
        encoder=task.encoder.to_json(),
        weights=encoder.state_dict(),
        split=RunSplit(Split(0, ("a",), ("b",), ("c",)), {"train": (), "validation": ()}),
        training={},
        data={},
        metrics={},
    )
    return path


def calibration(threshold: float, norm: str = "none"):
    scores = np.concatenate([np.full(400, threshold + 0.1), np.full(400, threshold - 0.1)])
    return calibrate(scores, scores > threshold, target_fmr=0.1, norm=norm)


def answers(file: Path, samples: np.ndarray) -> tuple[dict, dict[str, np.ndarray]]:
    """The metadata, and the outputs by name."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["tercet"])
    names = [output.name for output in session.get_outputs()]
    assert names == about["outputs"] and [given.name for given in session.get_inputs()] == ["samples"]
    return about, dict(zip(names, session.run(names, {"samples": samples}), strict=True))


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on speech, and its file."""
    folder = tmp_path_factory.mktemp("voices")
    run = write_run(folder / "run", "speakers")
    export_onnx(tercet.load(run), folder / "voice.onnx")
    return run, folder / "voice.onnx"


@pytest.mark.parametrize("task", ["images", pytest.param("faces", marks=pytest.mark.long), "signatures"])
def test_the_file_gives_the_models_vectors(task: str, tmp_path: Path) -> None:
    model = tercet.load(write_run(tmp_path / "run", task))
    file = tmp_path / "model.onnx"
    made = export_onnx(model, file)
    random = np.random.default_rng(1)
    for count in (1, 7):
        samples = random.integers(0, 256, size=(count, *model.front_end.shape), dtype=np.uint8)
        about, found = answers(file, samples)
        np.testing.assert_allclose(found["embedding"], model.embed(samples), atol=1e-5)
    assert about == json.loads(json.dumps(made.about)) and made.difference <= 1e-5
    assert about["task"] == task and about["fingerprint"] == model.fingerprint
    assert about["front_end"] == model.front_end.to_json()
    assert about["normalisation"] == {"inside": True, "mean": 127.5, "std": 127.5}
    golden = read_tensors(model.path / "golden.safetensors")["vectors"].numpy()
    np.testing.assert_allclose(about["golden"]["vectors"], golden, atol=1e-7)


@pytest.mark.parametrize(
    ("front_end", "words"),
    [
        (
            ImageFrontEnd(48, 64, 3, fit="pad"),
            "red, green, blue, brought to 48 x 64 by antialiased bicubic resizing (pad)",
        ),
        (ImageFrontEnd(8, 8, 1), "grey (ITU-R 601 luma), brought to 8 x 8"),
        (FaceFrontEnd(150, 3), "one face, found and aligned as docs/faces.md says, red, green, blue, 150 x 150 pixels"),
        (
            FaceFrontEnd(64, 1),
            "one face, found and aligned as docs/faces.md says, grey (ITU-R 601 luma), 64 x 64 pixels",
        ),
        (SignatureFrontEnd(64, 128), "ink 255 on paper 0, found, centred on its mass and scaled to 64 x 128"),
        (AudioFrontEnd(seconds=3.0), "its first 3 s"),
    ],
)
def test_what_a_sample_is_stands_in_the_file_and_on_the_page(front_end: FrontEnd, words: str) -> None:
    assert words in sample_in_words(front_end)
    assert f"| `{front_end.kind}` |" in PAGE.read_text("utf-8")


def test_nothing_of_the_machine_is_in_the_file(voices: tuple[Path, Path]) -> None:
    data = voices[1].read_bytes()
    for word in (b".py", b"site-packages", str(Path.home()).encode(), b"torch.onnx", b"Traceback"):
        assert word not in data, word


def test_speech_of_any_length_and_number(voices: tuple[Path, Path]) -> None:
    run, file = voices
    model = tercet.load(run)
    random = np.random.default_rng(2)
    for count, length in ((1, 400), (3, 16_000), (2, 64_000)):
        samples = random.integers(-9000, 9000, size=(count, 1, length), dtype=np.int16)
        about, found = answers(file, samples)
        with torch.inference_mode():
            expected = model.encoder(torch.from_numpy(samples).float() / 32768)
        np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
    assert about["input"]["sample_rate"] == 16000 and about["input"]["shape"] == ["batch", 1, "samples"]
    assert about["normalisation"] == {"inside": True, "mean": 0.0, "std": 32768.0}


def test_the_pages_way_from_a_recording_to_a_sample_is_the_front_ends(tmp_path: Path) -> None:
    block: dict = {}
    exec(example("def sample("), block)
    front_end = load_task("speakers").front_end
    for number, seconds in enumerate((0.8, 3.0, 7.0)):
        pause = np.zeros(12_000, np.float32)
        wave = np.concatenate([pause, voice(number, 0, seconds=seconds), pause, voice(number, 1, seconds=seconds)])
        file = write(tmp_path / f"{number}.flac", wave)
        np.testing.assert_allclose(block["sample"](str(file)), front_end.decode(file), atol=1)


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "demo-run")
    tercet.load(run).save_calibration(calibration(0.6))
    return run


@pytest.fixture(scope="module")
def exported(calibrated: Path) -> Path:
    """The file of the calibrated run."""
    file = calibrated.parent / "demo.onnx"
    export_onnx(tercet.load(calibrated), file)
    return file


@pytest.fixture
def same_graph(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter's graph of the same weights, which takes it seconds, from the file where it is already."""

    def again(*_: object, **__: object) -> onnx.ModelProto:
        graph = onnx.load(exported)
        graph.ClearField("metadata_props")
        return graph

    monkeypatch.setattr("tercet.run.export._graph", again)


@pytest.mark.usefixtures("same_graph")
def test_the_page_verifies_two_files_without_tercet_and_torch(
    run, calibrated: Path, exported: Path, digits: Path, tmp_path: Path
) -> None:
    ended = run("export", calibrated, "--onnx", tmp_path / "demo.onnx", "--json")
    assert (tmp_path / "demo.onnx").read_bytes() == exported.read_bytes()
    own = tercet.load(calibrated)
    assert ended.json["threshold"] == ended.json["calibration"]["threshold"] == own.calibration.threshold
    assert ended.json["bytes"] == (tmp_path / "demo.onnx").stat().st_size and ended.json["difference"] <= 1e-5
    assert ended.json["model"] == own.fingerprint and "threshold: 0.6000 inside" in ended.err
    code = example("demo.onnx")
    eights = sorted((digits / "8").iterdir())
    for number in (1, 4, 9):
        pair = re.sub(r"^files = .*$", f"files = {[str(eights[0]), str(eights[number])]!r}", code, flags=re.M)
        blocked = "import sys\nsys.modules.update(dict.fromkeys(('tercet', 'torch')))\n"
        done = subprocess.run([sys.executable, "-c", blocked + pair], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = run("verify", calibrated, eights[0], eights[number], "--json")
        score, decision = done.stdout.strip().split(" ", 1)
        assert abs(float(score) - said.json["score"]) < 2e-4
        assert decision.replace(" ", "-") == said.json["decision"]


def test_normalised_scores_are_the_runs(calibrated: Path, digits: Path, tmp_path: Path) -> None:
    run = shutil.copytree(calibrated, tmp_path / "run")
    model = tercet.load(run)
    files = sorted(digits.glob("*/*.png"))[::9]
    vectors = model.embed(files)
    norm = AsNorm.of(vectors, np.array([int(file.parent.name) for file in files]), top=6)
    model.save_calibration(calibration(0.6, "as-norm"), norm=norm)
    made = export_onnx(tercet.load(run), tmp_path / "normed.onnx")
    samples = np.stack([model.front_end.decode(file) for file in files])
    about, found = answers(tmp_path / "normed.onnx", samples)
    assert about["calibration"]["norm"] == "as-norm" and made.about["outputs"][1:] == [
        "centred",
        "cohort_mean",
        "cohort_spread",
    ]
    for one, other in ((0, 1), (3, 20), (5, 9)):
        s = found["centred"][one] @ found["centred"][other]
        mean, spread = found["cohort_mean"], found["cohort_spread"]
        score = ((s - mean[one]) / spread[one] + (s - mean[other]) / spread[other]) / 2
        assert score == pytest.approx(model.verify(files[one], files[other]).score, abs=1e-3)


@pytest.mark.usefixtures("same_graph")
def test_without_a_threshold_it_says_so(run, trained: Path, tmp_path: Path) -> None:
    ended = run("export", trained, "--onnx", tmp_path / "b.onnx")
    assert ended.code == 0 and "threshold: none inside, because the run has no calibration" in ended.out
    assert "calibrate" in ended.err
    about, _ = answers(tmp_path / "b.onnx", np.zeros((1, 1, 8, 8), np.uint8))
    assert about["threshold"] is None and about["calibration"] is None


@pytest.mark.usefixtures("same_graph")
def test_a_file_that_computes_something_else_is_not_written(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    golden = read_tensors(run / "golden.safetensors")["vectors"]
    write_tensors(run / "golden.safetensors", {"vectors": golden + 5e-5})  # what loading the run lets pass
    file = tmp_path / "model.onnx"
    file.write_bytes(b"the one before")
    with pytest.raises(RunError, match=r"model\.onnx: not written, onnxruntime gives other vectors than .*5\.0e-05"):
        export_onnx(tercet.load(run), file)
    assert file.read_bytes() == b"the one before"


def test_what_cannot_be_done_is_one_line(run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export", trained, "--onnx", tmp_path / "model.bin").refused("must end in .onnx")
    assert run("export", tmp_path, "--onnx", tmp_path / "model.onnx").refused("not a run of tercet")
    assert run("export", trained, "--onnx", tmp_path / "gone" / "model.onnx").refused("cannot be written")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run("export", trained, "--onnx", tmp_path / "model.onnx").refused("pip install 'tercet[export]'")
    with pytest.raises(MissingExtra):
        export_onnx(tercet.load(trained), tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*.onnx"))
