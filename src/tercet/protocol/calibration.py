"""The threshold to decide by, chosen on identities that the model was not trained on, and the scores it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, final, get_args

import numpy as np
import numpy.typing as npt

from tercet.data import Manifest, SampleStore
from tercet.errors import DataError, InvalidOption
from tercet.evaluate import AsNorm, Calibration, Pairs, all_pairs, calibrate, with_forgeries
from tercet.evaluate.error_curve import least_impostors
from tercet.protocol.forgeries import pairs_of_forgeries
from tercet.protocol.rows import Scored, scored_rows
from tercet.run import Model
from tercet.run.model import embed_rows

__all__ = ["Calibrated", "Impostors", "calibrate_run", "calibration_rows", "normalised_pairs", "training_cohort"]

Impostors = Literal["random", "skilled", "all"]

_MOST_OF_COHORT: Final = 5000


@final
@dataclass(frozen=True)
class Calibrated:
    """A threshold with all that `Model.save_calibration` keeps of it.

    Args:
        calibration: The threshold and the evidence for it.
        norm: The cohort by which scores are normalised, or None.
        samples: Checksums of the files that it was chosen on.
        chosen_on: What of the data that was.
        accepted: Share of each kind of impostor ("random", "skilled", ...) on those files that the threshold accepts.
    """

    calibration: Calibration
    norm: AsNorm | None
    samples: tuple[str, ...]
    chosen_on: Scored
    accepted: Mapping[str, float]


def calibration_rows(model: Model, store: SampleStore, *, target_fmr: float, impostors: Impostors = "random") -> Scored:
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
    kept = np.array([row.identity in names for row in manifest.rows], dtype=np.bool_)
    rows, forged = np.flatnonzero(kept & manifest.genuine), np.flatnonzero(kept & ~manifest.genuine)
    count = np.bincount(manifest.labels[rows], minlength=len(manifest.identities))
    random, genuine = int(len(rows) ** 2 - (count**2).sum()) // 2, int((count * (count - 1)).sum()) // 2
    by_forgery = int(count[manifest.labels[forged[_of_kind(manifest, forged, impostors)]]].sum())
    impostor = by_forgery + (random if impostors in ("all", "random") else 0)
    if 0 < target_fmr < 1 and impostor >= least_impostors(target_fmr) and genuine:
        left_out = tuple(sorted(set(manifest.identities) - names))
        return Scored(rows, len(names), left_out, int((~kept).sum()), (), forged)
    scored = scored_rows(model, store)
    if not scored.left_out:
        return scored
    warning = (
        f"the {len(names)} validation identities give too few pairs ({impostor} impostor pairs), so the "
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
    impostors: Impostors = "random",
) -> Calibrated:
    """Choose the threshold for a false match rate on identities that the model was not trained on: `calibration_rows`.

    With `norm="as-norm"` scores are normalised by the `cohort` most similar of the training identities, which the data
    must then hold too. `impostors` says which are kept out at that rate: samples of other identities ("random"),
    skilled forgeries of the identity itself ("skilled"), or both and whatever other forgeries there are ("all", where
    the random ones outnumber the rest by far). Nothing is stored; `Model.save_calibration` does that.

    Raises:
        DataError: Too little is left to score, or the data hold no training identities to make a cohort of.
        InvalidInput: Too few impostor pairs for the rate, or genuine and impostor scores that overlap beyond use.
        InvalidOption: Another norm than "none" and "as-norm", or an unknown `impostors`.
    """
    if impostors not in get_args(Impostors):
        raise InvalidOption.unknown("impostors", impostors, get_args(Impostors))
    chosen = calibration_rows(model, store, target_fmr=target_fmr, impostors=impostors)
    vectors_ND = embed_rows(model.encoder, store, chosen.rows)
    labels_N = store.manifest.labels[chosen.rows]
    known = _cohort(model, store, cohort) if norm == "as-norm" else None
    pairs = normalised_pairs(vectors_ND, labels_N, known, seed=seed)
    by_kind = {"random": pairs.scores[~pairs.genuine]}
    if len(chosen.forged):
        forged_FD = embed_rows(model.encoder, store, chosen.forged)
        forged = pairs_of_forgeries(store, chosen, vectors_ND, forged_FD, known, seed=seed)
        by_kind |= {kind: found.scores for kind, found in forged.items()}
        labels_N = np.concatenate([labels_N, store.manifest.labels[chosen.forged]])
        pairs = _chosen_pairs(pairs, forged, impostors)
    if impostors == "skilled" and "skilled" not in by_kind:
        raise DataError(f"{store.manifest.root}: holds no skilled forgery to choose a threshold on")
    codes = np.stack([labels_N[pairs.first], labels_N[pairs.second]], axis=1)
    calibration = calibrate(
        pairs.scores, pairs.genuine, target_fmr=target_fmr, identities=codes, norm=norm, impostors=impostors
    )
    accepted = {kind: float((scores >= calibration.threshold).mean()) for kind, scores in by_kind.items()}
    used = np.concatenate([chosen.rows, chosen.forged])
    return Calibrated(calibration, known, tuple(sorted({store.hashes[row] for row in used})), chosen, accepted)


def _chosen_pairs(pairs: Pairs, forged: Mapping[str, Pairs], impostors: Impostors) -> Pairs:
    """The genuine pairs with those impostor pairs that the threshold is for."""
    if impostors == "random":
        return pairs
    if impostors == "skilled":
        return with_forgeries(pairs, forged["skilled"]) if "skilled" in forged else pairs
    parts = [pairs, *forged.values()]
    return Pairs(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.genuine for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
    )


def _of_kind(manifest: Manifest, forged: npt.NDArray[np.int64], impostors: Impostors) -> npt.NDArray[np.bool_]:
    """Which of the forgeries take part in the choice."""
    if impostors == "random":
        return np.zeros(len(forged), np.bool_)
    return np.ones(len(forged), np.bool_) if impostors == "all" else manifest.kinds[forged] == "skilled"


def normalised_pairs(
    vectors_ND: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], norm: AsNorm | None, *, seed: int
) -> Pairs:
    """All pairs, or a sample where there are too many, with the scores by which a model with this norm decides."""
    if norm is None:
        return all_pairs(vectors_ND, labels_N, seed=seed)
    ready = norm.normalised(vectors_ND)
    return ready.pairs(all_pairs(ready.vectors, labels_N, seed=seed))


def training_cohort(model: Model, store: SampleStore, top: int) -> AsNorm | None:
    """The cohort of the training identities that the data hold, recognised by their files; None below two of them.

    Of each it has the mean of the genuine samples, of 5,000 in all at most, evenly taken.

    Args:
        model: The model.
        store: The data.
        top: How many of the cohort judge a score.
    """
    trained = frozenset(model.split.hashes["train"])
    known = np.array([mark in trained for mark in store.hashes], dtype=np.bool_)
    rows = np.flatnonzero(known & store.manifest.genuine)
    if len(rows) > _MOST_OF_COHORT:
        rows = rows[np.arange(_MOST_OF_COHORT) * len(rows) // _MOST_OF_COHORT]
    labels = store.manifest.labels[rows]
    if len(np.unique(labels)) < 2:
        return None
    return AsNorm.of(embed_rows(model.encoder, store, rows), labels, top=top)


def _cohort(model: Model, store: SampleStore, top: int) -> AsNorm:
    """The same, which there has to be."""
    found = training_cohort(model, store, top)
    if found is None:
        raise DataError(
            f"{store.manifest.root}: as-norm needs the training identities for its cohort, and these data hold "
            "fewer than two of them; give the data that the model was trained on"
        )
    return found
