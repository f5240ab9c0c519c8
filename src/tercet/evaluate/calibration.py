"""A threshold with what is known about it: chosen on pairs of people who are in neither training nor test."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate.error_curve import between, checked_scores, error_curve, least_impostors
from tercet.evaluate.likelihood import LlrMap, cllr, fit_llr
from tercet.evaluate.rates import ErrorRate, binomial_interval, error_rate

__all__ = ["NORMS", "Calibration", "calibrate"]

NORMS: Final = ("none", "as-norm")
_USELESS_FNMR = 0.95
_USELESS_EER = 0.45
_OPTIONAL: Final = frozenset(
    {
        "identities",
        "genuine_identities",
        "fmr_effective",
        "fnmr_effective",
        "llr_slope",
        "llr_offset",
        "cllr",
        "min_cllr",
        "norm",
        "impostors",
    }
)


@final
@dataclass(frozen=True)
class Calibration:
    """A threshold on the similarity (accept where score >= threshold) and the evidence for it.

    `achieved_fmr` and `achieved_fnmr` were counted on the calibration pairs. `fmr_interval` and `fnmr_interval` are the
    95 % intervals of the rates among all people of the kind that the `identities` were drawn from (`ErrorRate`);
    `fmr_effective` and `fnmr_effective` say how many independent pairs the counted ones are worth, and `foresee_fmr`
    what another set of people may show. llr = llr_slope * score + llr_offset is the log-likelihood ratio of a score,
    `cllr` its cost on the calibration pairs and `min_cllr` that of the best non-decreasing map (PAV). `norm` is
    "as-norm" where the scores are normalised ones. `impostors` says of what kind the impostors were ("random": samples
    of other identities; "skilled": forgeries of the same; "all"). `id` is a hash of all the other fields that are not
    None, so that a decision can name the calibration it rests on. Fields that an older calibration lacks are None.
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
    identities: int | None = None
    genuine_identities: int | None = None
    fmr_effective: float | None = None
    fnmr_effective: float | None = None
    llr_slope: float | None = None
    llr_offset: float | None = None
    cllr: float | None = None
    min_cllr: float | None = None
    norm: str | None = None
    impostors: str | None = None

    @property
    def llr(self) -> LlrMap | None:
        """The map from score to log-likelihood ratio, where there is one."""
        if self.llr_slope is None or self.llr_offset is None:
            return None
        return LlrMap(self.llr_slope, self.llr_offset)

    def foresee_fmr(self, identities: npt.ArrayLike) -> tuple[float, float] | None:
        """Where the FMR measured on impostor pairs of other people lies in 95 of 100 cases; None without identities.

        `identities` [P, 2] are whose the samples of those pairs are. The interval allows for the sampling of the people
        calibrated on and of those measured on. It is what the calibration promises, for people of the same kind.
        """
        return self._foresee(self.achieved_fmr, self.impostor_pairs, self.identities, self.fmr_effective, identities)

    def foresee_fnmr(self, identities: npt.ArrayLike) -> tuple[float, float] | None:
        """The same for the FNMR, of the identities [P, 2] of genuine pairs."""
        return self._foresee(
            self.achieved_fnmr, self.genuine_pairs, self.genuine_identities, self.fnmr_effective, identities
        )

    def _foresee(
        self, value: float, pairs: int, people: int | None, effective: float | None, identities: npt.ArrayLike
    ) -> tuple[float, float] | None:
        if people is None or effective is None:
            return None
        here = ErrorRate(value, pairs, people, effective)
        codes = np.asarray(identities)
        return here.foresee(len(codes), len(np.unique(codes)))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, intervals as lists of two."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """The calibration that `to_json` wrote; InvalidInput for anything else, also where a field was changed."""
        names = [f.name for f in fields(cls)]
        if not isinstance(value, dict) or not set(names) - set(_OPTIONAL) <= set(value) <= set(names):
            raise InvalidInput(f"calibration: expected the fields {', '.join(names)}")
        content: dict[str, Any] = {k: _checked_field(k, v) for k, v in value.items()}
        if content["id"] != _content_id(content):
            raise InvalidInput("calibration: the fields do not belong to the id; it was changed after it was written")
        return cls(**content)


def calibrate(
    scores: npt.ArrayLike,
    genuine: npt.ArrayLike,
    *,
    target_fmr: float,
    identities: npt.ArrayLike | None = None,
    norm: str = "none",
    impostors: str | None = None,
) -> Calibration:
    """The lowest threshold whose FMR on these pairs does not exceed `target_fmr`, and the log-likelihood-ratio map.

    The threshold lies half way between the lowest accepted score and the next one below, so that rounding does not
    decide. With `identities` [P, 2], whose the samples of each pair are, the intervals allow for pairs that share
    people (`error_rate`); without, they are those of Clopper and Pearson as if pairs were independent, and too narrow.

    `scores` [P] numbers, `genuine` [P] bool, `target_fmr` in (0, 1), `norm` what the scores are normalised by,
    `impostors` the name of the kind of impostor that they show. Cost: O(P log P). Raises InvalidInput where there are
    fewer than 30 / target_fmr impostor pairs, and where the two kinds overlap so much that no threshold is of use
    (EER >= 0.45, or FNMR >= 0.95 at the threshold); the message has the numbers.
    """
    if norm not in NORMS:
        raise InvalidOption.unknown("norm", norm, NORMS)
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
    threshold = between(float(curve.thresholds[point]), float(curve.thresholds[point + 1]))
    fmr, fnmr = errors / curve.impostor, misses / curve.genuine
    llr = fit_llr(s, g)
    content: dict[str, Any] = {
        "threshold": threshold,
        "target_fmr": float(target_fmr),
        "achieved_fmr": fmr,
        "achieved_fnmr": fnmr,
        "impostor_pairs": curve.impostor,
        "genuine_pairs": curve.genuine,
        "fmr_interval": binomial_interval(fmr, curve.impostor),
        "fnmr_interval": binomial_interval(fnmr, curve.genuine),
        "llr_slope": llr.slope,
        "llr_offset": llr.offset,
        "cllr": _sorted_cllr(llr, s, g),
        "min_cllr": curve.min_cllr(),
        "norm": None if norm == "none" else norm,
        "impostors": impostors,
    }
    if identities is not None:
        codes = np.asarray(identities)
        if codes.shape != (len(s), 2):
            raise InvalidInput(f"identities: expected [{len(s)}, 2], got shape {list(codes.shape)}")
        accepted = s >= threshold
        match, miss = error_rate(accepted[~g], codes[~g]), error_rate(~accepted[g], codes[g])
        content |= {
            "fmr_interval": match.interval(),
            "fnmr_interval": miss.interval(),
            "identities": match.identities,
            "genuine_identities": miss.identities,
            "fmr_effective": match.effective,
            "fnmr_effective": miss.effective,
        }
    return Calibration(id=_content_id(content), **content)


def _sorted_cllr(llr: LlrMap, s: npt.NDArray[np.float64], g: npt.NDArray[np.bool_]) -> float:
    """Cllr with its sums in the order of the scores, so that the order of the pairs leaves no trace in the id."""
    order = np.lexsort((g, s))
    return cllr(llr(s[order]), g[order])


def _content_id(content: dict[str, Any]) -> str:
    kept = {k: v for k, v in content.items() if k != "id" and v is not None}
    text = json.dumps(kept, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _checked_field(name: str, value: object) -> Any:
    if name == "id":
        good = isinstance(value, str)
    elif name in _OPTIONAL and value is None:
        good = True
    elif name == "norm":
        good = value in NORMS[1:]
    elif name == "impostors":
        good = isinstance(value, str)
    elif name.endswith(("_pairs", "identities")):
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
