"""A run: the folder that holds a trained model and everything needed to use it and to judge it.

    RUN/
      run.json              what it is: format, versions, task, front end, encoder, training settings, data, fingerprint
      weights.safetensors   the encoder's weights; their checksum stands in run.json
      start.safetensors     the weights that training began with, where they were pretrained: what "frozen" is scored by
      golden.safetensors    vectors of synthetic inputs: a loaded model must give them again
      split.json            who was trained on, validated on and kept for the test, with a checksum of every file
      metrics.json          what training measured
      calibration.json      a chosen threshold, where there is one
      cohort-*.safetensors  the cohort of a calibration with AS-norm
      plan.json, history.jsonl, checkpoints/     written while training
      command.json, evaluation.json, report.html, data/     by the command line: what was called, the test figures, the
                                                            page, the pictures of the demonstration

run.json is written last: a folder without it holds no finished model. JSON and safetensors only: opening a run that
somebody else made executes nothing of theirs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import nn

import tercet
from tercet.data import FrontEnd, Split, read_front_end
from tercet.encoders import build_encoder
from tercet.errors import DataError, InvalidInput, RunError, TercetError
from tercet.run.files import read_json, read_tensors, write_json, write_tensors

__all__ = [
    "FORMAT_VERSION",
    "START",
    "RunSplit",
    "fingerprint_of",
    "open_bundle",
    "read_split",
    "save_model",
    "write_split",
]

FORMAT: Final = "tercet-run"
FORMAT_VERSION: Final = 1
START: Final = "start.safetensors"
GOLDEN_TOLERANCE: Final = 1e-4  # other processors sum in another order; a wrong front end or weight is far off

_NEEDED: Final = (
    "task",
    "seed",
    "fingerprint",
    "front_end",
    "encoder",
    "weights_sha256",
    "split_sha256",
    "training",
    "data",
)
_PACKAGES: Final = ("torch", "numpy", "scipy", "pillow", "soundfile", "safetensors", "accelerate")


@final
@dataclass(frozen=True)
class RunSplit:
    """The identities of a run, and the checksums of their files.

    Args:
        split: Who is in train, validation and test.
        hashes: For "train" and "validation" the checksums of the files, as `SampleStore.hashes` gives them. They tell a
            file that the model has seen, under whatever name it comes back.
    """

    split: Split
    hashes: Mapping[str, tuple[str, ...]]


@final
@dataclass(frozen=True)
class Bundle:
    """What a run folder holds, read and checked."""

    config: dict[str, Any]
    front_end: FrontEnd
    encoder: nn.Module
    split: RunSplit


def save_model(
    path: Path,
    *,
    task: str,
    seed: int,
    front_end: FrontEnd,
    encoder: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    split: RunSplit,
    training: Mapping[str, Any],
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a run folder; each file whole or not at all, run.json last. Returns the fingerprint.

    Args:
        path: The folder; made where it is not there.
        task: Name of the task.
        seed: What every random draw of the training came from.
        front_end: Turns a file into the encoder's input.
        encoder: The configuration that `build_encoder` builds the network from.
        weights: The trained network's weights (its `state_dict`).
        split: Identities and file checksums.
        training: The settings of the training.
        data: A summary of the data: where they were, how many, what was skipped.
        metrics: What training measured.

    Raises:
        RunError: A file cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror or error})") from error
    # Built anew, on the CPU and in full precision: the network that whoever loads the run will have.
    network = build_encoder(encoder)
    network.load_state_dict(weights)
    fingerprint = fingerprint_of(front_end, encoder, weights)
    split_sha256 = write_split(path, split)
    golden = {"vectors": _golden(front_end, network.eval())}
    if (decoded := _decoded(front_end)) is not None:
        golden["decoded"] = decoded
    write_tensors(path / "golden.safetensors", golden)
    write_json(path / "metrics.json", metrics)
    weights_sha256 = write_tensors(path / "weights.safetensors", weights)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tercet": tercet.__version__,
        "task": task,
        "seed": seed,
        "fingerprint": fingerprint,
        "front_end": front_end.to_json(),
        "encoder": dict(encoder),
        "weights_sha256": weights_sha256,
        "split_sha256": split_sha256,
        "training": dict(training),
        "data": dict(data),
        "packages": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in _PACKAGES}},
    }
    _drop_calibration_of_another(path, fingerprint)
    write_json(path / "run.json", config)
    return fingerprint


def open_bundle(path: Path) -> Bundle:
    """Read a run folder and check that it is whole and of a format that this version knows.

    Raises:
        RunError: No such folder, no finished run, damaged, foreign, or made by a newer version: one line says which.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder")
    if not (path / "run.json").is_file():
        if (path / "plan.json").is_file():
            raise RunError(f"{path}: its training has not finished; go on with: tercet train ... --resume")
        raise RunError(f"{path}: not a run of tercet (no run.json)")
    config = read_json(path / "run.json")
    _check_format(path / "run.json", config)
    try:
        front_end = read_front_end(config["front_end"])
        encoder = build_encoder(config["encoder"])
    except (TercetError, TypeError, AttributeError) as error:
        raise RunError(f"{path / 'run.json'}: damaged ({error})") from error
    weights = read_tensors(path / "weights.safetensors", sha256=str(config["weights_sha256"]))
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{path / 'weights.safetensors'}: these weights are for another encoder") from error
    if fingerprint_of(front_end, config["encoder"], weights) != config["fingerprint"]:
        raise RunError(
            f"{path / 'run.json'}: damaged, its front end or encoder is not the one the model was saved with"
        )
    encoder.eval()
    kept = read_tensors(path / "golden.safetensors")
    golden = kept.get("vectors")
    found = _golden(front_end, encoder)
    if (
        golden is None
        or golden.shape != found.shape
        or not torch.allclose(golden, found, rtol=0, atol=GOLDEN_TOLERANCE)
    ):
        raise RunError(f"{path}: the model does not give the vectors it gave when it was saved (golden.safetensors)")
    # Runs from before this was kept do not have it.
    if "decoded" in kept and not _reads_alike(kept["decoded"], _decoded(front_end)):
        raise RunError(f"{path}: files are not read as they were when the model was saved (golden.safetensors)")
    # Who was trained on decides who may be scored: another run's split would make honest figures false.
    return Bundle(config, front_end, encoder, read_split(path, sha256=str(config["split_sha256"])))


def write_split(path: Path, split: RunSplit) -> str:
    """Write split.json; returns the digest of its bytes."""
    hashes = {part: list(values) for part, values in split.hashes.items()}
    return write_json(path / "split.json", {**split.split.to_json(), "hashes": hashes})


def read_split(path: Path, *, sha256: str | None = None) -> RunSplit:
    """Read split.json, whose bytes must have this digest where one is given.

    Raises:
        RunError: It is missing, damaged, or that of another run.
    """
    values = read_json(path / "split.json", sha256=sha256)
    try:
        hashes = {part: tuple(map(str, values["hashes"][part])) for part in ("train", "validation")}
        return RunSplit(Split.from_json({key: value for key, value in values.items() if key != "hashes"}), hashes)
    except (KeyError, TypeError, InvalidInput) as error:
        raise RunError(f"{path / 'split.json'}: damaged ({error})") from error


def fingerprint_of(front_end: FrontEnd, encoder_config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits that name a model: front end, encoder and weights. Vectors compare only under the same one."""
    head = json.dumps({"front_end": front_end.to_json(), "encoder": dict(encoder_config)}, sort_keys=True)
    summary = hashlib.sha256(head.encode())
    for name in sorted(weights):
        summary.update(name.encode())
        summary.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return summary.hexdigest()[:16]


def _drop_calibration_of_another(path: Path, fingerprint: str) -> None:
    """A threshold belongs to one model; where training went on and made another, it means nothing any more."""
    file = path / "calibration.json"
    if file.is_file() and read_json(file).get("model") != fingerprint:
        file.unlink()


def _check_format(path: Path, config: Mapping[str, Any]) -> None:
    version = config.get("format_version")
    if config.get("format") != FORMAT or type(version) is not int or version < 1:
        raise RunError(f"{path}: not a run of tercet")
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path}: made by a newer version (format {version}, tercet {config.get('tercet')}); "
            f"this is tercet {tercet.__version__}, which reads format {FORMAT_VERSION}"
        )
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        raise RunError(f"{path}: damaged, {missing[0]!r} is missing")


@torch.inference_mode()
def _golden(front_end: FrontEnd, encoder: nn.Module) -> torch.Tensor:
    """Vectors of the front end's synthetic samples, which every machine makes alike."""
    vectors_4D: torch.Tensor = encoder(front_end.normalise(torch.from_numpy(front_end.golden())))
    return vectors_4D


def _decoded(front_end: FrontEnd) -> torch.Tensor | None:
    """What the front end makes of a file of its own; None where it has none, or its limits are below that file."""
    blob = front_end.golden_file()
    try:
        return torch.from_numpy(front_end.decode_bytes(blob, "golden file").copy()) if blob else None
    except DataError:
        return None


def _reads_alike(golden: torch.Tensor, found: torch.Tensor | None) -> bool:
    """Whether two samples are the same but for how libraries round: a step in 255 on average."""
    if found is None or (golden.shape, golden.dtype) != (found.shape, found.dtype):
        return False
    apart = (golden.double() - found.double()).abs().mean()
    return float(apart) <= torch.iinfo(golden.dtype).max / 255
