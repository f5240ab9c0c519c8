"""All figures of scored pairs, rankings and searches, with their intervals, in the nesting of `tercet evaluate --json`.

Legend: P pairs; N rows; D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.evaluate.accuracy import identity_codes
from tercet.evaluate.calibration import Calibration
from tercet.evaluate.identification import enrol_half, search_identities
from tercet.evaluate.intervals import bootstrap_retrieval, bootstrap_verification, widened
from tercet.evaluate.likelihood import LlrMap
from tercet.evaluate.pairs import Pairs
from tercet.evaluate.rates import error_rate
from tercet.evaluate.retrieval import RetrievalPerQuery
from tercet.evaluate.similarity import checked_labels
from tercet.evaluate.verification import verification

__all__ = [
    "identification_figures",
    "operating_point",
    "retrieval_figures",
    "verification_figures",
]

Figures = tuple[dict[str, Any], dict[str, Any]]
"""Figures, and {"ci95": [low, high] or null} in the same nesting; no intervals where none were asked for."""


def verification_figures(
    pairs: Pairs,
    labels_N: npt.NDArray[np.int64],
    *,
    folds: npt.NDArray[np.int64],
    llr: LlrMap | None = None,
    force_small: bool = False,
    resamples: int = 200,
    seed: int = 0,
) -> Figures:
    """The figures of `verification`; `labels_N` are those of the rows of the pairs. Raises InvalidInput."""
    ratios = None if llr is None else llr(pairs.scores)
    found = asdict(verification(pairs.scores, pairs.genuine, folds=folds, llr=ratios, force_small=force_small))
    counts = {"genuine": found.pop("genuine"), "impostor": found.pop("impostor")}
    found.pop("eer_threshold")
    if not resamples:
        return {**found, "pairs": counts}, {}
    drawn = bootstrap_verification(
        pairs, labels_N, folds=folds, llr=ratios, force_small=force_small, resamples=resamples, seed=seed
    )
    without = ("accuracy_standard_error",)
    return {**found, "pairs": counts}, _nested({k: v for k, v in found.items() if k not in without}, drawn)


def retrieval_figures(
    per_query: RetrievalPerQuery, labels_Q: npt.NDArray[np.int64], *, resamples: int = 200, seed: int = 0
) -> Figures:
    """The figures of `retrieval`; `labels_Q` are the queries'. Raises InvalidInput."""
    found = asdict(per_query.summary())
    if not resamples:
        return found, {}
    drawn = bootstrap_retrieval(per_query, labels_Q, resamples=resamples, seed=seed)
    return found, _nested({k: v for k, v in found.items() if k not in ("queries", "excluded")}, drawn)


def identification_figures(
    vectors_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    *,
    force_small: bool = False,
    resamples: int = 200,
    seed: int = 0,
) -> Figures:
    """Open-set identification with half of the identities enrolled (`enrol_half`), under the key "identification".

    The intervals draw the identities searched for with replacement; the gallery and the thresholds stay as they are, so
    they speak of other people searched for in this gallery. Raises InvalidInput.
    """
    gallery, mated, strangers = enrol_half(labels_N, seed=seed)
    rows = np.concatenate([mated, strangers])
    searches = search_identities(vectors_ND[rows], labels_N[rows], vectors_ND[gallery], labels_N[gallery])
    found = asdict(searches.summary(force_small=force_small))
    if not resamples:
        return {"identification": found}, {}
    own, place = np.unique(labels_N[mated], return_inverse=True)
    count = np.bincount(place)
    misses: dict[str, npt.NDArray[np.number]] = {}
    thresholds = {name: t for name, t in found["threshold_at_fpir"].items() if t is not None}
    here = searches.mated
    for prefix, threshold in [("fnir", -np.inf), *((f"fnir_at_fpir.{name}", t) for name, t in thresholds.items())]:
        for rank in found["fnir"]:
            hit = (searches.rank[here] <= int(rank)) & (searches.own[here] >= threshold)
            misses[f"{prefix}.{rank}"] = np.bincount(place, ~hit)
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(misses)))
    for row in drawn:
        times = np.bincount(rng.integers(len(own), size=len(own)), minlength=len(own))
        row[:] = [sums @ times / (count @ times) for sums in misses.values()]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    known = {name: (float(low[n]), float(high[n])) for n, name in enumerate(misses)} if len(own) > 2 else {}
    wanted = {key: found[key] for key in ("fnir", "fnir_at_fpir")}
    return {"identification": found}, {"identification": _nested(wanted, known)}


def operating_point(
    pairs: Pairs,
    labels_N: npt.NDArray[np.int64],
    threshold: float,
    *,
    failed: float,
    calibration: Calibration | None = None,
    foresee: bool = True,
) -> dict[str, Any]:
    """Both error rates of one threshold with 95 % intervals, per comparison and per transaction.

    FMR and FNMR are shares of comparisons. `failed` is the share of samples, or of listed pairs, that could not be read
    at all (failure to acquire, FTA): FAR = FMR (1 - FTA), FRR = FTA + FNMR (1 - FTA). With the calibration that the
    threshold comes from, `foreseen_fmr` is where it says that the FMR measured on these people lies, and `kept` whether
    it does; None where it says nothing, or not with `foresee=False`: people it was chosen on. Raises InvalidInput.
    """
    codes = identity_codes(checked_labels(labels_N, len(labels_N), "labels_N"))
    identities = np.stack([codes[pairs.first], codes[pairs.second]], axis=1)
    accepted, own = pairs.scores >= threshold, pairs.genuine
    fmr, fnmr = error_rate(accepted[~own], identities[~own]), error_rate(~accepted[own], identities[own])
    point: dict[str, Any] = {
        "threshold": float(threshold),
        "fmr": fmr.value,
        "fmr_ci95": list(fmr.interval()),
        "fnmr": fnmr.value,
        "fnmr_ci95": list(fnmr.interval()),
        "far": fmr.value * (1 - failed),
        "frr": failed + fnmr.value * (1 - failed),
    }
    if calibration is not None:
        foreseen = calibration.foresee_fmr(identities[~own]) if foresee else None
        point |= {
            "calibration": calibration.id,
            "target_fmr": calibration.target_fmr,
            "foreseen_fmr": None if foreseen is None else list(foreseen),
            "kept": None if foreseen is None else foreseen[0] <= fmr.value <= foreseen[1],
        }
    return point


def _nested(figures: Mapping[str, Any], drawn: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Each figure's {"ci95": [low, high]}, which holds the figure, in the nesting of the figures; null without one."""

    def interval(value: float | None, path: tuple[str, ...]) -> dict[str, Any]:
        found = drawn.get(".".join(path))
        return {"ci95": None if found is None else list(widened(found, value))}

    def walk(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {key: walk(part, (*path, str(key))) for key, part in value.items()}
        return interval(value, path)

    return {key: walk(value, (key,)) for key, value in figures.items()}
