"""A threshold with what is known about it: chosen on pairs of people who are in neither training nor test."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import numpy.typing as npt
from scipy.special import betaincinv  # not scipy.stats, which takes most of a second to import

from tercet.errors import InvalidInput
from tercet.evaluate.error_curve import between, checked_scores, error_curve, least_impostors

__all__ = ["Calibration", "calibrate"]

_USELESS_FNMR = 0.95
_USELESS_EER = 0.45


@final
@dataclass(frozen=True)
class Calibration:
    """A threshold on the similarity (accept where score >= threshold) and the evidence for it.

    `achieved_fmr` and `achieved_fnmr` were counted on the calibration pairs, with 95 % intervals; `id` is a hash of all
    the other fields, so that a decision can name the calibration it rests on.
    """

    id: str
    threshold: float
    target_fmr: float
    achieved_fmr: float
    achieved_fnmr: float
    impostor_pairs: int
    genuine_pairs: int
    fmr_interval: tuple[float, float]
    fnmr_interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, intervals as lists of two."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """The calibration that `to_json` wrote; InvalidInput for anything else, also where a field was changed."""
        names = [f.name for f in fields(cls)]
        if not isinstance(value, dict) or set(value) != set(names):
            raise InvalidInput(f"calibration: expected the fields {', '.join(names)}")
        content: dict[str, Any] = {k: _checked_field(k, v) for k, v in value.items()}
        if content["id"] != _content_id(content):
            raise InvalidInput("calibration: the fields do not belong to the id; it was changed after it was written")
        return cls(**content)


def calibrate(scores: npt.ArrayLike, genuine: npt.ArrayLike, *, target_fmr: float) -> Calibration:
    """The lowest threshold whose FMR on these pairs does not exceed `target_fmr`.

    It lies half way between the lowest accepted score and the next one below, so that rounding does not decide. The
    intervals are those of Clopper and Pearson, as if pairs were independent; pairs that share people are not, so the
    true ones are wider.

    `scores` [P] numbers, `genuine` [P] bool, `target_fmr` in (0, 1). Cost: O(P log P). Raises InvalidInput where there
    are fewer than 30 / target_fmr impostor pairs, and where the two kinds overlap so much that no threshold is of use
    (EER >= 0.45, or FNMR >= 0.95 at the threshold); the message has the numbers.
    """
    s, g = checked_scores(scores, genuine)
    if not 0 < target_fmr < 1:
        raise InvalidInput(f"target_fmr: expected a rate between 0 and 1, got {target_fmr}")
    curve = error_curve(s, g)
    least = least_impostors(target_fmr)
    if curve.impostor < least:
        raise InvalidInput(
            f"target_fmr: {target_fmr} needs at least {least} impostor pairs (30 errors expected), got {curve.impostor}"
        )
    point = curve.last_within(target_fmr)
    errors, misses = int(curve.false_matches[point]), int(curve.false_non_matches[point])
    eer = curve.eer()
    if eer >= _USELESS_EER or misses >= _USELESS_FNMR * curve.genuine:
        raise InvalidInput(
            f"scores: genuine and impostor pairs overlap too much to set a threshold: EER {eer:.3f}, and FNMR "
            f"{misses / curve.genuine:.3f} at FMR <= {target_fmr} "
            f"({curve.genuine} genuine, {curve.impostor} impostor pairs)"
        )
    content: dict[str, Any] = {
        "threshold": between(float(curve.thresholds[point]), float(curve.thresholds[point + 1])),
        "target_fmr": float(target_fmr),
        "achieved_fmr": errors / curve.impostor,
        "achieved_fnmr": misses / curve.genuine,
        "impostor_pairs": curve.impostor,
        "genuine_pairs": curve.genuine,
        "fmr_interval": _clopper_pearson(errors, curve.impostor),
        "fnmr_interval": _clopper_pearson(misses, curve.genuine),
    }
    return Calibration(id=_content_id(content), **content)


def _clopper_pearson(errors: int, trials: int) -> tuple[float, float]:
    low = float(betaincinv(errors, trials - errors + 1, 0.025)) if errors else 0.0
    high = float(betaincinv(errors + 1, trials - errors, 0.975)) if errors < trials else 1.0
    return low, high


def _content_id(content: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in content.items() if k != "id"}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _checked_field(name: str, value: object) -> Any:
    if name == "id":
        good = isinstance(value, str)
    elif name.endswith("_pairs"):
        good = isinstance(value, int) and not isinstance(value, bool)
    elif name.endswith("_interval"):
        good = isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(v) for v in value)
        value = tuple(value) if good and isinstance(value, list) else value
    else:
        good = _is_number(value)
    if not good:
        raise InvalidInput(f"calibration: {name} has no meaning: {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
