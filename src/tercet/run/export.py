"""A model as one ONNX file: network, normalisation and threshold inside, checked against the run before it is written.

    samples -> normalisation -> network -> embedding
                                        -> with AS-norm also centred, cohort_mean and cohort_spread

The graph begins where the front end's decoding ends: it takes the samples that `FrontEnd.decode` yields, a batch of any
size, speech of any length. What a program needs beside it stands in the metadata as one JSON object under the key
"tercet": what a sample is, the settings of the front end, the score, the threshold and what is known about it.

Legend: B batch, N samples of a waveform, D embedding width, C cohort members.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import tercet
from tercet.data import AudioFrontEnd, FaceFrontEnd, FrontEnd, ImageFrontEnd
from tercet.data.audio import waves_of
from tercet.data.log_mel import FRAME, RATE
from tercet.errors import MissingExtra, RunError
from tercet.evaluate import AsNorm
from tercet.run.files import digest, read_tensors, write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

    from tercet.run.model import Model

__all__ = ["TOLERANCE", "Exported", "export_onnx", "sample_in_words"]

TOLERANCE: Final = 1e-5
FORMAT: Final = "tercet-onnx"
FORMAT_VERSION: Final = 1
KEY: Final = "tercet"

_INPUT: Final = "samples"
_NORMED: Final = ("centred", "cohort_mean", "cohort_spread")
_PICTURE: Final = (
    "pixels in rows from the top, upright, transparent parts on white, {channels}, brought to {height} x {width} by "
    "antialiased bicubic resizing ({fit})"
)
_SIGNATURE: Final = (
    "ink 255 on paper 0, found, centred on its mass and scaled to {height} x {width} as docs/signatures.md says"
)
_FACE: Final = "one face, found and aligned as docs/faces.md says, {channels}, {side} x {side} pixels"
_SPEECH: Final = (
    "speech of one channel at 16000 samples a second, pauses cut out as docs/speakers.md says, its first {seconds:g} s "
    "(repeated where there are fewer), scaled so that the largest value is 29490"
)
_COSINE: Final = "score = embedding_a . embedding_b"
_AS_NORM: Final = (
    "s = centred_a . centred_b; "
    "score = ((s - cohort_mean_a) / cohort_spread_a + (s - cohort_mean_b) / cohort_spread_b) / 2"
)


@final
@dataclass(frozen=True)
class Exported:
    """An ONNX file that has been written.

    Args:
        path: Where it is.
        size: Its bytes.
        difference: The largest one between a number that onnxruntime computes with it and the run's.
        about: What its metadata says under "tercet".
    """

    path: Path
    size: int
    difference: float
    about: dict[str, Any]


def export_onnx(model: Model, path: Path) -> Exported:
    """Write a model as one ONNX file, whole or not at all.

    Before it is put in its place, onnxruntime computes with it the run's golden vectors, in one batch and one by one,
    and for speech also those of a shorter piece; all must be the run's own to within 1e-5.

    Args:
        model: A loaded run; with a calibration its threshold is inside, without one the metadata say null.
        path: The file.

    Raises:
        MissingExtra: The packages of the extra `export` are not installed.
        RunError: The file cannot be written, or its vectors are not those of the run.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra.of("export to ONNX", "export") from error
    if not path.parent.is_dir():
        raise RunError(f"{path}: cannot be written (there is no folder {path.parent})")
    samples = model.front_end.golden()
    network = _Network(model.front_end, model.encoder, model.norm).eval()
    graph = _graph(network, torch.from_numpy(samples), dynamic_length=isinstance(model.front_end, AudioFrontEnd))
    golden_4D = read_tensors(model.path / "golden.safetensors")["vectors"].numpy()
    difference = _difference(graph, model, network, samples, golden_4D, path)
    about = _about(model, network, graph, samples, golden_4D, difference)
    _set_metadata(graph, about)
    data = graph.SerializeToString()
    write_bytes(path, data)
    return Exported(path, len(data), difference, about)


@final
class _Network(nn.Module):
    """What the file computes."""

    def __init__(self, front_end: FrontEnd, encoder: nn.Module, norm: AsNorm | None) -> None:
        super().__init__()
        # Of speech any length is taken, where the front end makes one length only.
        self.normalise = waves_of if isinstance(front_end, AudioFrontEnd) else front_end.normalise
        self.encoder = encoder
        self.outputs = ("embedding",) if norm is None else ("embedding", *_NORMED)
        self.top = 0
        if norm is not None:
            self.top = norm.top
            self.register_buffer("cohort_CD", nn.functional.normalize(torch.from_numpy(norm.cohort), dim=1))
            self.register_buffer("mean_D", torch.from_numpy(norm.mean))

    def forward(self, samples: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedding_BD = self.encoder(self.normalise(samples))
        if not self.top:
            return (embedding_BD,)
        centred_BD = nn.functional.normalize(embedding_BD - self.get_buffer("mean_D"), dim=1)
        nearest_BT = (centred_BD @ self.get_buffer("cohort_CD").T).topk(self.top, dim=1).values
        mean_B = nearest_BT.mean(dim=1)
        spread_B = (nearest_BT - mean_B[:, None]).square().mean(dim=1).sqrt()
        return embedding_BD, centred_BD, mean_B, spread_B.clamp_min(1e-6)


def _graph(network: _Network, samples: torch.Tensor, *, dynamic_length: bool) -> ModelProto:
    """The network as ONNX, without the exporter's notes, which name files of this machine."""
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic_length:
        free[2] = torch.export.Dim("samples", min=FRAME)
    with _silent():
        program = torch.onnx.export(
            network,
            (samples,),
            dynamo=True,
            dynamic_shapes=(free,),
            input_names=[_INPUT],
            output_names=list(network.outputs),
            verbose=False,
        )
    if program is None:
        raise RunError("export: torch.onnx gave no graph")
    graph: ModelProto = program.model_proto
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output):
        value.ClearField("metadata_props")
    return graph


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's remarks about packages that are not there and about its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(
    graph: ModelProto,
    model: Model,
    network: _Network,
    samples: npt.NDArray[Any],
    golden_4D: npt.NDArray[np.float32],
    path: Path,
) -> float:
    """The largest difference between what onnxruntime computes with the graph and what the run says.

    Raises:
        RunError: It is more than the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def found(batch: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        answers: list[npt.NDArray[np.float32]] = session.run(list(network.outputs), {_INPUT: batch})
        return answers

    wanted: list[npt.NDArray[Any]] = [golden_4D]
    if model.norm is not None:
        ready = model.norm.normalised(golden_4D)
        unit_4D = ready.vectors / np.linalg.norm(ready.vectors, axis=1, keepdims=True)
        wanted += [unit_4D, ready.mean, ready.spread]
    pairs = list(zip(found(samples), wanted, strict=True))
    for i in range(len(samples)):
        pairs += zip(found(samples[i : i + 1]), (of[i : i + 1] for of in wanted), strict=True)
    if isinstance(model.front_end, AudioFrontEnd):
        shorter = np.ascontiguousarray(samples[:, :, : samples.shape[2] // 2])
        with torch.inference_mode():
            pairs.append((found(shorter)[0], model.encoder(waves_of(torch.from_numpy(shorter))).numpy()))
    largest = max(float(np.abs(got - want).max()) for got, want in pairs)
    if not largest <= TOLERANCE:  # also where it is not a number
        raise RunError(
            f"{path}: not written, onnxruntime gives other vectors than {model.path} "
            f"(by up to {largest:.1e}, {TOLERANCE:.0e} are allowed)"
        )
    return largest


def _about(
    model: Model,
    network: _Network,
    graph: ModelProto,
    samples: npt.NDArray[Any],
    golden_4D: npt.NDArray[np.float32],
    difference: float,
) -> dict[str, Any]:
    """What the metadata say; docs/export.md lists it."""
    front_end = model.front_end
    low, high = (
        float(front_end.normalise(torch.from_numpy(np.full_like(samples[:1], value))).flatten()[0])
        for value in (0, 255)
    )
    std = 255 / (high - low)
    speech = isinstance(front_end, AudioFrontEnd)
    calibration = model.calibration
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tercet": tercet.__version__,
        "torch": str(torch.__version__),
        "opset": max(used.version for used in graph.opset_import if not used.domain),
        "task": model.task,
        "fingerprint": model.fingerprint,
        "input": {
            "name": _INPUT,
            "type": str(samples.dtype),
            "shape": ["batch", 1, "samples"] if speech else ["batch", *front_end.shape],
            "holds": sample_in_words(front_end),
            "sample_rate": RATE if speech else None,
            "least_samples": FRAME if speech else None,
        },
        "normalisation": {"inside": True, "mean": round(-low * std, 6), "std": round(std, 6)},
        "front_end": front_end.to_json(),
        "outputs": list(network.outputs),
        "embedding_dim": golden_4D.shape[1],
        "score": _COSINE if model.norm is None else _AS_NORM,
        "threshold": None if calibration is None else calibration.threshold,
        "calibration": None if calibration is None else calibration.to_json(),
        "golden": {
            "samples_shape": list(samples.shape),
            "samples_sha256": digest(np.ascontiguousarray(samples).tobytes()),
            "vectors": [[float(f"{value:.8g}") for value in row] for row in golden_4D.tolist()],
            "difference": difference,
            "tolerance": TOLERANCE,
        },
    }


def sample_in_words(front_end: FrontEnd) -> str:
    """What a sample is, for those who make one without tercet."""
    if isinstance(front_end, AudioFrontEnd):
        return _SPEECH.format(seconds=front_end.seconds)
    channels = "grey (ITU-R 601 luma)" if front_end.shape[0] == 1 else "red, green, blue"
    if isinstance(front_end, FaceFrontEnd):
        return _FACE.format(channels=channels, side=front_end.side)
    if isinstance(front_end, ImageFrontEnd):
        return _PICTURE.format(channels=channels, height=front_end.height, width=front_end.width, fit=front_end.fit)
    _, height, width = front_end.shape
    return _SIGNATURE.format(height=height, width=width)


def _set_metadata(graph: ModelProto, about: dict[str, Any]) -> None:
    entry = graph.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about, allow_nan=False)
    graph.producer_name, graph.producer_version = "tercet", tercet.__version__
    graph.doc_string = f"{about['task']}, model {about['fingerprint']}"
