"""What may make figures too good: trivial features that tell pairs apart, and samples that stand on both sides.

Legend: N rows, F forgeries, P pairs, S seen rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tercet.data import SampleStore
from tercet.data.properties import file_properties
from tercet.errors import DataError, InvalidInput
from tercet.evaluate.leakage import Separation, separation_of_pairs, separation_of_rows
from tercet.protocol.listed import ListedPairs
from tercet.protocol.rows import Scored, seen_identities
from tercet.run import Model

__all__ = ["FORGED_LIMIT", "PAIRS_LIMIT", "Leakage", "find_leakage"]

FORGED_LIMIT: Final = 0.6
PAIRS_LIMIT: Final = 0.75
"""AUC above which a trivial feature is named; identities differ in brightness and size, so pairs are allowed more."""

_FILES = 600  # of genuine samples whose properties are read, and of forgeries
_COMPARED, _HEARD = 4000, 1000  # pictures, recordings of either side that are compared with each other
_ALIKE = (
    0.985  # similarity of two small versions, from which one is a copy; other pictures of these data stay below .94
)
_TINY, _TINY_ALIKE = 16, 0.999  # pixels; so small pictures are too much alike to tell a copy with losses
_SIDE = 32
_NAMED = 20
_MOST_NEAR = 1000  # near-copies that are counted in each place
_SHOWN = 3


@final
@dataclass(frozen=True)
class Leakage:
    """What was found; `warnings` are lines for people, `to_json` the key `leakage` of an evaluation."""

    pairs: Mapping[str, Separation]
    forged: Mapping[str, Separation]
    files: int
    duplicates: tuple[Mapping[str, Any], ...]
    compared: Mapping[str, int]
    in_both: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that a reader of the figures should know."""
        lines = []
        for found, limit, what, so in (
            (self.pairs, PAIRS_LIMIT, "genuine from impostor pairs", "part of the figures"),
            (self.forged, FORGED_LIMIT, "forged from genuine samples", "the figures on forgeries"),
        ):
            beyond = sorted(
                ((one.auc, name) for name, one in found.items() if one.beyond(limit)),
                key=lambda pair: (-pair[0], pair[1]),
            )
            if beyond:
                named = ", ".join(f"{name} {auc:.2f}" for auc, name in beyond)
                lines.append(
                    f"leakage: trivial features alone tell {what} (AUC: {named}; limit {limit:g}): {so} may be due to "
                    "how the files were made"
                )
        for where, what in (
            ("training", "samples are also among the identities of training or validation, or are near-copies"),
            ("identities", "pairs of samples under two identities are the same picture or recording, or near-copies"),
            ("identity", "files stand twice under one identity, and are genuine pairs that cannot fail"),
        ):
            some = [one for one in self.duplicates if one["where"] == where]
            if some:
                named = "; ".join(f"{one['a']} = {one['b']}" for one in some[:_SHOWN])
                more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
                lines.append(f"leakage: {len(some)} {what}: {named}{more}")
        if self.in_both:
            named = ", ".join(self.in_both[:5]) + (" ..." if len(self.in_both) > 5 else "")
            lines.append(
                f"leakage: {len(self.in_both)} identities have another name in training or validation, told by their "
                f"files, and are left out: {named}"
            )
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain JSON values.

        pairs, forgeries: {"limit", "features": {name: {"auc", "at_least", "beyond"}}} or null; files (read for these);
        duplicates: [{"a", "b", "where", "similarity"}], at most 20 of each place; duplicates_found by place, where
        near-copies are counted to 1,000; compared; identities_in_both.
        """

        def features(found: Mapping[str, Separation], limit: float) -> dict[str, Any] | None:
            if not found:
                return None
            return {
                "limit": limit,
                "features": {
                    name: {"auc": one.auc, "at_least": one.low, "beyond": one.beyond(limit)}
                    for name, one in found.items()
                },
            }

        places = ("training", "identities", "identity")
        by_place = {place: [dict(one) for one in self.duplicates if one["where"] == place] for place in places}
        return {
            "pairs": features(self.pairs, PAIRS_LIMIT),
            "forgeries": features(self.forged, FORGED_LIMIT),
            "files": self.files,
            "duplicates": [one for some in by_place.values() for one in some[:_NAMED]],
            "duplicates_found": {place: len(some) for place, some in by_place.items()},
            "compared": dict(self.compared),
            "identities_in_both": list(self.in_both),
        }


def find_leakage(
    model: Model, store: SampleStore, scored: Scored, listed: ListedPairs | None = None, *, seed: int = 0
) -> Leakage:
    """Look for what may make the figures of the scored samples too good.

    The trivial properties of at most 600 files of either kind are read again, evenly from all identities, and asked how
    well each alone separates genuine from impostor pairs (those of a list where one is given) and forged from genuine
    samples. Copies are told by checksum among all samples, and near-copies, between the scored samples and those of
    training and between two scored identities, by small versions of at most 4,000 samples a side (1,000 recordings).
    A training sample that is not among the data cannot be compared; its checksum can.
    """
    manifest = store.manifest
    rng = np.random.default_rng(seed)
    if listed is None:
        rows = _some(scored.rows, manifest.labels, rng)
        first, second = np.triu_indices(len(rows), 1)
        genuine = manifest.labels[rows][first] == manifest.labels[rows][second]
    else:
        rows, first, second, genuine = _some_listed(listed, rng)
    shown = np.unique(manifest.labels[rows])
    forged = scored.forged[np.isin(manifest.labels[scored.forged], shown)]
    forged = _some(forged, manifest.labels, rng)
    every = np.concatenate([rows, forged]).astype(np.int64)
    values = _properties(store, every)
    there = np.array([value is not None for value in values], dtype=np.bool_)
    kept = there[first] & there[second]
    pairs, fakes = {}, {}
    properties = next((list(value) for value in values if value is not None), [])
    for name in properties:
        column = _column(values, name)
        try:
            pairs[name] = separation_of_pairs(column, first[kept], second[kept], genuine[kept], manifest.labels[every])
        except InvalidInput:  # one kind of pair only
            continue
    if len(forged):
        is_forged = np.arange(len(every)) >= len(rows)
        for name in properties:
            column = _column(values, name)
            try:
                fakes[name] = separation_of_rows(column[there], is_forged[there], manifest.labels[every][there])
            except InvalidInput:
                continue
    seen = seen_identities(model, store)
    names = {*model.split.split.train, *model.split.split.validation}
    duplicates, compared = _duplicates(model, store, scored.rows, seen)
    return Leakage(pairs, fakes, int(there.sum()), duplicates, compared, tuple(sorted(seen - names)))


def _some(
    rows_N: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """At most `_FILES` rows, evenly from the identities, at least two of each that has them."""
    if not len(rows_N):
        return rows_N
    order = rng.permutation(rows_N)
    order = order[np.argsort(labels[order], kind="stable")]
    own = labels[order]
    turn = np.arange(len(order)) - np.searchsorted(own, own)
    people = np.unique(own)
    chosen = rng.permutation(people)[: _FILES // 2]
    each = max(2, _FILES // len(people))
    return np.sort(order[(turn < each) & np.isin(own, chosen)])


def _some_listed(
    listed: ListedPairs, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rows of so many listed pairs, genuine and impostor in turn, as `_FILES` files make; and the pairs."""
    own, other = (rng.permutation(np.flatnonzero(listed.genuine == kind)) for kind in (True, False))
    used: set[int] = set()
    taken = []
    for n in range(max(len(own), len(other))):
        for some in (own, other):
            if n < len(some) and len(used) < _FILES - 1:
                taken.append(int(some[n]))
                used |= {int(listed.first[some[n]]), int(listed.second[some[n]])}
    rows = np.array(sorted(used), dtype=np.int64)
    first, second = (np.searchsorted(rows, of[taken]) for of in (listed.first, listed.second))
    return rows, first, second, listed.genuine[taken]


def _properties(store: SampleStore, rows: npt.NDArray[np.int64]) -> list[dict[str, float | str] | None]:
    """Of each row's file; None where it cannot be read any more."""
    found: list[dict[str, float | str] | None] = []
    for n in rows:
        path = store.manifest.rows[n].path
        try:
            found.append(file_properties(store.front_end, store.front_end.read_bytes(path), str(path)))
        except DataError:
            found.append(None)
    return found


def _column(values: Sequence[Mapping[str, float | str] | None], name: str) -> npt.NDArray[Any]:
    known = next(value[name] for value in values if value is not None)
    return np.array([("" if isinstance(known, str) else 0.0) if value is None else value[name] for value in values])


def _duplicates(
    model: Model, store: SampleStore, scored: npt.NDArray[np.int64], seen: frozenset[str]
) -> tuple[tuple[dict[str, Any], ...], dict[str, int]]:
    """Copies and near-copies with where they stand, the closest first, and how many samples were compared."""
    manifest = store.manifest
    trained = {*model.split.hashes["train"], *model.split.hashes["validation"]}
    names = {*model.split.split.train, *model.split.split.validation}
    of_scored = frozenset(scored.tolist())
    found: list[dict[str, Any]] = []

    def add(a: int, b: int, where: str, similarity: float) -> None:
        shown = [manifest.relative(manifest.rows[n]) for n in (a, b)]
        found.append({"a": shown[0], "b": shown[1], "where": where, "similarity": similarity})

    same: dict[str, list[int]] = defaultdict(list)
    for n, mark in enumerate(store.hashes):
        same[mark].append(n)
    known: set[tuple[int, int]] = set()
    for mark, copies in same.items():
        first, *others = sorted(copies, key=lambda n: manifest.rows[n].identity not in names)
        for n in others:
            one, other = manifest.rows[first].identity, manifest.rows[n].identity
            known.add((first, n))
            if mark in trained and one != other:
                add(n, first, "training", 1.0)
            elif first in of_scored and n in of_scored:
                add(first, n, "identity" if one == other else "identities", 1.0)
    most = _HEARD if len(store.front_end.shape) == 2 else _COMPARED
    here = _evenly(scored, most)
    there = _evenly(np.array([n for n, row in enumerate(manifest.rows) if row.identity in seen], dtype=np.int64), most)
    small_here, limit = _small(store, here)
    for where, rows, small in (("training", there, None), ("identities", here, small_here)):
        if not len(rows):
            continue
        opposite = _small(store, rows)[0] if small is None else small
        near: list[tuple[float, int, int]] = []
        for start in range(0, len(here), 512):
            alike = small_here[start : start + 512] @ opposite.T
            own = here[start : start + 512, None]
            near_QM = (alike >= limit) & (manifest.labels[own] != manifest.labels[rows])
            if where != "training":
                near_QM &= own < rows
            # Pictures that are all alike make millions of such pairs; the most alike are enough to be told of.
            i, j = np.nonzero(near_QM)
            best = np.argsort(-alike[i, j], kind="stable")[: _MOST_NEAR + len(known)]
            for at in best:
                a, b = int(here[start + i[at]]), int(rows[j[at]])
                if not {(a, b), (b, a)} & known:
                    near.append((float(min(alike[i[at], j[at]], 1.0)), a, b))
            near = sorted(near, reverse=True)[:_MOST_NEAR]
        for similarity, a, b in near:
            add(a, b, where, similarity)
    return tuple(found), {"scored": len(here), "training": len(there)}


def _evenly(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


def _small(store: SampleStore, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], float]:
    """Small grey versions as unit vectors without their mean, and from which similarity on two are copies."""
    out, limit = [], _ALIKE
    for start in range(0, len(rows), 256):
        for sample in store.take(rows[start : start + 256]).numpy():
            grey_HW = store.front_end.picture(sample).astype(np.float32).mean(axis=0)
            if max(grey_HW.shape) < _TINY:
                limit = _TINY_ALIKE
            if max(grey_HW.shape) > _SIDE:
                grey_HW = np.asarray(Image.fromarray(grey_HW).resize((_SIDE, _SIDE), Image.Resampling.BOX))
            flat = grey_HW.ravel() - grey_HW.mean()
            # A blank picture is a copy of nothing: its vector stays (nearly) zero.
            out.append(flat / max(float(np.linalg.norm(flat)), 1.0))
    return np.array(out, dtype=np.float32).reshape(len(rows), -1), limit
