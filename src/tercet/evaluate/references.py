"""Verification against several references of an identity, as signatures are verified: who signs has signed before.

For each identity some genuine rows are drawn as its references, and its other genuine rows, its forgeries and genuine
rows of others are questioned against them. That is repeated with other draws: it matters which references one has.

    writer-independent   a row's score is the mean, max, min or median of its cosine similarities to the references
    writer-dependent     a support vector machine of its own for each identity, on the vectors as they are: its
                         references against those of all others (random forgeries); the score is its decision function

EERs are a posteriori: they lie at a threshold found on the very scores they describe, one for all identities ("eer") or
one for each ("eer_user", the mean over identities). "frr" and "far" are not: each identity is judged by the threshold
at which the EER of the *other* folds of identities lies.

Legend: N rows, D embedding width, R references, Q questioned rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate.error_curve import ErrorCurve, error_curve
from tercet.evaluate.similarity import checked_labels, checked_vectors, unit_rows

__all__ = ["DECISIONS", "FUSIONS", "ReferenceProtocol", "against_references"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Scores = Callable[[Rows, Rows], Array]

_FUSE: Final[Mapping[str, Callable[[Array], Array]]] = {
    "mean": lambda scores_QR: np.asarray(scores_QR.mean(axis=1)),
    "max": lambda scores_QR: np.asarray(scores_QR.max(axis=1)),
    "min": lambda scores_QR: np.asarray(scores_QR.min(axis=1)),
    "median": lambda scores_QR: np.asarray(np.median(scores_QR, axis=1)),
}
FUSIONS = tuple(_FUSE)
DECISIONS = ("similarity", "svm")
_GENUINE, _RANDOM = "genuine", "random"
_FOLDS = 5
_MOST_NEGATIVES = 1000
_MOST_LOOKED_UP = 4096  # rows whose similarities are all kept: 128 MiB


@final
@dataclass(frozen=True, slots=True)
class ReferenceProtocol:
    """How rows are questioned against references.

    Args:
        counts: Numbers of references.
        fusion: Of the scores against several references; one of `FUSIONS`. Without a meaning where `decision` is "svm".
        decision: "similarity" (writer-independent) or "svm" (writer-dependent).
        draws: How often the references are drawn.
        random_impostors: Genuine rows of others that are questioned for each identity at most, drawn anew each time.
        seed: Of all draws.

    Raises:
        InvalidInput: A number out of range.
        InvalidOption: An unknown option.
    """

    counts: tuple[int, ...] = (1, 3, 5, 10)
    fusion: str = "max"
    decision: str = "similarity"
    draws: int = 10
    random_impostors: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.counts or any(type(count) is not int or count < 1 for count in self.counts):
            raise InvalidInput(f"references: expected whole numbers of 1 or more, got {self.counts}")
        for name in ("draws", "random_impostors"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.fusion not in FUSIONS:
            raise InvalidOption.unknown("fusion", self.fusion, FUSIONS)
        if self.decision not in DECISIONS:
            raise InvalidOption.unknown("decision", self.decision, DECISIONS)


def against_references(
    x_ND: npt.ArrayLike, labels_N: npt.ArrayLike, kinds_N: npt.ArrayLike, protocol: ReferenceProtocol
) -> dict[str, Any]:
    """The figures of a protocol, for each number of references the mean and standard deviation over the draws.

    Identities with fewer genuine rows than one more than the references have no part in that number's figures; their
    rows still serve as random impostors. A number for which fewer than two identities are left gives None.

    Args:
        x_ND: one vector a row.
        labels_N: int, whose it is, or of a forgery whose it pretends to be; no negative one.
        kinds_N: str, "genuine" or the kind of forgery.
        protocol: what to do.

    Returns:
        {"fusion", "decision", "draws", "threshold_on", "a_posteriori": ["eer", "eer_user"],
        "by_count": {"1": None or {"identities", "questioned": {kind: number}, "eer": {kind: {"mean", "sd"}},
        "eer_user": {kind: ...}, "frr": {"mean", "sd"}, "far": {kind: ...}}, ...}}, the kinds being "random" and those
        of the forgeries; "threshold_on" is the kind of impostor at whose EER the threshold of "frr" and "far" lies.

    Cost: O(draws N Q D). Raises InvalidInput.
    """
    x = unit_rows(checked_vectors(x_ND, "x_ND"))
    labels = checked_labels(labels_N, len(x), "labels_N")
    kinds = np.asarray(kinds_N)
    if kinds.shape != (len(x),) or kinds.dtype.kind != "U":
        raise InvalidInput(f"kinds_N: expected strings [{len(x)}], got {kinds.dtype} {list(kinds.shape)}")
    forged = sorted(set(kinds.tolist()) - {_GENUINE})
    threshold_on = "skilled" if "skilled" in forged else forged[0] if forged else _RANDOM
    similarity = _similarity(x)
    by_count = {
        str(count): _summary(
            [_draw(x, labels, kinds, similarity, protocol, count, draw, threshold_on) for draw in range(protocol.draws)]
        )
        for count in protocol.counts
    }
    return {
        "fusion": None if protocol.decision == "svm" else protocol.fusion,
        "decision": protocol.decision,
        "draws": protocol.draws,
        "threshold_on": threshold_on,
        "a_posteriori": ["eer", "eer_user"],
        "by_count": by_count,
    }


@final
@dataclass(frozen=True)
class _Questioned:
    """The scores of one identity's questioned rows, by kind ("genuine", "random", ...)."""

    by_kind: Mapping[str, Array]


def _draw(
    x_ND: Array,
    labels_N: npt.NDArray[np.int64],
    kinds_N: npt.NDArray[np.str_],
    similarity: Scores,
    protocol: ReferenceProtocol,
    count: int,
    draw: int,
    threshold_on: str,
) -> dict[str, Any] | None:
    """One draw of references: its figures, or None where fewer than two identities have enough rows."""
    rng = np.random.default_rng(np.random.SeedSequence(protocol.seed, spawn_key=(draw,)))
    genuine_rows = np.flatnonzero(kinds_N == _GENUINE)
    of = {
        int(label): rng.permutation(genuine_rows[labels_N[genuine_rows] == label])
        for label in np.unique(labels_N[genuine_rows])
    }
    enrolled = [label for label, rows in of.items() if len(rows) > count]
    if len(enrolled) < 2:
        return None
    references = {label: rows[:count] for label, rows in of.items()}
    questioned = []
    for label in enrolled:
        others = genuine_rows[labels_N[genuine_rows] != label]
        rows = {_GENUINE: of[label][count:]}
        machine = None
        if protocol.decision == "svm":
            negative = np.concatenate([references[other] for other in of if other != label])
            negative = rng.permutation(negative)[:_MOST_NEGATIVES]
            # What the machine was trained on must not question it.
            others = np.setdiff1d(others, negative)
            machine = _machine(x_ND[references[label]], x_ND[negative])
        if len(others):
            rows[_RANDOM] = rng.permutation(others)[: protocol.random_impostors]
        for kind in sorted(set(kinds_N[labels_N == label].tolist()) - {_GENUINE}):
            rows[kind] = np.flatnonzero((labels_N == label) & (kinds_N == kind))
        questioned.append(
            _Questioned(
                {
                    kind: _FUSE[protocol.fusion](similarity(some, references[label]))
                    if machine is None
                    else machine(x_ND[some])
                    for kind, some in rows.items()
                }
            )
        )
    return _figures(questioned, threshold_on, rng)


def _similarity(x_ND: Array) -> Scores:
    """The similarities of some rows and others: looked up where all of them fit into memory, else computed."""
    if len(x_ND) <= _MOST_LOOKED_UP:
        all_NN = x_ND @ x_ND.T
        return lambda rows_Q, rows_R: np.asarray(all_NN[np.ix_(rows_Q, rows_R)])
    return lambda rows_Q, rows_R: np.asarray(x_ND[rows_Q] @ x_ND[rows_R].T)


def _machine(positive_RD: Array, negative_MD: Array) -> Callable[[Array], Array]:
    """A support vector machine with a radial kernel, both classes of equal weight."""
    from sklearn.svm import SVC

    machine = SVC(C=1.0, gamma="scale", class_weight="balanced")
    machine.fit(np.concatenate([positive_RD, negative_MD]), np.repeat([1, 0], [len(positive_RD), len(negative_MD)]))
    return lambda x_QD: np.asarray(machine.decision_function(x_QD), dtype=np.float64)


def _figures(questioned: Sequence[_Questioned], threshold_on: str, rng: np.random.Generator) -> dict[str, Any]:
    kinds = sorted({kind for one in questioned for kind in one.by_kind} - {_GENUINE})
    eer = {kind: _curve(questioned, kind).eer() for kind in kinds}
    eer_user = {}
    for kind in kinds:
        own = [_curve([one], kind).eer() for one in questioned if len(one.by_kind.get(kind, ()))]
        eer_user[kind] = float(np.mean(own))
    # Nobody has a share in the threshold by which they are judged.
    fold = rng.permutation(len(questioned)) % min(_FOLDS, len(questioned))
    rejected: list[Array] = []
    accepted: dict[str, list[Array]] = {kind: [] for kind in kinds}
    for f in range(int(fold.max()) + 1):
        others = [one for one, its in zip(questioned, fold, strict=True) if its != f]
        kind_there = threshold_on if any(len(one.by_kind.get(threshold_on, ())) for one in others) else kinds[0]
        curve = _curve(others, kind_there)
        threshold = float(curve.thresholds[curve.balance()])
        for one, its in zip(questioned, fold, strict=True):
            if its == f:
                rejected.append((one.by_kind[_GENUINE] < threshold).astype(np.float64))
                for kind in kinds:
                    accepted[kind].append((one.by_kind.get(kind, np.empty(0)) >= threshold).astype(np.float64))
    return {
        "identities": len(questioned),
        "questioned": {k: sum(len(one.by_kind.get(k, ())) for one in questioned) for k in (_GENUINE, *kinds)},
        "eer": eer,
        "eer_user": eer_user,
        "frr": float(np.concatenate(rejected).mean()),
        "far": {kind: float(np.concatenate(some).mean()) for kind, some in accepted.items()},
    }


def _curve(questioned: Sequence[_Questioned], kind: str) -> ErrorCurve:
    genuine = np.concatenate([one.by_kind[_GENUINE] for one in questioned])
    impostor = np.concatenate([one.by_kind.get(kind, np.empty(0)) for one in questioned])
    scores = np.concatenate([genuine, impostor])
    return error_curve(scores, np.arange(len(scores)) < len(genuine))


def _summary(draws: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Numbers that are the same in all draws as they are, rates as mean and standard deviation over them."""
    known = [draw for draw in draws if draw is not None]
    if not known:
        return None

    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "sd": float(np.std(values))}

    summary: dict[str, Any] = {"identities": known[0]["identities"], "questioned": known[0]["questioned"]}
    for name in ("eer", "eer_user", "far"):
        summary[name] = {kind: spread([draw[name][kind] for draw in known]) for kind in known[0][name]}
    return summary | {"frr": spread([draw["frr"] for draw in known])}
