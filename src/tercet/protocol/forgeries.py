"""Forgeries among what is scored: figures for each kind of impostor apart, and rows questioned against references.

The headline figures are of genuine rows alone, so that they compare with those of data without forgeries. A forgery is
no query and stands in no gallery; it is compared with the genuine rows of its target.

Legend: N genuine rows, F forgeries, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.evaluate import (
    AsNorm,
    Pairs,
    ReferenceProtocol,
    against_references,
    bootstrap_verification,
    by_kind,
    forgery_pairs,
    with_forgeries,
)
from tercet.evaluate.intervals import widened
from tercet.protocol.rows import Scored

__all__ = ["forgery_figures", "pairs_of_forgeries", "reference_figures"]


def pairs_of_forgeries(
    store: SampleStore,
    scored: Scored,
    vectors_ND: npt.NDArray[np.float32],
    forged_FD: npt.NDArray[np.float32],
    norm: AsNorm | None,
    *,
    seed: int,
) -> dict[str, Pairs]:
    """The impostor pairs of the forgeries by kind; rows are numbered through the genuine ones, then the forgeries."""
    vectors, labels, kinds = _together(store, scored, vectors_ND, forged_FD)
    if norm is None:
        return forgery_pairs(vectors, labels, kinds, seed=seed)
    ready = norm.normalised(vectors)
    return {kind: ready.pairs(pairs) for kind, pairs in forgery_pairs(ready.vectors, labels, kinds, seed=seed).items()}


def forgery_figures(
    store: SampleStore,
    scored: Scored,
    pairs: Pairs,
    forged: Mapping[str, Pairs],
    *,
    threshold: float | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures under `by_kind` and their intervals; nothing where nothing is forged.

    Args:
        store: The data.
        scored: What of it is scored.
        pairs: Of the genuine rows.
        forged: Of `pairs_of_forgeries`.
        threshold: The calibrated one, or None.
        resamples: Draws of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
    """
    if not forged:
        return {}, {}
    intervals: dict[str, Any] = {}
    labels = store.manifest.labels[np.concatenate([scored.rows, scored.forged])]
    figures = by_kind(pairs, forged, threshold=threshold)
    for kind, found in forged.items() if resamples else ():
        drawn = bootstrap_verification(with_forgeries(pairs, found), labels, resamples=resamples, seed=seed)
        place: dict[str, Any] = {}
        for key, ends in drawn.items():
            name, _, part = key.partition(".")
            if name in ("eer", "auc"):
                place[name] = {"ci95": list(widened(ends, figures[kind][name]))}
            elif name == "tar_at_fmr":
                place.setdefault(name, {})[part] = {"ci95": list(widened(ends, figures[kind][name][part]))}
        intervals[kind] = place
    return {"by_kind": figures}, {"by_kind": intervals} if intervals else {}


def reference_figures(
    store: SampleStore,
    scored: Scored,
    vectors_ND: npt.NDArray[np.float32],
    forged_FD: npt.NDArray[np.float32],
    protocol: ReferenceProtocol,
) -> dict[str, Any]:
    """The figures under `references`."""
    return {"references": against_references(*_together(store, scored, vectors_ND, forged_FD), protocol)}


def _together(
    store: SampleStore, scored: Scored, vectors_ND: npt.NDArray[np.float32], forged_FD: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    rows = np.concatenate([scored.rows, scored.forged])
    vectors = np.concatenate([vectors_ND, forged_FD]) if len(forged_FD) else vectors_ND
    return vectors, store.manifest.labels[rows], store.manifest.kinds[rows]
