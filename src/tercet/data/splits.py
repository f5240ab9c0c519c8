"""Who is trained on and who is kept for the test: divided by identity, never by file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tercet.data.manifest import Manifest
from tercet.errors import DataError, InvalidInput

__all__ = ["Split", "split_identities"]

_PARTS = ("train", "validation", "test")
# Below this many identities with two or more samples, a validation part would leave too little to train on.
_FEWEST_FOR_VALIDATION = 6


@dataclass(frozen=True)
class Split:
    """Identities in three disjoint parts; `validation` may be empty."""

    seed: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        together = self.train + self.validation + self.test
        if len(set(together)) != len(together):
            raise InvalidInput("split: an identity stands in it twice")

    def to_json(self) -> dict[str, object]:
        """The split as JSON values; `from_json` reads it back."""
        return {"seed": self.seed, **{part: list(getattr(self, part)) for part in _PARTS}}

    @classmethod
    def from_json(cls, value: object) -> Split:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: where a part is missing, of the wrong type, or an identity occurs twice.
        """
        if not isinstance(value, Mapping) or value.keys() != {"seed", *_PARTS}:
            raise InvalidInput("split: must be an object with seed, train, validation and test")
        seed = value["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InvalidInput("split: seed must be an integer")
        parts: dict[str, tuple[str, ...]] = {}
        for part in _PARTS:
            names = value[part]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InvalidInput(f"split: {part} must be a list of strings")
            parts[part] = tuple(names)
        return cls(seed, **parts)


def split_identities(manifest: Manifest, *, seed: int, validation: float = 0.15, test: float = 0.25) -> Split:
    """Divide the identities into train, validation and test; the result depends on names, counts and seed alone.

    Forgeries go with the identity that they pretend to be, and do not count below. Identities with two or more samples
    and those with a single one (which can serve as negatives and impostors only) are divided separately, each in the
    order of sha256(seed, identity), so neither the order of files nor the platform nor a library's generator matters.
    Test gets at least two identities with two or more samples, train at least
    one of those and two in all; validation at least two, but none where fewer than six have two or more samples.

    If any row has a `split`, the column is followed: an identity without one is train, and a part that the column does
    not name is carved out of train.

    Args:
        manifest: the samples.
        seed: chooses the order.
        validation: share of the identities, 0 for none.
        test: share of the identities.

    Raises:
        InvalidInput: where the shares leave nothing to train on.
        DataError: where there are too few identities, or one identity is in two parts of the split column.
    """
    if not (0 <= validation and 0 < test and validation + test < 1):
        raise InvalidInput(f"validation={validation}, test={test}: need validation >= 0, test > 0 and a sum below 1")
    counts = manifest.counts()
    if len(counts) < 2:
        only = ", ".join(repr(identity) for identity in counts) or "none"
        raise DataError(f"{manifest.root}: needs two identities at the very least, and has {len(counts)} ({only})")
    parts = _given(manifest)
    named = {part for part in _PARTS if parts[part]}
    multiple = _shuffled((name for name in parts["train"] if counts[name] > 1), seed)
    single = _shuffled((name for name in parts["train"] if counts[name] <= 1), seed)
    # Shares are of all that is divided, so that a part does not shrink because another was taken first.
    of_multiple, of_single = len(multiple), len(single)
    for part, share in (("test", test), ("validation", validation)):
        if part in named or not share or (part == "validation" and of_multiple < _FEWEST_FOR_VALIDATION):
            continue
        several, ones = max(2, _share(share, of_multiple)), _share(share, of_single)
        parts[part] = multiple[:several] + single[:ones]
        multiple, single = multiple[several:], single[ones:]
    parts["train"] = multiple + single
    _check_enough(manifest, counts, parts)
    return Split(seed, *(tuple(sorted(parts[part])) for part in _PARTS))


def _given(manifest: Manifest) -> dict[str, list[str]]:
    """The identities of each part of the split column; everybody in train where there is none."""
    part_of: dict[str, str] = {}
    for row in manifest.rows:
        earlier = part_of.get(row.identity, "")
        if row.split and earlier and row.split != earlier:
            raise DataError(
                f"{manifest.root}: identity {row.identity!r} is in both {earlier} and {row.split};"
                " a split is by identity, so that the test is on identities never seen in training"
            )
        part_of[row.identity] = row.split or earlier
    parts: dict[str, list[str]] = {part: [] for part in _PARTS}
    for identity, part in part_of.items():
        parts[part or "train"].append(identity)
    return parts


def _shuffled(identities: Iterable[str], seed: int) -> list[str]:
    def key(identity: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}\0{identity}".encode()).digest(), identity

    return sorted(identities, key=key)


def _share(fraction: float, count: int) -> int:
    return int(fraction * count + 0.5)


def _check_enough(manifest: Manifest, counts: Mapping[str, int], parts: Mapping[str, list[str]]) -> None:
    def multiple(part: str) -> int:
        return sum(counts[name] > 1 for name in parts[part])

    enough_to_validate = not parts["validation"] or multiple("validation") >= 2
    if len(parts["train"]) < 2 or multiple("train") < 1 or multiple("test") < 2 or not enough_to_validate:
        raise DataError(
            f"{manifest.root}: too few identities with two or more samples to train and to test on different ones:"
            f" {sum(count > 1 for count in counts.values())} of {len(counts)} identities have two or more;"
            f" train gets {len(parts['train'])} identities ({multiple('train')} of them with two or more),"
            f" validation {len(parts['validation'])} ({multiple('validation')}), test {len(parts['test'])}"
            f" ({multiple('test')})"
        )
