"""Retrieval: which gallery samples are of the query's identity? Figures over ranked results.

Legend: Q queries; G gallery rows; D embedding width; K neighbours; B queries of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.similarity import SampleIds, all_keys, checked_labels, nearest_tiles, search_arguments

__all__ = ["Retrieval", "RetrievalPerQuery", "retrieval", "retrieval_per_query"]


@final
@dataclass(frozen=True)
class Retrieval:
    """Means over the queries that have a positive; `queries` is their number, `excluded` that of the others."""

    recall: dict[str, float]
    class_recall: dict[str, float]
    precision: dict[str, float]
    map: float | None
    map_at_r: float
    r_precision: float
    queries: int
    excluded: int


@final
@dataclass(frozen=True)
class RetrievalPerQuery:
    """The figures of every query [Q], and its nearest gallery rows.

    `positives` is R, the number of gallery rows of the query's identity; queries with R = 0 are excluded from every
    mean and hold 0 in every figure. `labels` are the queries' own. `average_precision` is None where it was not asked
    for. `nearest` and `scores` [Q, max k] are the nearest rows, best first; -1 and 0 where
    the gallery is shorter.
    """

    labels: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    recall: dict[str, npt.NDArray[np.float64]]
    precision: dict[str, npt.NDArray[np.float64]]
    average_precision: npt.NDArray[np.float64] | None
    map_at_r: npt.NDArray[np.float64]
    r_precision: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    @property
    def included(self) -> npt.NDArray[np.bool_]:
        """The queries that have a positive."""
        return self.positives > 0

    def summary(self) -> Retrieval:
        """Means over the included queries; raises InvalidInput where there are none."""
        used = self.included
        count = int(used.sum())
        if count == 0:
            raise InvalidInput(f"query_labels: none of the {len(used)} queries has a positive in the gallery")

        def mean(values: npt.NDArray[np.float64]) -> float:
            return math.fsum(values[used].tolist()) / count  # exact, so the order of queries leaves no trace

        names, code = np.unique(self.labels[used], return_inverse=True)
        size = np.bincount(code)

        def class_mean(values: npt.NDArray[np.float64]) -> float:
            return math.fsum((np.bincount(code, values[used]) / size).tolist()) / len(names)

        return Retrieval(
            recall={k: mean(values) for k, values in self.recall.items()},
            class_recall={k: class_mean(values) for k, values in self.recall.items()},
            precision={k: mean(values) for k, values in self.precision.items()},
            map=None if self.average_precision is None else mean(self.average_precision),
            map_at_r=mean(self.map_at_r),
            r_precision=mean(self.r_precision),
            queries=count,
            excluded=len(used) - count,
        )


def retrieval(
    query_QD: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    gallery_GD: npt.ArrayLike | None = None,
    gallery_labels: npt.ArrayLike | None = None,
    *,
    query_ids: npt.ArrayLike | None = None,
    gallery_ids: npt.ArrayLike | None = None,
    query_groups: npt.ArrayLike | None = None,
    gallery_groups: npt.ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    full_ranking: bool = False,
    tile: int = 1024,
) -> Retrieval:
    """The retrieval figures by cosine similarity, exact; at ties the lowest gallery row comes first.

    For a query with R positives in the gallery, and rel(i) = 1 where the i-th nearest row is one of them:

    - recall@k: 1 where any of the first k rows is a positive (the field's name for a hit rate); class_recall is the
      mean over identities of the mean over the queries of each, so that large classes do not outweigh small ones;
    - precision@k: (1/k) sum_{i<=k} rel(i), also where R < k or the gallery is shorter than k;
    - map: (1/R) sum_i rel(i) precision(i) over the whole ranking, as scikit-learn's average_precision_score where no
      scores are equal; only with `full_ranking`, None otherwise: it needs the place of every positive;
    - r_precision: (1/R) sum_{i<=R} rel(i);
    - map_at_r: (1/R) sum_{i<=R} rel(i) precision(i), precision(i) = (1/i) sum_{j<=i} rel(j); normalised by R, not by
      the hits that were found (Musgrave et al., A Metric Learning Reality Check, 2020, section 3.2).

    Each is the mean over queries with R > 0; the others are counted in `excluded`. Without a gallery every row is
    searched among the others. A query is left out of its own results, and of R, by its id and never by its rank: the
    row number, or `query_ids` (and `gallery_ids` where a gallery is given; without ids nothing is left out of it). With
    `query_groups` (and `gallery_groups`), rows of the query's identity and group (the same photo, the same recording)
    are left out in the same way; "" is no group. A row with a negative label is a distractor: nobody's positive.

    Shapes: `query_QD` [Q, D], `gallery_GD` [G, D] floating, of any scale; labels integers [Q] and [G]; ids integers or
    strings, groups strings. Cost: O(Q G D) time, about twice that with `full_ranking`; memory for one tile of at most
    2^20 similarities, the largest R a row, and the result; `tile` is the number of gallery rows compared at a time.
    Raises InvalidInput, also where no query has a positive.

    >>> retrieval([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], [3, 3, 8, 8]).recall["1"]
    1.0
    """
    return retrieval_per_query(
        query_QD,
        query_labels,
        gallery_GD,
        gallery_labels,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        query_groups=query_groups,
        gallery_groups=gallery_groups,
        ks=ks,
        full_ranking=full_ranking,
        tile=tile,
    ).summary()


def retrieval_per_query(
    query_QD: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    gallery_GD: npt.ArrayLike | None = None,
    gallery_labels: npt.ArrayLike | None = None,
    *,
    query_ids: npt.ArrayLike | None = None,
    gallery_ids: npt.ArrayLike | None = None,
    query_groups: npt.ArrayLike | None = None,
    gallery_groups: npt.ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    full_ranking: bool = False,
    tile: int = 1024,
) -> RetrievalPerQuery:
    """The figures of `retrieval` for each query, and its nearest rows; arguments, cost and errors as there."""
    query, gallery, left_out = search_arguments(query_QD, gallery_GD, query_ids, gallery_ids)
    own = checked_labels(query_labels, len(query), "query_labels")
    if (gallery_GD is None) != (gallery_labels is None):
        raise InvalidInput("gallery_labels: needed with a gallery, and only with one")
    theirs = own if gallery_labels is None else checked_labels(gallery_labels, len(gallery), "gallery_labels")
    if not ks or min(ks) < 1:
        raise InvalidInput(f"ks: expected numbers from 1, got {list(ks)}")
    if (query_groups is None) != (gallery_groups is None) and gallery_GD is not None:
        raise InvalidInput("gallery_groups: groups are needed on both sides of a gallery, or on neither")
    if query_groups is not None:
        left_out = _with_groups(left_out, own, theirs, query_groups, gallery_groups)
    positives = _positives(own, theirs, left_out)
    shown = max(ks)
    result = RetrievalPerQuery(
        labels=own,
        positives=positives,
        recall={str(k): np.zeros(len(query)) for k in ks},
        precision={str(k): np.zeros(len(query)) for k in ks},
        average_precision=_average_precision(query, gallery, own, theirs, positives, left_out)
        if full_ranking
        else None,
        map_at_r=np.zeros(len(query)),
        r_precision=np.zeros(len(query)),
        nearest=np.full((len(query), shown), -1, dtype=np.int64),
        scores=np.zeros((len(query), shown), dtype=np.float32),
    )
    wanted = np.maximum(positives, shown)
    for rows, index_BK, score_BK in nearest_tiles(query, gallery, wanted, left_out, tile=tile):
        width = min(shown, index_BK.shape[1])
        result.nearest[rows, :width] = index_BK[:, :width]
        result.scores[rows, :width] = score_BK[:, :width]
        has = positives[rows] > 0
        rows, index_BK = rows[has], index_BK[has]
        # An empty place (-1) reads some row's label; it stands behind every positive, where no figure changes any more.
        hit_BK = theirs[index_BK] == own[rows, None]
        for k in ks:
            result.recall[str(k)][rows] = hit_BK[:, :k].any(axis=1)
            result.precision[str(k)][rows] = (hit_BK & (index_BK >= 0))[:, :k].sum(axis=1) / k
        place_K = np.arange(1, index_BK.shape[1] + 1)
        hit_BK &= place_K <= positives[rows, None]
        found_BK = np.cumsum(hit_BK, axis=1)
        result.r_precision[rows] = found_BK[:, -1] / positives[rows]
        # A running sum, so that the zeros of a wider chunk behind place R leave no trace in the last bit.
        precision_BK = np.cumsum(np.where(hit_BK, found_BK / place_K, 0.0), axis=1)
        result.map_at_r[rows] = precision_BK[:, -1] / positives[rows]
    return result


def _average_precision(
    query_QD: npt.NDArray[np.floating],
    gallery_GD: npt.NDArray[np.floating],
    own: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int64],
    positives: npt.NDArray[np.int64],
    left_out: SampleIds | None,
) -> npt.NDArray[np.float64]:
    """AP of every query: with the place of its j-th positive r_j in the whole ranking, (1/R) sum_j j / r_j."""
    result = np.zeros(len(query_QD))
    by_label = np.argsort(theirs, kind="stable")
    ordered = theirs[by_label]
    for rows, keys_BG in all_keys(query_QD, gallery_GD, np.flatnonzero(positives > 0), left_out):
        first, last = np.searchsorted(ordered, own[rows]), np.searchsorted(ordered, own[rows], side="right")
        for n, row in enumerate(rows):
            keys = np.sort(keys_BG[n, by_label[first[n] : last[n]]])[::-1][: positives[row]]
            # Places 1 to G: how many keys are at least as large, counted by the gap between positives they fall into.
            gap = np.bincount(np.searchsorted(-keys, -keys_BG[n][keys_BG[n] >= keys[-1]]), minlength=len(keys))
            result[row] = (np.arange(1, len(keys) + 1) / np.cumsum(gap)[: len(keys)]).mean()
    return result


def _with_groups(
    left_out: SampleIds | None,
    own: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int64],
    query_groups: npt.ArrayLike,
    gallery_groups: npt.ArrayLike | None,
) -> SampleIds:
    """Codes that also agree where identity and group do; a row without a group keeps the code of its id."""
    q = _checked_groups(query_groups, len(own), "query_groups")
    g = q if gallery_groups is None else _checked_groups(gallery_groups, len(theirs), "gallery_groups")
    groups = np.unique(np.concatenate([q, g]), return_inverse=True)[1]
    names = np.unique(np.concatenate([own, theirs]), return_inverse=True)[1]
    named = np.concatenate([q, g]) != ""
    if left_out is None:
        ids = np.arange(len(named))  # nobody is the same sample as anybody
    else:
        ids = np.concatenate([left_out.query_Q, left_out.gallery_G])
    codes = np.where(named, groups * (int(names.max(initial=0)) + 1) + names, -1 - ids)
    return SampleIds(codes[: len(q)], codes[len(q) :])


def _checked_groups(groups: npt.ArrayLike, rows: int, name: str) -> npt.NDArray[np.str_]:
    array = np.asarray(groups)
    if array.shape != (rows,) or (rows and array.dtype.kind != "U"):
        raise InvalidInput(f"{name}: expected strings [{rows}], got {array.dtype} of shape {list(array.shape)}")
    return array.astype(np.str_)


def _positives(
    own: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], left_out: SampleIds | None
) -> npt.NDArray[np.int64]:
    """R of every query: gallery rows with its label, less those that are the query itself; 0 for a negative label."""
    count = _occurrences(theirs, own)
    if left_out is not None:
        names = np.unique(np.concatenate([own, theirs]))
        query = left_out.query_Q * len(names) + np.searchsorted(names, own)
        gallery = left_out.gallery_G * len(names) + np.searchsorted(names, theirs)
        count -= _occurrences(gallery, query)
    return np.where(own < 0, 0, count)


def _occurrences(values: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    ordered = np.sort(values)
    return np.searchsorted(ordered, of, side="right") - np.searchsorted(ordered, of, side="left")
