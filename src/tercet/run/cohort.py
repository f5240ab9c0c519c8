"""The cohort of a run: embeddings of identities that were trained on, by which scores are normalised."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from tercet.errors import RunError
from tercet.evaluate import AsNorm
from tercet.run.files import digest, read_tensors, write_bytes

__all__ = ["drop_other_cohorts", "read_cohort", "write_cohort"]


def _file(path: Path, sha256: str) -> Path:
    # Named by its contents: a new one never stands in the place of that which the calibration still names.
    return path / f"cohort-{sha256[:12]}.safetensors"


def write_cohort(path: Path, norm: AsNorm) -> str:
    """Write the cohort into a run folder; returns the digest of its bytes."""
    top = torch.tensor([norm.top])
    data = to_bytes({"cohort": torch.from_numpy(norm.cohort), "mean": torch.from_numpy(norm.mean), "top": top})
    sha256 = digest(data)
    write_bytes(_file(path, sha256), data)
    return sha256


def read_cohort(path: Path, sha256: str) -> AsNorm:
    """Read the cohort of a run folder.

    Raises:
        RunError: It is missing, damaged, or not the one that the digest names.
    """
    file = _file(path, sha256)
    tensors = read_tensors(file, sha256=sha256)
    try:
        cohort, mean, top = tensors["cohort"], tensors["mean"], int(tensors["top"][0])
    except (KeyError, IndexError) as error:
        raise RunError(f"{file}: damaged ({error})") from error
    good = cohort.ndim == 2 and mean.shape == cohort.shape[1:] and 2 <= top <= len(cohort)
    if not good or cohort.dtype != torch.float32 or mean.dtype != torch.float32:
        raise RunError(f"{file}: damaged (not a cohort)")
    return AsNorm(cohort.numpy(), mean.numpy(), top)


def drop_other_cohorts(path: Path, sha256: str | None) -> None:
    """Remove the cohorts of earlier calibrations, all but the one of this digest."""
    kept = None if sha256 is None else _file(path, sha256)
    for file in path.glob("cohort-*.safetensors"):
        if file != kept:
            with contextlib.suppress(OSError):
                file.unlink()
