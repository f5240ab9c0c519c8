"""Figures of verification, retrieval and identification for the vectors of one system.

Legend: N samples, D embedding width, P pairs, Q queries, G gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.evaluate import AsNorm, LlrMap, Pairs, cosine, identity_folds, retrieval_per_query
from tercet.evaluate.figures import identification_figures, retrieval_figures, verification_figures
from tercet.protocol.calibration import normalised_pairs
from tercet.protocol.listed import ListedPairs
from tercet.protocol.rows import retrieval_parts

__all__ = ["Protocol", "Scoring"]

Protocol = Literal["verification", "retrieval", "identification", "both"]


@final
@dataclass(frozen=True)
class Scoring:
    """What is to be scored, whatever makes the vectors.

    Args:
        store: The data.
        scored: The rows of all pairs, queries and searches.
        listed: The pairs that are verified instead, where a list names them.
        gallery: Where queries are searched; None: among themselves.
        protocol: Verification, retrieval, identification, or "both": the first two.
        ignore_same_group: Leave out of a query's results what is of its identity and group.
        force_small: Give rates also where the pairs or searches are too few to show them.
        seed: Of the folds, of the sampling of pairs, of who is enrolled, and of the bootstrap.
    """

    store: SampleStore
    scored: npt.NDArray[np.int64]
    listed: ListedPairs | None
    gallery: SampleStore | None
    protocol: Protocol
    ignore_same_group: bool
    force_small: bool
    seed: int

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows [N] of the store that need a vector, ascending."""
        if self.listed is None:
            return self.scored
        return np.unique(np.concatenate([self.scored, self.listed.first, self.listed.second]))

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels [N] of those rows."""
        return self.store.manifest.labels[self.rows]

    def remarks(self) -> tuple[str, ...]:
        """Where the data say what is searched for and in what, how many there are of each."""
        if self.protocol not in ("retrieval", "both") or self.gallery is not None:
            return ()
        divided = retrieval_parts(self.store, self.scored)
        if divided is None:
            return ()
        return (f"retrieval: {len(divided[0])} queries are searched in {len(divided[1])} samples, as the data say",)

    def figures(
        self,
        vectors_ND: npt.NDArray[np.float32],
        others_GD: npt.NDArray[np.float32] | None,
        there_G: npt.NDArray[np.int64],
        resamples: int,
        *,
        norm: AsNorm | None = None,
        llr: LlrMap | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], Pairs | None]:
        """The figures of the vectors of `rows`, their intervals, and the scored pairs where there are any."""
        figures: dict[str, Any] = {}
        intervals: dict[str, Any] = {}
        pairs: Pairs | None = None
        place = np.searchsorted(self.rows, self.scored)
        if self.protocol in ("verification", "both"):
            figures, intervals, pairs = self.verification(vectors_ND, resamples, norm=norm, llr=llr)
        if self.protocol in ("retrieval", "both"):
            found = self._retrieval(vectors_ND[place], others_GD, there_G, resamples)
            figures, intervals = figures | found[0], intervals | found[1]
        if self.protocol == "identification":
            found = identification_figures(
                vectors_ND[place],
                self.labels[place],
                force_small=self.force_small,
                resamples=resamples,
                seed=self.seed,
            )
            figures, intervals = figures | found[0], intervals | found[1]
        return figures, intervals, pairs

    def verification(
        self,
        vectors_ND: npt.NDArray[np.float32],
        resamples: int,
        *,
        norm: AsNorm | None = None,
        llr: LlrMap | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], Pairs]:
        """The same of verification alone."""
        pairs = self.pairs(vectors_ND, norm)
        folds = identity_folds(pairs, self.labels, seed=self.seed)
        if self.listed is not None and self.listed.fold is not None:
            folds = self.listed.fold
        figures, intervals = verification_figures(
            pairs,
            self.labels,
            folds=folds,
            llr=llr,
            force_small=self.force_small,
            resamples=resamples,
            seed=self.seed,
        )
        return figures, intervals, pairs

    def pairs(self, vectors_ND: npt.NDArray[np.float32], norm: AsNorm | None) -> Pairs:
        """All pairs of the vectors of `rows`, or those of the list, scored."""
        if self.listed is None:
            return normalised_pairs(vectors_ND, self.labels, norm, seed=self.seed)
        first, second = np.searchsorted(self.rows, self.listed.first), np.searchsorted(self.rows, self.listed.second)
        if norm is None:
            return Pairs(cosine(vectors_ND[first], vectors_ND[second]), self.listed.genuine, first, second)
        ready = norm.normalised(vectors_ND)
        similar = cosine(ready.vectors[first], ready.vectors[second])
        return ready.pairs(Pairs(similar, self.listed.genuine, first, second))

    def _retrieval(
        self,
        query_QD: npt.NDArray[np.float32],
        others_GD: npt.NDArray[np.float32] | None,
        there_G: npt.NDArray[np.int64],
        resamples: int,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        rows, own = self.store.manifest.rows, self.store.manifest
        groups = np.array([rows[n].group for n in self.scored], dtype=np.str_) if self.ignore_same_group else None
        if self.gallery is None or others_GD is None:
            labels = own.labels[self.scored]
            divided = retrieval_parts(self.store, self.scored)
            if divided is not None:
                query_Q, there_G = divided
                found = retrieval_per_query(
                    query_QD[query_Q],
                    labels[query_Q],
                    query_QD[there_G],
                    labels[there_G],
                    query_ids=query_Q,
                    gallery_ids=there_G,
                    query_groups=None if groups is None else groups[query_Q],
                    gallery_groups=None if groups is None else groups[there_G],
                    full_ranking=True,
                )
                return retrieval_figures(found, labels[query_Q], resamples=resamples, seed=self.seed)
            found = retrieval_per_query(query_QD, labels, query_groups=groups, full_ranking=True)
            return retrieval_figures(found, labels, resamples=resamples, seed=self.seed)
        theirs = self.gallery.manifest.rows
        code = {name: n for n, name in enumerate(sorted({*own.identities, *self.gallery.manifest.identities}))}
        labels = np.array([code[rows[n].identity] for n in self.scored], dtype=np.int64)
        found = retrieval_per_query(
            query_QD,
            labels,
            others_GD,
            np.array([code[theirs[n].identity] for n in there_G], dtype=np.int64),
            query_ids=np.array([self.store.hashes[n] for n in self.scored]),
            gallery_ids=np.array([self.gallery.hashes[n] for n in there_G]),
            query_groups=groups,
            gallery_groups=None if groups is None else np.array([theirs[n].group for n in there_G], dtype=np.str_),
            full_ranking=True,
        )
        return retrieval_figures(found, labels, resamples=resamples, seed=self.seed)
