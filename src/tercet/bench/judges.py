"""Who is compared in `bench evaluation`: the same figures by tercet, by plain torch and by installed libraries.

Each contender is a function of the sample that gives its figures by name; a sample is made from a seed alone, so that
every process has the same one.

Legend: N rows, D embedding width, P pairs, R positives of a query.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch

from tercet.bench.memory import mark, peak
from tercet.evaluate import retrieval
from tercet.evaluate.error_curve import error_curve

__all__ = ["CASES", "PEERS", "Figures", "Sizes", "compare", "race", "weigh"]

Figures = Mapping[str, float]
OURS: Final = "tercet"
TOLERANCE: Final = 1e-6
_SMALL_ROWS, _SMALL_PAIRS = 300, 3000
_TILE: Final = 1024


@final
@dataclass(frozen=True)
class Sizes:
    """How much is judged: `rows` embeddings of `width`, `samples_per_class` of each identity; `pairs` scored pairs."""

    rows: int
    width: int
    samples_per_class: int
    pairs: int
    threads: int

    def small(self) -> Sizes:
        """The same kind of sample, at the size on which values are compared."""
        return Sizes(_SMALL_ROWS, min(self.width, 32), self.samples_per_class, _SMALL_PAIRS, self.threads)

    def embeddings(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Unit rows [N, D], identities around centres of their own that overlap; and labels [N]."""
        random = np.random.default_rng(0)
        labels_N = np.arange(self.rows) // self.samples_per_class
        x_ND = random.normal(size=(labels_N[-1] + 1, self.width))[labels_N] + 1.5 * random.normal(
            size=(self.rows, self.width)
        )
        unit_ND: npt.NDArray[np.float32] = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
        return unit_ND, labels_N

    def scored(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Scores [P], one pair in ten genuine, on a grid that makes ties; and which are genuine [P]."""
        random = np.random.default_rng(1)
        genuine_P = np.arange(self.pairs) % 10 == 0
        return np.round(random.normal(size=self.pairs) + 2 * genuine_P, 4), genuine_P


Judge = Callable[[Sizes], Callable[[], Figures]]
"""Makes the sample, which is not timed; what it gives computes the figures, which is."""


def _pairs_by_tercet(sizes: Sizes) -> Callable[[], Figures]:
    scores_P, genuine_P = sizes.scored()

    def judge() -> Figures:
        curve = error_curve(scores_P, genuine_P)
        return {"auc": curve.auc(), "eer": curve.eer()}

    return judge


def _pairs_by_sklearn(sizes: Sizes) -> Callable[[], Figures]:
    """The area by the library; the EER on the convex hull of its curve, which the library has no function for."""
    from scipy.spatial import ConvexHull
    from sklearn.metrics import roc_auc_score, roc_curve

    scores_P, genuine_P = sizes.scored()

    def judge() -> Figures:
        fmr, tmr, _ = roc_curve(genuine_P, scores_P)
        points = np.stack([fmr, 1 - tmr], axis=1)
        hull = points[np.sort(ConvexHull(np.vstack([points, [[1.0, 1.0]]])).vertices)[:-1]]
        gap = hull[:, 0] - hull[:, 1]  # rises from -1 to 1 along the hull
        at = int(np.searchsorted(gap, 0.0))
        share = -gap[at - 1] / (gap[at] - gap[at - 1])
        eer = hull[at - 1, 0] + share * (hull[at, 0] - hull[at - 1, 0])
        return {"auc": float(roc_auc_score(genuine_P, scores_P)), "eer": float(eer)}

    return judge


def _pairs_by_interpolation(sizes: Sizes) -> Callable[[], Figures]:
    """The recipe of many repositories: scikit-learn's curve, and the EER by `brentq` on the line between its points."""
    from scipy.optimize import brentq
    from sklearn.metrics import auc, roc_curve

    scores_P, genuine_P = sizes.scored()

    def judge() -> Figures:
        fmr, tmr, _ = roc_curve(genuine_P, scores_P)
        eer = brentq(lambda x: 1.0 - x - np.interp(x, fmr, tmr), 0.0, 1.0)
        return {"auc": float(auc(fmr, tmr)), "eer": float(eer)}

    return judge


def _ranks_by_tercet(sizes: Sizes) -> Callable[[], Figures]:
    x_ND, labels_N = sizes.embeddings()

    def judge() -> Figures:
        found = retrieval(x_ND, labels_N)
        return {"recall@1": found.recall["1"], "map_at_r": found.map_at_r, "r_precision": found.r_precision}

    return judge


def _ranks_by_torch(sizes: Sizes) -> Callable[[], Figures]:
    """What one writes first: the product of some queries with all rows, and `torch.topk`; ties fall as they fall."""
    x_ND, labels_N = (torch.from_numpy(array) for array in sizes.embeddings())
    most = int(labels_N.bincount().max()) - 1

    def judge() -> Figures:
        positives_N = labels_N.bincount()[labels_N] - 1
        first, at_r, mean_precision = 0.0, 0.0, 0.0
        for start in range(0, len(x_ND), _TILE):
            rows = torch.arange(start, min(start + _TILE, len(x_ND)))
            similar_QN = x_ND[rows] @ x_ND.T
            similar_QN[torch.arange(len(rows)), rows] = -torch.inf
            hits_QR = labels_N[similar_QN.topk(most, dim=1).indices] == labels_N[rows, None]
            positives_Q = positives_N[rows]
            used = positives_Q > 0
            hits_QR = (hits_QR & (torch.arange(most) < positives_Q[:, None]))[used].double()
            precision_QR = hits_QR.cumsum(dim=1) / (1 + torch.arange(most))
            first += float(hits_QR[:, 0].sum())
            at_r += float((hits_QR.sum(dim=1) / positives_Q[used]).sum())
            mean_precision += float(((hits_QR * precision_QR).sum(dim=1) / positives_Q[used]).sum())
        count = int((positives_N > 0).sum())
        return {"recall@1": first / count, "map_at_r": mean_precision / count, "r_precision": at_r / count}

    return judge


def _ranks_by_metric_learning(sizes: Sizes) -> Callable[[], Figures]:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    x_ND, labels_N = (torch.from_numpy(array) for array in sizes.embeddings())
    names = {"recall@1": "precision_at_1", "map_at_r": "mean_average_precision_at_r", "r_precision": "r_precision"}
    calculator = AccuracyCalculator(
        include=tuple(names.values()),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity(), batch_size=_TILE),
        device=torch.device("cpu"),
    )

    def judge() -> Figures:
        found = calculator.get_accuracy(x_ND, labels_N)
        return {ours: float(found[theirs]) for ours, theirs in names.items()}

    return judge


def _rankings_by_tercet(sizes: Sizes) -> Callable[[], Figures]:
    x_ND, labels_N = sizes.embeddings()

    def judge() -> Figures:
        return {"map": retrieval(x_ND, labels_N, full_ranking=True).map or 0.0}

    return judge


def _rankings_by_sklearn(sizes: Sizes) -> Callable[[], Figures]:
    from sklearn.metrics import average_precision_score

    x_ND, labels_N = sizes.embeddings()

    def judge() -> Figures:
        precision = []
        for row, query_D in enumerate(x_ND):
            others_N = np.arange(len(x_ND)) != row
            positive_N = labels_N[others_N] == labels_N[row]
            if positive_N.any():
                precision.append(average_precision_score(positive_N, x_ND[others_N] @ query_D))
        return {"map": float(np.mean(precision))}

    return judge


CASES: Final[Mapping[str, Mapping[str, Judge]]] = {
    "AUC, EER": {
        OURS: _pairs_by_tercet,
        "scikit-learn, hull": _pairs_by_sklearn,
        "scikit-learn, brentq": _pairs_by_interpolation,
    },
    "recall@1, MAP@R": {
        OURS: _ranks_by_tercet,
        "torch, top-k": _ranks_by_torch,
        "pytorch-metric-learning": _ranks_by_metric_learning,
    },
    "mAP, whole ranking": {OURS: _rankings_by_tercet, "scikit-learn, a query at a time": _rankings_by_sklearn},
}
PEERS: Final[Mapping[str, str]] = {"pytorch-metric-learning": "pytorch_metric_learning"}
"""Contenders that an extra brings, and what they import."""


def there(name: str) -> bool:
    """Whether what a contender needs is installed."""
    return name not in PEERS or importlib.util.find_spec(PEERS[name]) is not None


def compare(case: str, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """By contender: its `figures` on a small sample, and `differs`: empty where they are tercet's, else what is not."""
    torch.set_num_threads(sizes.threads)
    small = sizes.small()
    ours = CASES[case][OURS](small)()
    said: dict[str, dict[str, Any]] = {}
    for name, judge in CASES[case].items():
        if not there(name):
            continue
        found = judge(small)()
        apart = [
            f"{key} {found[key]:.6f} where tercet has {value:.6f}"
            for key, value in ours.items()
            if not abs(found[key] - value) <= TOLERANCE
        ]
        said[name] = {"figures": dict(found), "differs": "; ".join(apart)}
    return said


def race(case: str, names: list[str], sizes: Sizes, rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds of each contender in each round, by turns in one process.

    A contender stops taking part when it has used `budget` seconds, and keeps its first round.
    """
    torch.set_num_threads(sizes.threads)
    for name in names:
        CASES[case][name](sizes.small())()
    judges = {name: CASES[case][name](sizes) for name in names}
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, judge in judges.items():
            if sum(took[name]) < budget:
                start = time.perf_counter()
                judge()
                took[name].append(time.perf_counter() - start)
    return took


def ratio(own: list[float], ours: list[float]) -> float:
    """The median of the ratios of the rounds that both took part in."""
    return statistics.median(a / b for a, b in zip(own, ours, strict=False))


def weigh(case: str, name: str, sizes: Sizes, memory: int) -> float | None:
    """Bytes that the figures take at their peak beside the sample; None where `memory` does not suffice."""
    torch.set_num_threads(sizes.threads)
    CASES[case][name](sizes.small())()
    judge = CASES[case][name](sizes)
    before = mark("cpu", memory)
    try:
        judge()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        return None
    return float(peak("cpu") - before)
