"""The threshold to decide by, chosen on identities that the model was not trained on, and the scores it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.errors import DataError
from tercet.evaluate import AsNorm, Calibration, Pairs, all_pairs, calibrate
from tercet.evaluate.error_curve import least_impostors
from tercet.protocol.rows import Scored, scored_rows
from tercet.run import Model
from tercet.run.model import embed_rows

__all__ = ["Calibrated", "calibrate_run", "calibration_rows", "normalised_pairs"]


@final
@dataclass(frozen=True)
class Calibrated:
    """A threshold with all that `Model.save_calibration` keeps of it.

    Args:
        calibration: The threshold and the evidence for it.
        norm: The cohort by which scores are normalised, or None.
        samples: Checksums of the files that it was chosen on.
        chosen_on: What of the data that was.
    """

    calibration: Calibration
    norm: AsNorm | None
    samples: tuple[str, ...]
    chosen_on: Scored


def calibration_rows(model: Model, store: SampleStore, *, target_fmr: float) -> Scored:
    """What of the data a threshold is chosen on.

    Where the data hold the run's validation identities and these give enough impostor pairs for the rate, they alone:
    the test identities stay without part in any choice. Otherwise everybody that the model has not seen, and where
    those are the run's own test identities, a warning says so.

    Raises:
        DataError: Too little is left.
    """
    manifest, hashes = store.manifest, model.split.hashes
    held_out = frozenset(hashes["validation"])
    names = {row.identity for row, mark in zip(manifest.rows, store.hashes, strict=True) if mark in held_out}
    rows = np.array([n for n, row in enumerate(manifest.rows) if row.identity in names], dtype=np.int64)
    count = np.bincount(manifest.labels[rows]) if len(rows) else np.zeros(0, np.int64)
    impostor, genuine = int(len(rows) ** 2 - (count**2).sum()) // 2, int((count * (count - 1)).sum()) // 2
    if 0 < target_fmr < 1 and impostor >= least_impostors(target_fmr) and genuine:
        left_out = tuple(sorted(set(manifest.identities) - names))
        return Scored(rows, len(names), left_out, len(manifest) - len(rows), ())
    scored = scored_rows(model, store)
    if not scored.left_out:
        return scored
    warning = (
        f"the {len(names)} validation identities give too few pairs ({impostor} of different identities), so the "
        "threshold is chosen on the identities that the run keeps for its test; measure its error rates on others"
    )
    return replace(scored, warnings=(*scored.warnings, warning))


def calibrate_run(
    model: Model,
    store: SampleStore,
    *,
    target_fmr: float,
    seed: int = 0,
    norm: str = "none",
    cohort: int = 300,
) -> Calibrated:
    """Choose the threshold for a false match rate on identities that the model was not trained on: `calibration_rows`.

    With `norm="as-norm"` scores are normalised by the `cohort` most similar of the training identities, which the data
    must then hold too. Nothing is stored; `Model.save_calibration` does that.

    Raises:
        DataError: Too little is left to score, or the data hold no training identities to make a cohort of.
        InvalidInput: Too few impostor pairs for the rate, or genuine and impostor scores that overlap beyond use.
        InvalidOption: Another norm than "none" and "as-norm".
    """
    chosen = calibration_rows(model, store, target_fmr=target_fmr)
    vectors_ND = embed_rows(model.encoder, store, chosen.rows)
    labels_N = store.manifest.labels[chosen.rows]
    known = _cohort(model, store, cohort) if norm == "as-norm" else None
    pairs = normalised_pairs(vectors_ND, labels_N, known, seed=seed)
    codes = np.stack([labels_N[pairs.first], labels_N[pairs.second]], axis=1)
    calibration = calibrate(pairs.scores, pairs.genuine, target_fmr=target_fmr, identities=codes, norm=norm)
    return Calibrated(calibration, known, tuple(sorted({store.hashes[row] for row in chosen.rows})), chosen)


def normalised_pairs(
    vectors_ND: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], norm: AsNorm | None, *, seed: int
) -> Pairs:
    """All pairs, or a sample where there are too many, with the scores by which a model with this norm decides."""
    if norm is None:
        return all_pairs(vectors_ND, labels_N, seed=seed)
    ready = norm.normalised(vectors_ND)
    return ready.pairs(all_pairs(ready.vectors, labels_N, seed=seed))


def _cohort(model: Model, store: SampleStore, top: int) -> AsNorm:
    """The cohort of the training identities that the data hold, recognised by their files."""
    trained = frozenset(model.split.hashes["train"])
    rows = np.array([n for n, mark in enumerate(store.hashes) if mark in trained], dtype=np.int64)
    labels = store.manifest.labels[rows]
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{store.manifest.root}: as-norm needs the training identities for its cohort, and these data hold "
            f"{len(np.unique(labels))} of them; give the data that the model was trained on"
        )
    return AsNorm.of(embed_rows(model.encoder, store, rows), labels, top=top)
