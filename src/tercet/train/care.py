"""What keeps a training healthy: mining that hardens as the network learns, and a way back when it goes wrong.

    mining     "auto" begins with all triplets, goes on to the semi-hard and then to the hardest as fewer are active;
               to the semi-hard also where all of them do not take the embeddings apart
    alarm      mining one stage easier (where all triplets are stuck at one point: the semi-hard ones), half the
               learning rate or the usual one where that is less, and the weights go back to the best that were healthy
    giving up  after three of those, with a message that says why

The state is a few numbers, all functions of the steps: a resumed training goes the same way.

Legend: B rows of the batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, final

from torch import Tensor

from tercet.errors import RunError
from tercet.train.doctor import Doctor, Remark, Verdict
from tercet.train.vitals import Vitals, measure

__all__ = ["AUTO_MINING", "Care"]

AUTO_MINING: Final = "auto"
_STAGES: Final = ("all", "semihard", "hard")
_HARDNESS: Final = {  # the stage that a named mining mode stands at, for the case of an alarm
    "auto": 0,
    "all": 0,
    "random": 1,
    "distance_weighted": 1,
    "semihard": 1,
    "easy_positive": 2,
    "hard_negative": 2,
    "hard": 2,
}
_NEXT_BELOW: Final = (0.4, 0.04)  # share of all triplets that is active: below it the next stage begins
_NEAR: Final = 0.05  # mean distance, in units of chance, of embeddings that all triplets together do not take apart
_SPAN: Final = 25  # steps over which the share is averaged, and which a stage lasts at least
_TRIES: Final = 3
_SLOWER: Final = 0.5  # factor on the learning rate after an alarm
_USUAL_RATE: Final = 1e-3  # of AdamW, which an alarm makes the most there is: half of a wild rate is a wild rate


@final
@dataclass(slots=True)
class Care:
    """The state of one training's care.

    Args:
        mining: What the user asked for: "auto", or one mining mode for the whole training.
        stage: Of the curriculum; where one mode was asked for, how hard that is, and easier after an alarm.
        stage_steps: Steps since the stage began.
        active: Running mean of the share of active triplets.
        near: Steps in a row with embeddings close together.
        highest: The hardest stage still allowed; an alarm lowers it.
        rate: Factor on the learning rate.
        alarms: How many there were.
        doctor: Judges the batches.
    """

    mining: str = AUTO_MINING
    stage: int = -1
    stage_steps: int = 0
    active: float = 1.0
    near: int = 0
    highest: int = len(_STAGES) - 1
    rate: float = 1.0
    alarms: int = 0
    doctor: Doctor = field(default_factory=Doctor)

    def __post_init__(self) -> None:
        if self.stage < 0:
            self.stage = _HARDNESS[self.mining]

    @property
    def mining_now(self) -> str:
        """The mining mode of the next step."""
        as_asked = self.mining != AUTO_MINING and self.stage == _HARDNESS[self.mining]
        return self.mining if as_asked else _STAGES[self.stage]

    def look(
        self,
        step: int,
        x_BD: Tensor,
        labels_B: Tensor,
        *,
        loss: Tensor,
        margin: float | None,
        distance: str,
        gradient_norm: float,
        triplets: bool = True,
        agree: Callable[[Sequence[float]], list[float]] = list,
    ) -> tuple[Vitals, Verdict]:
        """Measure and judge a step before its weights are changed, and move the curriculum.

        Args:
            step: Its number.
            x_BD: Embeddings.
            labels_B: Their identities.
            loss: Of the batch.
            margin: Of the loss; None for the soft one.
            distance: Of the loss.
            gradient_norm: Of all parameters.
            triplets: Whether the loss is that of triplets. That of a warm start says nothing of the margin, and the
                curriculum waits.
            agree: Replaces numbers by those that all processes of the training go by.
        """
        margin = margin if triplets else None
        vitals = measure(x_BD, labels_B, loss=loss, margin=margin, distance=distance).agreed(agree)
        largest = {"squared": 2.0, "euclidean": 2.0**0.5, "cosine": 1.0}[distance]  # mean by chance, on the unit sphere
        typical = largest * (vitals.distance**0.5 if distance == "euclidean" else vitals.distance)
        verdict = self.doctor.look(
            step,
            vitals,
            gradient_norm=gradient_norm,
            mean_over_margin=typical / margin if margin else float("inf") if triplets else 0.0,
        )
        if triplets:
            self._advance(vitals)
        return vitals, verdict

    def alarm(self, step: int, kind: str, *, learning_rate: float) -> Remark:
        """Take the measures that a few numbers can; the loop puts the weights back.

        Args:
            step: Its number.
            kind: Of the trouble.
            learning_rate: Peak of the schedule.

        Raises:
            RunError: It was the third time.
        """
        self.alarms += 1
        if self.alarms > _TRIES:
            why = next((remark.text for remark in self.doctor.remarks if remark.kind == kind), kind)
            raise RunError(f"training given up at step {step} after {_TRIES} fresh starts: {why}")
        self.rate = min(self.rate * _SLOWER, _USUAL_RATE / learning_rate)
        # At one point all triplets say the same, pull and push as much; the semi-hard ones can still leave it. Nor are
        # all of them the way back for embeddings that have never been apart: such ones they do not take apart.
        semihard, at_one_point = _STAGES.index("semihard"), kind in ("collapse", "shrinking")
        stuck = at_one_point and (self.stage == 0 or (self.stage == semihard and not self.doctor.apart))
        self.stage = semihard if stuck else max(0, self.stage - 1)
        self.highest, self.stage_steps, self.near = self.stage, 0, 0
        self.doctor.recovered()
        return self.doctor.note(
            step,
            f"fresh start {self.alarms}",
            f"went back to healthy weights; learning rate times {self.rate:.2g}, mining {self.mining_now!r}",
        )

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Care:
        """Read what `to_json` wrote; KeyError or TypeError where it is damaged."""
        return cls(**{**values, "doctor": Doctor.from_json(values["doctor"])})

    def _advance(self, vitals: Vitals) -> None:
        self.stage_steps += 1
        if vitals.active == vitals.active:  # NaN: no valid triplet, no news
            self.active += (vitals.active - self.active) / _SPAN
            self.near = self.near + 1 if vitals.distance < _NEAR else 0
        if (
            self.mining == AUTO_MINING
            and self.stage < self.highest
            and self.stage_steps >= _SPAN
            and (self.active < _NEXT_BELOW[self.stage] or (self.stage == 0 and self.near >= _SPAN))
        ):
            self.stage, self.stage_steps, self.near = self.stage + 1, 0, 0
