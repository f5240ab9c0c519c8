"""Open-set identification: who of those enrolled is it, or nobody? Error rates over searches.

FNIR(N, R, T): the share of searches for an enrolled identity that do not return it among the first R identities with a
score >= T. FPIR(N, T): the share of searches for somebody who is not enrolled that return anybody with a score >= T.
N is the number of enrolled identities; FPIR grows with it (ISO/IEC 19795-1; NIST FRTE 1:N).

Legend: Q searches; G gallery rows; D embedding width; I enrolled identities; B queries of one chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import between, least_impostors
from tercet.evaluate.similarity import checked_labels, checked_vectors, tile_similarity, unit_rows

__all__ = ["FPIR_TARGETS", "RANKS", "Identification", "Searches", "enrol_half", "fmr_for_fpir", "search_identities"]

FPIR_TARGETS = {"0.1": 0.1, "0.01": 0.01}
RANKS = (1, 5)
_CHUNK_ENTRIES = 2**22


@final
@dataclass(frozen=True)
class Identification:
    """What `Searches.summary` returns; rates between 0 and 1, None where the searches are too few.

    `fnir_at_fpir` {FPIR: {rank: FNIR}} and `threshold_at_fpir` belong to the largest FPIR that does not exceed each
    target; `fnir` {rank: share} has no threshold, so 1 - fnir["1"] is the rank-one rate. `margin` holds the medians of
    the best score less the runner-up identity's: "right" where the first identity is right, "wrong" where it is not,
    "stranger" where nobody is enrolled.
    """

    fnir: dict[str, float]
    fnir_at_fpir: dict[str, dict[str, float] | None]
    threshold_at_fpir: dict[str, float | None]
    margin: dict[str, float | None]
    enrolled: int
    mated: int
    non_mated: int


@final
@dataclass(frozen=True)
class Searches:
    """Ranked identities of Q searches; an identity's score is that of its most similar sample.

    `best` and `runner_up` [Q] are the scores of the first and second identity (-inf for the second where one is
    enrolled), `identity` [Q] the first's label. `mated` [Q]: the searched identity is enrolled; then `own` is its score
    and `rank` its place from 1 (an equal score of another identity stands before it), else -inf and 0.
    """

    best: npt.NDArray[np.float64]
    runner_up: npt.NDArray[np.float64]
    identity: npt.NDArray[np.int64]
    mated: npt.NDArray[np.bool_]
    own: npt.NDArray[np.float64]
    rank: npt.NDArray[np.int64]
    enrolled: int

    @property
    def margin(self) -> npt.NDArray[np.float64]:
        """Best score less that of the runner-up identity [Q]; an identity's own second sample is no runner-up."""
        return self.best - self.runner_up

    def fnir(self, threshold: float = -np.inf, *, rank: int = 1) -> float:
        """FNIR at a rank and a threshold; raises InvalidInput without a mated search."""
        self._needed("mated", int(self.mated.sum()))
        found = (self.rank[self.mated] <= rank) & (self.own[self.mated] >= threshold)
        return float((~found).mean())

    def fpir(self, threshold: float) -> float:
        """FPIR at a threshold; raises InvalidInput without a search for somebody who is not enrolled."""
        self._needed("non-mated", int((~self.mated).sum()))
        return float((self.best[~self.mated] >= threshold).mean())

    def threshold_at(self, fpir: float, *, force_small: bool = False) -> float | None:
        """The lowest threshold whose FPIR at this gallery's size does not exceed `fpir`.

        None where fewer than 30 false positives are to be expected, unless forced. Raises InvalidInput.
        """
        if not 0 < fpir < 1:
            raise InvalidInput(f"fpir: expected a rate between 0 and 1, got {fpir}")
        scores = np.sort(self.best[~self.mated])[::-1]
        self._needed("non-mated", len(scores))
        if len(scores) < least_impostors(fpir) and not force_small:
            return None
        allowed = int(np.floor(fpir * len(scores) + 1e-9))  # so many may be accepted; the next one may not
        if allowed >= len(scores):
            return float(scores[-1])
        refused = float(scores[allowed])
        above = scores[scores > refused]
        return between(float(above[-1]), refused) if len(above) else float(np.nextafter(refused, np.inf))

    def summary(self, *, ranks: tuple[int, ...] = RANKS, force_small: bool = False) -> Identification:
        """The figures of these searches; raises InvalidInput where one of the two kinds is missing."""
        thresholds = {name: self.threshold_at(fpir, force_small=force_small) for name, fpir in FPIR_TARGETS.items()}
        right = self.mated & (self.rank == 1)
        kinds = {"right": right, "wrong": self.mated & ~right, "stranger": ~self.mated}
        return Identification(
            fnir={str(r): self.fnir(rank=r) for r in ranks},
            fnir_at_fpir={
                name: None if t is None else {str(r): self.fnir(t, rank=r) for r in ranks}
                for name, t in thresholds.items()
            },
            threshold_at_fpir=thresholds,
            margin={
                name: float(np.median(self.margin[rows])) if rows.any() and self.enrolled > 1 else None
                for name, rows in kinds.items()
            },
            enrolled=self.enrolled,
            mated=int(self.mated.sum()),
            non_mated=int((~self.mated).sum()),
        )

    def _needed(self, kind: str, count: int) -> None:
        if not count:
            raise InvalidInput(f"searches: no {kind} search among {len(self.best)}")


def search_identities(
    query_QD: npt.ArrayLike, query_labels: npt.ArrayLike, gallery_GD: npt.ArrayLike, gallery_labels: npt.ArrayLike
) -> Searches:
    """Search a gallery for every query; exact, cosine similarity, one score per identity: that of its best sample.

    Labels are integers; a query is mated where its label is in the gallery. Shapes: [Q, D], [Q], [G, D], [G]. Cost:
    O(Q G D) time; memory for the gallery as float64 and one tile of at most 2^22 similarities. Raises InvalidInput.
    """
    query, gallery = checked_vectors(query_QD, "query_QD"), checked_vectors(gallery_GD, "gallery_GD")
    own = checked_labels(query_labels, len(query), "query_labels")
    theirs = checked_labels(gallery_labels, len(gallery), "gallery_labels")
    if not len(gallery) or query.shape[1] != gallery.shape[1]:
        raise InvalidInput(f"gallery_GD: expected [G, {query.shape[1]}] with G >= 1, got {list(gallery.shape)}")
    order = np.argsort(theirs, kind="stable")
    names, starts = np.unique(theirs[order], return_index=True)
    enrolled = unit_rows(gallery[order])
    count = len(query)
    place = np.searchsorted(names, own).clip(max=len(names) - 1)
    mated = names[place] == own
    best, runner_up = np.empty(count), np.full(count, -np.inf)
    identity, rank = np.empty(count, np.int64), np.zeros(count, np.int64)
    own_score = np.full(count, -np.inf)
    size = max(1, _CHUNK_ENTRIES // len(gallery))
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        similar = tile_similarity(unit_rows(query[rows]), enrolled).astype(np.float64)
        score_BI = np.maximum.reduceat(similar, starts, axis=1)
        at = np.arange(len(rows))
        first = score_BI.argmax(axis=1)
        best[rows], identity[rows] = score_BI[at, first], names[first]
        here = mated[rows]
        own_score[rows[here]] = score_BI[at[here], place[rows[here]]]
        rank[rows[here]] = (score_BI[here] >= own_score[rows[here], None]).sum(axis=1)
        score_BI[at, first] = -np.inf
        if len(names) > 1:
            runner_up[rows] = score_BI.max(axis=1)
    return Searches(best, runner_up, identity, mated, own_score, rank, len(names))


def enrol_half(
    labels_N: npt.ArrayLike, *, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A gallery out of one data set: the rows enrolled, of mated searches, and of searches for strangers.

    Half of the identities with two samples or more are enrolled, each with half of its samples (rounded down), and
    searched for with the rest; every sample of the other identities is a stranger's. Seeded; independent of the order
    of identities only as far as `labels_N` are. Raises InvalidInput below two identities with two samples.
    """
    labels = checked_labels(labels_N, len(np.asarray(labels_N)), "labels_N")
    rng = np.random.default_rng(seed)
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    able = names[sizes > 1]
    if len(able) < 2:
        raise InvalidInput(f"labels_N: needs two identities with two samples or more, got {len(able)}")
    chosen = np.sort(rng.permutation(able)[: len(able) // 2])
    gallery, mated = [], []
    for name in chosen:
        rows = rng.permutation(np.flatnonzero(labels == name))
        gallery.append(rows[: len(rows) // 2])
        mated.append(rows[len(rows) // 2 :])
    strangers = np.flatnonzero(~np.isin(labels, chosen))
    return np.sort(np.concatenate(gallery)), np.sort(np.concatenate(mated)), strangers


def fmr_for_fpir(fpir: float, enrolled: int) -> float:
    """The FMR that a gallery of so many identities asks for, were its comparisons independent: 1 - (1 - FPIR)^(1/N).

    They are not, so this is where to begin; `Searches.threshold_at` measures. FMR 1e-4 against 10,000 identities makes
    an FPIR of 63 %.

    >>> round(fmr_for_fpir(0.632, 10_000), 6)
    0.0001
    """
    if not 0 < fpir < 1 or enrolled < 1:
        raise InvalidInput(f"fpir, enrolled: expected a rate between 0 and 1 and at least 1, got {fpir}, {enrolled}")
    return float(-np.expm1(np.log1p(-fpir) / enrolled))
