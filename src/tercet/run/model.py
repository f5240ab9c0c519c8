"""A trained model in use: embed, verify, search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tercet.data import FrontEnd, SampleStore
from tercet.errors import InvalidInput, RunError, TooLittle
from tercet.evaluate import AsNorm, Calibration, cosine
from tercet.run.bundle import RunSplit, open_bundle
from tercet.run.cohort import drop_other_cohorts, read_cohort, write_cohort
from tercet.run.files import read_json, write_json
from tercet.run.vectors import Hit, Vectors

__all__ = ["Decision", "Model", "embed_rows", "load"]

Progress = Callable[[int, int], None]
"""Told (done, total) now and then."""


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """Whether two samples show the same identity.

    Args:
        decision: "match" or "no-match" by the calibrated threshold; "undecided" where the model has none, or where a
            sample holds too little to decide by.
        score: Cosine similarity, -1 to 1; None where a sample holds too little.
        threshold: Scores from here on match.
        calibration: How the threshold was chosen, and what it costs.
        model: The model's fingerprint.
        reason: Why it is undecided; "" where it is not.
    """

    decision: Literal["match", "no-match", "undecided"]
    score: float | None
    threshold: float | None
    calibration: Calibration | None
    model: str
    reason: str = ""

    @property
    def llr(self) -> float | None:
        """The log-likelihood ratio of the score, natural logarithm; None without a calibrated map."""
        llr = None if self.calibration is None else self.calibration.llr
        return None if llr is None or self.score is None else float(llr(self.score))

    def to_json(self) -> dict[str, Any]:
        """The keys of `tercet verify --json`."""
        kept = ["id", "target_fmr", "achieved_fmr", "achieved_fnmr", "impostor_pairs"]
        if self.calibration is not None and self.calibration.impostors is not None:
            kept.append("impostors")  # whom the threshold keeps out, where there are forgeries
        return {
            "decision": self.decision,
            "score": self.score,
            "threshold": self.threshold,
            "calibration": self.calibration and {key: getattr(self.calibration, key) for key in kept},
            "llr": self.llr,
            "model": self.model,
            "reason": self.reason or None,
        }


@final
class Model:
    """A trained model, as `tercet.load` gives it.

    Attributes:
        path: Its run folder.
        task: Name of the task that it was trained for.
        config: The contents of run.json.
        front_end: Turns a file into the encoder's input; the same code as in training.
        encoder: The network, in eval mode.
        fingerprint: Names the model; vectors of two models cannot be compared.
        split: Who was trained on, and the checksums of their files.
        calibration: The chosen threshold, or None.
        norm: The cohort that scores are normalised by, where the calibration says so; else None.
        calibrated_on: Checksums of the files that the threshold was chosen on.
    """

    def __init__(self, path: Path) -> None:
        bundle = open_bundle(path)
        self.path = path
        self.config = bundle.config
        self.task = str(bundle.config["task"])
        self.front_end: FrontEnd = bundle.front_end
        self.encoder: nn.Module = bundle.encoder
        self.fingerprint = str(bundle.config["fingerprint"])
        self.split: RunSplit = bundle.split
        self.calibration, self.norm, self.calibrated_on = _read_calibration(path, self.fingerprint)

    def embed(
        self,
        inputs: Sequence[Path | str] | npt.NDArray[Any] | SampleStore,
        *,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.float32]:
        """Unit vectors [N, D] of N samples, in their order.

        Args:
            inputs: Files; or decoded samples [N, *shape], as the front end makes them; or a store of them.
            batch_size: Samples that are in memory at a time.
            progress: Told (done, total) after each batch.

        Raises:
            DataError: A file that cannot be read: "path: reason".
            InvalidInput: An array of another shape or type than the front end makes.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size={batch_size} must be 1 or more")
        if isinstance(inputs, (str, Path)):
            raise InvalidInput("inputs must be a list of files; for one file: embed([file])")
        if isinstance(inputs, SampleStore):
            rows_N = np.arange(len(inputs))
            return embed_rows(self.encoder, inputs, rows_N, batch_size=batch_size, progress=progress)
        batches: Iterator[torch.Tensor]
        if isinstance(inputs, np.ndarray):
            batches = (torch.from_numpy(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size))
        else:
            batches = self._decoded([Path(file) for file in inputs], batch_size)
        return _embed(self.encoder, self.front_end, batches, len(inputs), progress)

    def verify(self, a: Path | str, b: Path | str) -> Decision:
        """Compare two files; undecided where one holds too little, such as silence.

        Raises:
            DataError: A file that cannot be read.
        """
        try:
            return self.compare(self.embed([a, b]))
        except TooLittle as error:
            return self.undecided(str(error))

    def compare(self, vectors_2D: npt.NDArray[np.float32]) -> Decision:
        """Decide about two vectors of `embed`: match where their similarity reaches the calibrated threshold."""
        if self.norm is None:
            score = float(cosine(vectors_2D[:1], vectors_2D[1:])[0])
        else:
            ready = self.norm.normalised(vectors_2D)
            similar = cosine(ready.vectors[:1], ready.vectors[1:])
            score = float(ready.scores(similar, np.array([0]), np.array([1]))[0])
        if self.calibration is None:
            reason = "this run has no calibrated threshold"
            return Decision("undecided", score, None, None, self.fingerprint, reason)
        threshold = self.calibration.threshold
        return Decision(
            "match" if score >= threshold else "no-match", score, threshold, self.calibration, self.fingerprint
        )

    def undecided(self, reason: str) -> Decision:
        """The answer where there is nothing to compare."""
        threshold = None if self.calibration is None else self.calibration.threshold
        return Decision("undecided", None, threshold, self.calibration, self.fingerprint, reason)

    def search(self, probe: Path | str, gallery: Vectors, k: int = 10) -> list[Hit]:
        """The k samples of a gallery that are most like a file, best first; exact.

        Raises:
            DataError: The file cannot be read.
            RunError: The gallery was embedded by another model.
            InvalidInput: k below 1.
        """
        if k < 1:
            raise InvalidInput(f"k={k} must be 1 or more")
        gallery.require_model(self.fingerprint, "gallery")
        return gallery.nearest(self.embed([probe])[0], k)

    def save_calibration(
        self, calibration: Calibration, *, norm: AsNorm | None = None, samples: Sequence[str] = ()
    ) -> None:
        """Keep a threshold with the run; `verify` decides by it from now on.

        Args:
            calibration: The threshold.
            norm: The cohort by which the scores it was chosen on were normalised.
            samples: Checksums of the files that it was chosen on, so that a later evaluation on them can say so.

        Raises:
            InvalidInput: A cohort is missing, or not asked for.
            RunError: It cannot be written.
        """
        if (norm is None) != (calibration.norm is None):
            raise InvalidInput(f"norm: the calibration's scores are normalised by {calibration.norm or 'nothing'}")
        cohort = None if norm is None else write_cohort(self.path, norm)
        values = {"model": self.fingerprint, "cohort_sha256": cohort, "samples": sorted(samples)}
        write_json(self.path / "calibration.json", values | calibration.to_json())
        drop_other_cohorts(self.path, cohort)
        self.calibration, self.norm, self.calibrated_on = calibration, norm, frozenset(samples)

    def _decoded(self, files: Sequence[Path], batch_size: int) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            for start in range(0, len(files), batch_size):
                samples = list(pool.map(self.front_end.decode, files[start : start + batch_size]))
                yield torch.from_numpy(np.stack(samples))


def load(path: Path | str) -> Model:
    """Open a run folder.

    Raises:
        RunError: It is missing, unfinished, damaged, foreign, or made by a newer version: one line that says which.
    """
    return Model(Path(path))


def embed_rows(
    encoder: nn.Module,
    store: SampleStore,
    rows_N: npt.NDArray[np.int64],
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Unit vectors [N, D] of some rows of a store; the encoder keeps its mode and device."""
    batches = (store.take(rows_N[start : start + batch_size]) for start in range(0, len(rows_N), batch_size))
    return _embed(encoder, store.front_end, batches, len(rows_N), progress)


@torch.inference_mode()
def _embed(
    encoder: nn.Module,
    front_end: FrontEnd,
    batches: Iterator[torch.Tensor],
    total: int,
    progress: Progress | None,
) -> npt.NDArray[np.float32]:
    """Unit vectors [total, D] of batches of decoded samples."""
    device = next(itertools.chain(encoder.parameters(), encoder.buffers())).device
    training = encoder.training
    encoder.eval()
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    try:
        for batch in batches:
            vectors_BD = encoder(front_end.normalise(batch.to(device)))
            parts.append(vectors_BD.float().cpu().numpy())
            done += len(batch)
            if progress is not None:
                progress(done, total)
    finally:
        encoder.train(training)
    if not parts:
        raise InvalidInput("inputs: nothing to embed")
    return np.concatenate(parts)


def _read_calibration(path: Path, fingerprint: str) -> tuple[Calibration | None, AsNorm | None, frozenset[str]]:
    file = path / "calibration.json"
    if not file.is_file():
        return None, None, frozenset()
    values = read_json(file)
    if values.pop("model", None) != fingerprint:
        raise RunError(f"{file}: made for another model; calibrate again")
    sha256, samples = values.pop("cohort_sha256", None), values.pop("samples", [])
    try:
        calibration = Calibration.from_json(values)
        seen = frozenset(map(str, samples))
    except (InvalidInput, KeyError, TypeError) as error:
        raise RunError(f"{file}: damaged ({error})") from error
    if (calibration.norm is None) != (sha256 is None):
        raise RunError(f"{file}: damaged (the cohort of its scores is not named)")
    return calibration, None if sha256 is None else read_cohort(path, str(sha256)), seen
