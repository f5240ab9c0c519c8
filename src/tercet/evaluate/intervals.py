"""95 % intervals by drawing identities, because pairs and queries of one identity are not independent.

An interval over pairs drawn one by one is far too narrow: 5 writers with 276 pairs each are 5 draws, not 1,380. See
Fogliato, Patil and Perona, Confidence Intervals for Error Rates in 1:1 Matching Tasks, arXiv 2306.01198.

Legend: P pairs; N rows; I identities.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.accuracy import cross_validated_decisions, identity_codes
from tercet.evaluate.error_curve import ErrorCurve, checked_scores, error_curve
from tercet.evaluate.likelihood import PRIORS, bayes_threshold
from tercet.evaluate.pairs import Pairs
from tercet.evaluate.retrieval import RetrievalPerQuery
from tercet.evaluate.similarity import checked_labels
from tercet.evaluate.verification import TAR_TARGETS, tar_at_targets

__all__ = ["bootstrap_retrieval", "bootstrap_verification", "widened"]


def bootstrap_verification(
    pairs: Pairs,
    labels: npt.ArrayLike,
    *,
    folds: npt.ArrayLike | None = None,
    resamples: int = 200,
    seed: int = 0,
    max_pairs: int = 400_000,
    llr: npt.ArrayLike | None = None,
    force_small: bool = False,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the figures of `verification`, by drawing identities with replacement.

    `labels` [N] are those of the rows that `pairs.first` and `pairs.second` point to; identities in no pair have no
    part. An identity that is drawn m times stands for m identities: a pair within it weighs m, and a pair of two
    identities weighs the product of both multiplicities. A row with a negative label is an identity of its own. The
    accuracy keeps the decisions (`folds` as in `verification`) and the share of genuine pairs as they are.

    Keys: eer, auc, accuracy, min_cllr, and tar_at_fmr.0.1, tar_at_fmr.0.01, tar_at_fmr.0.001, min_dcf.0.01,
    min_dcf.0.05, with `llr` [P] also cllr, act_dcf.0.01 and act_dcf.0.05 (the map stays as it is); a figure that
    `verification` gives as None has no interval. Empty with fewer than three identities, and where fewer than half of
    the resamples hold both kinds of pair. With few identities (below about 20) the intervals are too narrow, as every
    bootstrap is.

    Cost: one sort, then O(P) a resample. Above `max_pairs` the resampling runs on a seeded subsample of that many:
    every genuine pair as long as they fill no more than half of it, and impostor pairs drawn uniformly. Raises
    InvalidInput.
    """
    scores, genuine = checked_scores(pairs.scores, pairs.genuine)
    of_row = checked_labels(labels, len(np.asarray(labels)), "labels")
    for name, rows in (("first", pairs.first), ("second", pairs.second)):
        if rows.shape != scores.shape or not ((rows >= 0) & (rows < len(of_row))).all():
            raise InvalidInput(f"pairs: {name} does not point to the {len(of_row)} rows of labels")
    present = np.zeros(len(of_row), dtype=np.bool_)
    present[pairs.first] = present[pairs.second] = True
    identity = np.full(len(of_row), -1, dtype=np.int64)
    identity[present] = identity_codes(of_row[present])
    if resamples < 2 or max_pairs < 2:
        raise InvalidInput(f"resamples, max_pairs: expected at least 2, got {resamples} and {max_pairs}")
    tars = tar_at_targets(error_curve(scores, genuine), force_small=force_small)
    known = {name for name, tar in tars.items() if tar is not None}
    accepted = cross_validated_decisions(scores, genuine, folds)
    rng = np.random.default_rng(seed)
    kept = _subsample(genuine, max_pairs, rng)
    order = kept[np.argsort(scores[kept], kind="stable")[::-1]]
    curve = error_curve(scores[order], genuine[order])
    kind = genuine[order]
    people = int(identity.max()) + 1
    one, other = identity[pairs.first[order]], identity[pairs.second[order]]
    other[one == other] = people  # a pair within one identity is weighed once: this place always holds 1
    one_genuine, other_genuine, one_impostor, other_impostor = one[kind], other[kind], one[~kind], other[~kind]
    # How many pairs of a kind a threshold accepts is also where their running sum of weights is to be read.
    read_genuine, read_impostor = curve.genuine - curve.false_non_matches, curve.false_matches
    correct = None if accepted is None else (accepted == genuine)[order]
    share = float(genuine.mean())
    costs = {} if llr is None else _llr_costs(checked_scores(llr, genuine)[0][order], kind)

    drawn: dict[str, list[float]] = {}
    for _ in range(resamples if people >= 3 else 0):
        times = np.append(np.bincount(rng.integers(people, size=people), minlength=people), 1)
        weight_genuine = times[one_genuine] * times[other_genuine]
        weight_impostor = times[one_impostor] * times[other_impostor]
        sum_genuine, sum_impostor = _running_sum(weight_genuine), _running_sum(weight_impostor)
        total_genuine, total_impostor = int(sum_genuine[-1]), int(sum_impostor[-1])
        if total_genuine == 0 or total_impostor == 0:
            continue
        resampled = ErrorCurve(
            curve.thresholds,
            sum_impostor[read_impostor],
            total_genuine - sum_genuine[read_genuine],
            total_impostor,
            total_genuine,
        )
        drawn.setdefault("eer", []).append(resampled.eer())
        drawn.setdefault("auc", []).append(resampled.auc())
        for name in known:
            drawn.setdefault(f"tar_at_fmr.{name}", []).append(resampled.tar_at(TAR_TARGETS[name]))
        for name, prior in PRIORS.items():
            drawn.setdefault(f"min_dcf.{name}", []).append(resampled.min_dcf(prior))
        drawn.setdefault("min_cllr", []).append(resampled.min_cllr())
        for name, (factor, cost_genuine, cost_impostor) in costs.items():
            miss = float(weight_genuine @ cost_genuine) / total_genuine
            match = float(weight_impostor @ cost_impostor) / total_impostor
            drawn.setdefault(name, []).append(factor[0] * miss + factor[1] * match)
        if correct is not None:
            right_genuine = float(weight_genuine[correct[kind]].sum()) / total_genuine
            right_impostor = float(weight_impostor[correct[~kind]].sum()) / total_impostor
            drawn.setdefault("accuracy", []).append(share * right_genuine + (1 - share) * right_impostor)
    return {name: _percentiles(values) for name, values in drawn.items() if 2 * len(values) >= resamples}


def _llr_costs(
    llr: npt.NDArray[np.float64], kind: npt.NDArray[np.bool_]
) -> dict[str, tuple[tuple[float, float], npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """The figures of log-likelihood ratios as sums: the factors of both means, the cost of each pair of either kind."""
    own, other, bits = llr[kind], llr[~kind], np.log(2)
    costs = {"cllr": ((0.5, 0.5), np.logaddexp(0, -own) / bits, np.logaddexp(0, other) / bits)}
    for name, prior in PRIORS.items():
        least, threshold = min(prior, 1 - prior), bayes_threshold(prior)
        factor = (prior / least, (1 - prior) / least)
        costs[f"act_dcf.{name}"] = (factor, (own < threshold).astype(float), (other >= threshold).astype(float))
    return costs


def bootstrap_retrieval(
    per_query: RetrievalPerQuery, labels: npt.ArrayLike, *, resamples: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the figures of `retrieval`, by drawing the queries' identities with replacement.

    `labels` [Q] are those of the queries. Queries without a positive have no part in it; the gallery stays as it is, so
    the interval speaks of other queries against this gallery. Keys: those of `Retrieval` that are figures, recall.1 and
    so on. Empty with fewer than two identities. Cost: O(Q + resamples * I). Raises InvalidInput.
    """
    every = checked_labels(labels, len(per_query.positives), "labels")
    if resamples < 2:
        raise InvalidInput(f"resamples: expected at least 2, got {resamples}")
    used = per_query.included
    names, identity = np.unique(every[used], return_inverse=True)
    if len(names) < 2:
        return {}
    figures = {f"recall.{k}": values for k, values in per_query.recall.items()}
    figures |= {f"precision.{k}": values for k, values in per_query.precision.items()}
    figures |= {"map_at_r": per_query.map_at_r, "r_precision": per_query.r_precision}
    if per_query.average_precision is not None:
        figures["map"] = per_query.average_precision
    sums = np.stack([np.bincount(identity, weights=values[used]) for values in figures.values()])
    queries = np.bincount(identity)
    rng = np.random.default_rng(seed)
    by_class = [(f"class_recall.{k}", sums[n] / queries) for n, k in enumerate(per_query.recall)]
    drawn = np.empty((resamples, len(figures) + len(by_class)))
    for row in drawn:
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        row[: len(figures)] = sums @ times / (queries @ times)
        row[len(figures) :] = [means @ times / len(names) for _, means in by_class]
    columns = [*figures, *(name for name, _ in by_class)]
    return {name: _percentiles(drawn[:, column]) for column, name in enumerate(columns)}


def widened(ends: tuple[float, float], value: float | None) -> tuple[float, float]:
    """The interval, drawn out to the figure that it is about where that lies outside.

    Identities that are drawn twice make the drawn sets easier or harder than the whole one, so with few of them all
    resamples can lie on one side. The wider interval can only cover more.

    >>> widened((0.2, 0.4), 0.1), widened((0.2, 0.4), 0.3)
    ((0.1, 0.4), (0.2, 0.4))
    """
    return ends if value is None else (min(ends[0], value), max(ends[1], value))


def _subsample(genuine: npt.NDArray[np.bool_], size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of at most `size` pairs: genuine ones up to half of it, or as many as the impostors leave room for."""
    own, other = np.flatnonzero(genuine), np.flatnonzero(~genuine)
    if len(genuine) <= size:
        return np.arange(len(genuine))
    keep = min(len(own), max(size // 2, size - len(other)))
    parts = (rng.choice(own, keep, replace=False), rng.choice(other, min(len(other), size - keep), replace=False))
    return np.concatenate(parts)


def _running_sum(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sums = np.zeros(len(weights) + 1, dtype=np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def _percentiles(values: npt.ArrayLike) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return float(low), float(high)
