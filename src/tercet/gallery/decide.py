"""Decisions over a gallery: is it the claimed person, who is it, or nobody; by the run's calibration and nothing else.

N templates, D embedding width, T probes of one tile, I identities
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate import Calibration
from tercet.gallery.answers import Match
from tercet.gallery.gallery import Gallery

if TYPE_CHECKING:
    from tercet.run import Decision

__all__ = ["Claim", "Identification", "RunnerUp", "identify", "identify_nothing", "runner_up_margin", "verify_claim"]

_TILE_ROWS: Final = 256
_LEAST_STRANGERS: Final = 30  # that may be accepted: fewer say little about a rate
_WORST_FPIR: Final = 0.3  # a margin that lets more strangers pass is not worth its name
_UNCALIBRATED: Final = "this run has no calibrated threshold"
_NORMALISED: Final = "this run's calibration is for normalised scores, which a gallery does not compute"


@final
@dataclass(frozen=True)
class RunnerUp:
    """By how much the best identity must lead, and what that costs; measured on the gallery's own templates.

    Every template is taken in turn as the probe. Its own person left out of the gallery, it is a stranger's: the margin
    is the smallest at which no more than `target_fpir` of these strangers are identified as somebody. Only the template
    left out, it is an enrolled person's: `fnir` is the share of those that are not identified as themselves (None where
    nobody has two templates).

    Args:
        margin: Best identity's score less that of the runner-up.
        target_fpir: The rate aimed at.
        achieved_fpir: The rate at threshold and margin.
        fnir: What both cost enrolled people.
        probes: Templates that were taken as probes.
        identities: People in the gallery then.
        threshold: The calibration's.
        calibration: Its id; the margin belongs to it.
        balance: The least rate at which no larger share of enrolled people is missed than of strangers identified;
            None where `fnir` is. Far above `target_fpir`, it says that the model is too weak for that target.
    """

    margin: float
    target_fpir: float
    achieved_fpir: float
    fnir: float | None
    probes: int
    identities: int
    threshold: float
    calibration: str
    balance: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@final
@dataclass(frozen=True)
class Claim:
    """A decision about a claimed identity; the score is that of the most similar of its `references` templates."""

    decision: Decision
    identity: str
    references: int

    def to_json(self) -> dict[str, Any]:
        """The keys of `tercet verify --json`, and claim and references."""
        return {**self.decision.to_json(), "claim": self.identity, "references": self.references}


@final
@dataclass(frozen=True)
class Identification:
    """Who a sample shows.

    Args:
        decision: "identified"; "unknown" where the best score is below the threshold or leads by too little;
            "undecided" where no calibration says what a score means, or the sample holds too little.
        reason: In words.
        identity: Who; None unless identified.
        score: Of the best identity, the most similar of its templates; None in an empty gallery.
        margin_to_runner_up: The best identity's lead over the second; None where there is no second.
        candidates: The best template of the best identities.
        threshold: Scores from here on are accepted.
        runner_up: The margin asked for and what it was measured on; None where none is known: no lead is asked for.
        calibration: How the threshold was chosen.
        model: The model's fingerprint.
        comparisons: Templates that the sample was compared with.
        expected_fpir: 1 - (1 - FMR)^comparisons: how often somebody who is not enrolled reaches the threshold with
            somebody who is, were the comparisons independent. It grows with the gallery.
        expected_fpir_ci95: The same from both ends of the FMR's interval.
    """

    decision: Literal["identified", "unknown", "undecided"]
    reason: str
    identity: str | None
    score: float | None
    margin_to_runner_up: float | None
    candidates: tuple[Match, ...]
    threshold: float | None
    runner_up: RunnerUp | None
    calibration: Calibration | None
    model: str
    comparisons: int
    expected_fpir: float | None
    expected_fpir_ci95: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """The keys of `tercet identify --json`."""
        from tercet.run import Decision

        shown = Decision("undecided", 0.0, self.threshold, self.calibration, self.model).to_json()
        return {
            "decision": self.decision,
            "reason": self.reason,
            "identity": self.identity,
            "score": self.score,
            "margin_to_runner_up": self.margin_to_runner_up,
            "candidates": [{"identity": c.identity, "score": c.score, "path": c.path} for c in self.candidates],
            "threshold": self.threshold,
            "runner_up": self.runner_up and self.runner_up.to_json(),
            "calibration": shown["calibration"],
            "model": self.model,
            "comparisons": self.comparisons,
            "expected_fpir": self.expected_fpir,
            "expected_fpir_ci95": self.expected_fpir_ci95 and list(self.expected_fpir_ci95),
        }


def verify_claim(
    gallery: Gallery, calibration: Calibration | None, probe_D: npt.NDArray[np.float32], identity: str
) -> Claim:
    """Is it the claimed person? Compared with each of the person's templates; the most similar counts.

    Raises:
        GalleryError: Nobody of that name is enrolled.
    """
    from tercet.run import Decision  # with torch, which the rest of a gallery does without

    found = gallery.of(identity, probe_D)
    score = found[0].score
    if calibration is None or not _of_plain_scores(calibration):
        reason = _UNCALIBRATED if calibration is None else _NORMALISED
        return Claim(Decision("undecided", score, None, None, gallery.model, reason), identity, len(found))
    decided: Literal["match", "no-match"] = "match" if score >= calibration.threshold else "no-match"
    decision = Decision(decided, score, calibration.threshold, calibration, gallery.model)
    return Claim(decision, identity, len(found))


def identify(
    gallery: Gallery,
    calibration: Calibration | None,
    probe_D: npt.NDArray[np.float32],
    *,
    candidates: int = 5,
    tags: tuple[str, ...] = (),
) -> Identification:
    """Who of those enrolled is it, or nobody?

    Identified where the best identity reaches the calibrated threshold and leads the runner-up identity by the margin
    that `runner_up_margin` found for this gallery and calibration. A person's second template is no runner-up.
    """
    found = gallery.candidates(probe_D, max(2, candidates), tags=tags)
    best = found[0] if found else None
    lead = best.score - found[1].score if best is not None and len(found) > 1 else None
    comparisons = gallery.count(tags=tags)
    usable = calibration if calibration is not None and _of_plain_scores(calibration) else None
    asked = _margin_in_force(gallery, usable)
    identity = None
    decision: Literal["identified", "unknown", "undecided"] = "unknown"
    if best is None:
        reason = "nobody is enrolled" + (" with these tags" if tags else "")
    elif usable is None:
        decision, reason = "undecided", _UNCALIBRATED if calibration is None else _NORMALISED
    elif best.score < usable.threshold:
        reason = f"the best score {best.score:.3f} is below the threshold {usable.threshold:.3f}"
    elif asked is not None and lead is not None and lead < asked.margin:
        reason = f"leads the runner-up by {lead:.3f}, less than the {asked.margin:.3f} asked for"
    else:
        decision, identity, reason = "identified", best.identity, f"score {best.score:.3f}"
    return Identification(
        decision=decision,
        reason=reason,
        identity=identity,
        score=best and best.score,
        margin_to_runner_up=lead,
        candidates=tuple(found[:candidates]),
        threshold=usable and usable.threshold,
        runner_up=asked,
        calibration=usable,
        model=gallery.model,
        comparisons=comparisons,
        expected_fpir=usable and expected_fpir(usable.achieved_fmr, comparisons),
        expected_fpir_ci95=usable
        and (
            expected_fpir(usable.fmr_interval[0], comparisons),
            expected_fpir(usable.fmr_interval[1], comparisons),
        ),
    )


def identify_nothing(gallery: Gallery, calibration: Calibration | None, reason: str) -> Identification:
    """The answer to a sample that holds too little to be compared with anybody, and why."""
    usable = calibration if calibration is not None and _of_plain_scores(calibration) else None
    return Identification(
        decision="undecided",
        reason=reason,
        identity=None,
        score=None,
        margin_to_runner_up=None,
        candidates=(),
        threshold=usable and usable.threshold,
        runner_up=_margin_in_force(gallery, usable),
        calibration=usable,
        model=gallery.model,
        comparisons=0,
        expected_fpir=None,
        expected_fpir_ci95=None,
    )


def expected_fpir(fmr: float, comparisons: int) -> float:
    """1 - (1 - FMR)^N: the share of strangers whom one of N independent comparisons accepts."""
    return float(-np.expm1(comparisons * np.log1p(-fmr))) if fmr < 1 else float(comparisons > 0)


def runner_up_margin(
    x_ND: npt.NDArray[np.float32],
    identities: tuple[str, ...],
    calibration: Calibration,
    *,
    target_fpir: float | None = None,
    max_probes: int = 5000,
    seed: int = 0,
) -> RunnerUp | None:
    """The lead to ask of the best identity, measured on a gallery's own templates; `RunnerUp` says how.

    None where there are fewer than three identities, or where even a rate of 0.3 would be decided by fewer than 30
    strangers. The rate aimed at is the calibration's target FMR, or the lowest that 30 strangers decide.

    Cost: O(P N D) for P probes, in tiles.

    Raises:
        InvalidInput: A rate that is asked for and is no rate, or is decided by fewer than 30 strangers.
    """
    if not _of_plain_scores(calibration):
        return None
    names, label_N = np.unique(np.asarray(identities), return_inverse=True)
    probes = np.arange(len(x_ND))
    if len(probes) > max_probes:
        probes = np.sort(np.random.default_rng(seed).choice(len(x_ND), max_probes, replace=False))
    least = _LEAST_STRANGERS / max(1, len(probes))
    if target_fpir is not None and not least <= target_fpir < 1:
        raise InvalidInput(
            f"fpir={target_fpir:g}: {len(probes)} templates allow a rate from {min(1.0, least):.2g} to below 1"
        )
    if len(names) < 3 or (target_fpir is None and least > _WORST_FPIR):
        return None
    target = max(calibration.target_fmr, least) if target_fpir is None else target_fpir
    first_P, lead_P, own_P = _ranked(x_ND, label_N, probes)
    threshold = calibration.threshold
    passed = np.sort(lead_P[first_P >= threshold])[::-1]
    allowed = int(target * len(probes))
    margin = 0.0
    if len(passed) > allowed:
        margin = float(np.nextafter(passed[allowed], np.inf))
        if allowed and passed[allowed - 1] > passed[allowed]:
            margin = float((passed[allowed - 1] + passed[allowed]) / 2)
    mated_P = np.isfinite(own_P)
    found_P = (own_P >= threshold) & (own_P - first_P >= margin)
    return RunnerUp(
        margin=margin,
        target_fpir=float(target),
        achieved_fpir=float(((first_P >= threshold) & (lead_P >= margin)).mean()),
        fnir=float(1 - found_P[mated_P].mean()) if mated_P.any() else None,
        probes=len(probes),
        identities=len(names),
        threshold=threshold,
        calibration=calibration.id,
        balance=_balance(passed, len(probes), (own_P - first_P)[mated_P & (own_P >= threshold)], int(mated_P.sum())),
    )


def _balance(strangers: npt.NDArray[np.float64], probes: int, own: npt.NDArray[np.float64], mated: int) -> float | None:
    """The least share of strangers identified at which no larger share of enrolled people is missed, over all margins.

    `strangers` and `own` are the leads of those who reach the threshold, of `probes` and `mated` searches.
    """
    if not mated:
        return None
    fpir = np.arange(len(strangers) + 1) / probes
    margin = np.append(np.sort(strangers)[::-1], 0.0)  # at the n-th, n strangers lead by more
    found = len(own) - np.searchsorted(np.sort(own), margin, side="right")
    kept = fpir >= 1 - found / mated
    return float(fpir[kept][0]) if kept.any() else float(fpir[-1])


def _ranked(
    x_ND: npt.NDArray[np.float32], label_N: npt.NDArray[np.int64], probes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each probe: the best other identity's score, its lead over the next, and the own identity's without itself.

    The last is -inf where the identity has no second template.
    """
    order_N = np.argsort(label_N, kind="stable")
    starts_I = np.searchsorted(label_N[order_N], np.arange(label_N.max() + 1))
    place_N = np.argsort(order_N)
    first, lead, own = (np.empty(len(probes)) for _ in range(3))
    for start in range(0, len(probes), _TILE_ROWS):
        rows_T = probes[start : start + _TILE_ROWS]
        here = slice(start, start + len(rows_T))
        score_TN = (x_ND[rows_T] @ x_ND.T)[:, order_N].astype(np.float64)
        score_TN[np.arange(len(rows_T)), place_N[rows_T]] = -np.inf
        best_TI = np.maximum.reduceat(score_TN, starts_I, axis=1)
        mine = (np.arange(len(rows_T)), label_N[rows_T])
        own[here] = best_TI[mine]
        best_TI[mine] = -np.inf
        top_T2 = np.sort(np.partition(best_TI, -2, axis=1)[:, -2:], axis=1)
        first[here], lead[here] = top_T2[:, 1], top_T2[:, 1] - top_T2[:, 0]
    return first, lead, own


def _margin_in_force(gallery: Gallery, calibration: Calibration | None) -> RunnerUp | None:
    """The margin kept with the gallery, where it was measured with this calibration."""
    kept = gallery.value("margin")
    if kept is None or calibration is None or kept.get("calibration") != calibration.id:
        return None
    return RunnerUp(**kept)


def _of_plain_scores(calibration: Calibration) -> bool:
    """Whether a calibration's threshold is one on plain similarities, which a gallery computes."""
    return getattr(calibration, "norm", None) is None
