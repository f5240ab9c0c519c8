"""The training doctor: reads a batch's vital signs, says in one plain line what is wrong, and raises the alarm.

A collapsed embedding has a gradient of exactly zero, so a training that has collapsed cannot recover by itself: the
alarm has to come while the embeddings are still shrinking, or the weights have to go back to where they were good.

A remark of a kind is made once. The alarm is raised again whenever its reason returns; what to do about it is the
loop's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, final

from tercet.train.vitals import Vitals

__all__ = ["Doctor", "Remark", "Verdict"]

_PATIENCE: Final = 8  # looks in a row that must agree before anything is said that a single odd batch could cause
_BEGINNING: Final = 100  # the same for embeddings that have been near one point since the first look: some begin there
_COLLAPSED: Final = 0.01  # mean distance, in units of chance, of what is one point for all purposes
_SHRUNK: Final = 0.25  # of the largest mean distance so far: with a loss at the margin, on the way to one point
_APART: Final = 0.05  # mean distance, in units of chance, that no collapsed embedding has
_AT_MARGIN: Final = 0.05  # a relative distance of the loss to the margin that counts as being there
_FEW_DIRECTIONS: Final = 2.0
_IDLE: Final = 0.002  # share of active triplets below which a batch teaches next to nothing
_BURST: Final = 50.0  # gradient norm over its usual size
_DRIFT: Final = 10.0  # of the mean norm, either way


@final
@dataclass(frozen=True, slots=True)
class Remark:
    """One line about a training.

    Args:
        step: When it was made.
        kind: A name for the finding, such as "collapse".
        text: What is wrong, and what to do.
    """

    step: int
    kind: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """The remark as plain JSON values."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look came to.

    Args:
        remarks: Remarks of kinds that have not been made before.
        alarm: The kind of the trouble where the training must not go on like this, else None.
    """

    remarks: tuple[Remark, ...]
    alarm: str | None


_TEXTS: Final = {
    "no-positive": "no two samples of a batch are of one identity, so nothing can be learnt; take more samples of each "
    "identity into a batch, or check the labels",
    "no-negative": "all samples of a batch are of one identity, so nothing can be learnt; take more identities into a "
    "batch, or check the labels",
    "few-positives": "most samples are alone of their identity in their batch and cannot be anchors; take fewer "
    "identities or more samples of each into a batch",
    "collapse": "the embeddings have collapsed to one point: the loss stands at the margin and its gradient is zero; "
    "try a lower learning rate, or mining that does not begin with the hardest negatives",
    "shrinking": "the embeddings are shrinking towards one point and the loss is not falling below the margin; try a "
    "lower learning rate, or mining that does not begin with the hardest negatives",
    "not-finite": "the loss or its gradient is no longer a finite number; try a lower learning rate",
    "burst": "the gradient was many times its usual size for one step; try a lower learning rate",
    "few-directions": "the embeddings lie along one or two directions only; try a longer warm-up, a lower learning "
    "rate or mining that does not begin with the hardest negatives",
    "idle": "almost no triplet is active, so the steps teach next to nothing; try a larger margin, harder mining or "
    "more identities in a batch",
    "conflict": "samples of different identities have the same embedding; the same file may be filed under two "
    "identities",
    "drift": "the length of the embeddings has changed tenfold; normalise them, or lower the learning rate",
}


@final
@dataclass(slots=True)
class Doctor:
    """Judges one training; its state is plain numbers and goes into checkpoints.

    Args:
        most_distance: The largest mean distance seen, in units of chance.
        usual_gradient: A running mean of the gradient's norm.
        first_norm: The mean length of the embeddings at the first look.
        looks: How many looks there were.
        healthy: Whether the last look found weights that are good ones to come back to.
        away: Looks in a row without a sign of collapse in the distances.
        apart: Whether the embeddings have been apart, for a look plainly or for some looks, so that they can collapse.
        counts: For each kind of trouble, the looks in a row that showed it.
        remarks: What has been said.
    """

    most_distance: float = 0.0
    usual_gradient: float = 0.0
    first_norm: float = 0.0
    looks: int = 0
    healthy: bool = False
    away: int = 0
    apart: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def look(self, step: int, vitals: Vitals, *, gradient_norm: float, mean_over_margin: float) -> Verdict:
        """Judge a step.

        Args:
            step: Its number.
            vitals: Of its batch.
            gradient_norm: Of all parameters.
            mean_over_margin: Mean distance of the batch's pairs over the margin, in the loss's units; infinite for the
                soft margin, which has none, and 0 where the loss is not one of triplets.
        """
        self.looks += 1
        self.most_distance = max(self.most_distance, vitals.distance)
        if not self.first_norm and math.isfinite(vitals.norm):
            self.first_norm = vitals.norm
        finite = math.isfinite(vitals.loss) and math.isfinite(gradient_norm)
        # A margin of many times the distances is where both signs of collapse meet; either alone may be healthy.
        at_margin = abs(vitals.to_margin) < _AT_MARGIN and mean_over_margin < _SHRUNK
        stuck = vitals.to_margin > -_AT_MARGIN and vitals.distance < _SHRUNK * self.most_distance
        has_triplets = not math.isnan(vitals.active)
        # One batch that is a little wider than the others is no departure.
        room = vitals.distance >= _COLLAPSED and mean_over_margin >= _SHRUNK
        self.away = self.away + 1 if has_triplets and room else 0
        plainly = vitals.distance >= _APART and mean_over_margin >= 2 * _SHRUNK
        self.apart |= self.away >= _PATIENCE or (has_triplets and plainly)
        found = {
            "no-positive": vitals.without_positive == 1,
            "no-negative": vitals.without_negative == 1,
            "few-positives": 0.5 < vitals.without_positive < 1,
            "not-finite": not finite,
            "collapse": has_triplets and (vitals.distance < _COLLAPSED or at_margin),
            "shrinking": has_triplets and stuck and self.apart,
            "burst": self.looks > 20 and gradient_norm > _BURST * self.usual_gradient > 0,
            "few-directions": has_triplets and vitals.rank < _FEW_DIRECTIONS,
            "idle": has_triplets and vitals.active < _IDLE,
            "conflict": vitals.conflicts > 0 and vitals.distance > 10 * _COLLAPSED,
            "drift": self.first_norm > 0 and not self.first_norm / _DRIFT < vitals.norm < self.first_norm * _DRIFT,
        }
        if finite:
            weight = max(0.02, 1 / self.looks)
            self.usual_gradient += weight * (gradient_norm - self.usual_gradient)
        # A transformer with a new head may begin with all embeddings close together, and needs its warm-up to leave.
        patience = dict.fromkeys(found, _PATIENCE) | {"collapse": _PATIENCE if self.apart else _BEGINNING}
        patience |= dict.fromkeys(("no-positive", "no-negative", "not-finite", "burst", "conflict"), 1)
        told = []
        for kind, is_so in found.items():
            self.counts[kind] = self.counts.get(kind, 0) + 1 if is_so else 0
            if self.counts[kind] >= patience[kind] and not self._told(kind):
                told.append(Remark(step, kind, _TEXTS[kind]))
        self.remarks += told
        alarming = ("not-finite", "collapse", "shrinking")
        alarm = next((kind for kind in alarming if self.counts[kind] >= patience[kind]), None)
        troubled = any(found[kind] for kind in (*alarming, "few-directions", "burst"))
        # Half the way to "shrinking" is no place to come back to: the same way down would begin there again.
        roomy = vitals.distance > 2 * _SHRUNK * self.most_distance
        self.healthy = has_triplets and not troubled and roomy
        return Verdict(tuple(told), alarm)

    def note(self, step: int, kind: str, text: str) -> Remark:
        """Keep a remark of the loop's own: what was done about an alarm."""
        remark = Remark(step, kind, text)
        self.remarks.append(remark)
        return remark

    def recovered(self) -> None:
        """Begin counting anew: the weights have gone back to where they were good."""
        self.counts, self.most_distance, self.healthy = {}, 0.0, False
        self.away, self.apart = 0, False

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Doctor:
        """Read what `to_json` wrote, or did before `apart` was known; KeyError or TypeError where it is damaged."""
        apart = values["most_distance"] >= _APART
        return cls(**{"apart": apart, **values, "remarks": [Remark(**remark) for remark in values["remarks"]]})

    def _told(self, kind: str) -> bool:
        return any(remark.kind == kind for remark in self.remarks)
