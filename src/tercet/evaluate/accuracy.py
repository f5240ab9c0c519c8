"""Accuracy with a threshold from other pairs than the scored ones.

Legend: P pairs; F folds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import between, checked_scores
from tercet.evaluate.pairs import Pairs
from tercet.evaluate.similarity import checked_labels

__all__ = ["cross_validated_decisions", "identity_folds", "standard_error"]


def identity_folds(pairs: Pairs, labels_N: npt.ArrayLike, *, count: int = 10, seed: int = 0) -> npt.NDArray[np.int64]:
    """The folds [P, 2] of both identities of each pair, for `verification(..., folds=)`.

    Identities, not pairs, are dealt out to `count` folds (fewer where there are fewer identities), seeded and in equal
    numbers, so that no identity has a share in the threshold by which it is judged. A row with a negative label is an
    identity of its own. Raises InvalidInput.
    """
    labels = checked_labels(labels_N, len(np.asarray(labels_N)), "labels_N")
    identity = identity_codes(labels)
    names = int(identity.max(initial=-1)) + 1
    if count < 2:
        raise InvalidInput(f"count: expected at least 2, got {count}")
    fold = np.random.default_rng(seed).permutation(names) % max(1, min(count, names))
    return fold[np.stack([identity[pairs.first], identity[pairs.second]], axis=1)]


def identity_codes(labels_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels as 0, 1, 2, ...; every row with a negative label gets a code of its own, after the others."""
    codes = np.empty(len(labels_N), dtype=np.int64)
    known = labels_N >= 0
    names, codes[known] = np.unique(labels_N[known], return_inverse=True)
    codes[~known] = len(names) + np.arange(int((~known).sum()))
    return codes


def cross_validated_decisions(
    scores: npt.ArrayLike, genuine: npt.ArrayLike, folds: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_] | None:
    """Which pairs are accepted [P], each judged by a threshold chosen on pairs that share no fold with it.

    `folds` holds integers: [P], the fold of each pair (as in the ten folds of LFW), or [P, 2], the folds of its two
    identities (`identity_folds`). Without it the pairs are dealt to ten folds at random with a fixed seed, in a way
    that does not depend on their order; then one identity may stand on both sides.

    The threshold is half way between the two scores of the other pairs where their accuracy is greatest; of several
    such places the highest counts. None where some fold leaves no genuine or no impostor pair to choose on. Cost: one
    sort and O(P) for every fold, or every pair of folds. Raises InvalidInput.
    """
    s, g = checked_scores(scores, genuine)
    if folds is None:
        # By score, then kind: pairs that are equal in both are interchangeable, so the input's order leaves no trace.
        order = np.lexsort((g, s))[::-1]
        one = other = np.random.default_rng(0).permutation(len(s)) % min(10, len(s))
        count = min(10, len(s))
    else:
        given = np.asarray(folds)
        if given.shape not in ((len(s),), (len(s), 2)) or not np.issubdtype(given.dtype, np.integer):
            shape = list(given.shape)
            raise InvalidInput(f"folds: expected integers [{len(s)}] or [{len(s)}, 2], got {given.dtype} {shape}")
        order = np.argsort(s)[::-1]
        names, codes = np.unique(given, return_inverse=True)
        codes = codes.reshape(len(s), -1)[order]
        one, other, count = codes.min(axis=1), codes.max(axis=1), len(names)
    small = np.min_scalar_type(count)
    one, other = one.astype(small), other.astype(small)
    s, g = s[order], g[order]
    last = np.append(np.flatnonzero(s[1:] != s[:-1]), len(s) - 1)
    sign = np.where(g, 1, -1).astype(np.int8)
    accepted = np.zeros(len(s), dtype=np.bool_)
    for cell in np.flatnonzero(np.bincount(one.astype(np.int64) * count + other)):
        a, b = divmod(int(cell), count)
        others = (one != a) & (other != a) & (one != b) & (other != b)
        threshold = _best_threshold(s, sign, last, others)
        if threshold is None:
            return None
        here = np.flatnonzero((one == a) & (other == b))
        accepted[here] = s[here] >= threshold
    result = np.empty_like(accepted)
    result[order] = accepted
    return result


def standard_error(correct: npt.NDArray[np.bool_], folds: npt.ArrayLike | None) -> float | None:
    """The standard error of the mean accuracy of the folds [P]: their standard deviation over the root of their number.

    None without named folds, for folds of identities [P, 2], whose cells are not independent, and for one fold.
    """
    given = None if folds is None else np.asarray(folds)
    if given is None or given.ndim != 1:
        return None
    fold = np.unique(given, return_inverse=True)[1]
    shares = np.bincount(fold, correct) / np.bincount(fold)
    return float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None


def _best_threshold(
    s: npt.NDArray[np.float64],
    sign: npt.NDArray[np.int8],
    last: npt.NDArray[np.int64],
    others: npt.NDArray[np.bool_],
) -> float | None:
    """The threshold of greatest accuracy on the pairs that `others` marks; all arrays in descending order of score.

    `sign` is +1 for a genuine and -1 for an impostor pair, `last` where each distinct score ends.
    """
    voted = sign * others
    if voted.max() != 1 or voted.min() != -1:
        return None
    # Correct decisions beyond those of accepting nothing, at every distinct score.
    gain = np.cumsum(voted, dtype=np.int32 if len(s) < 2**31 else np.int64)[last]
    best = int(np.argmax(gain))
    if gain[best] <= 0:
        return float(np.nextafter(s[np.argmax(others)], np.inf))
    # The first place of the maximum is where one of these pairs stands; the next one lower bounds the threshold.
    after = int(last[best]) + 1
    lower = after + int(np.argmax(others[after:])) if others[after:].any() else None
    return float(s[last[best]]) if lower is None else between(float(s[last[best]]), float(s[lower]))
