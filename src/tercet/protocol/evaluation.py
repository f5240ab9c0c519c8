"""A trained model scored on data it has not seen, beside its baselines.

Every system is scored pair by pair (verification), query by query (retrieval) and search by search (identification) on
the same rows with the same front end. A model that does not beat both baselines has learnt nothing of use.

Legend: N samples, D embedding width, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.data import SampleStore
from tercet.data.trials import Trials
from tercet.errors import InvalidInput
from tercet.evaluate import AsNorm, Pairs, ReferenceProtocol, roc, thinned, verification
from tercet.evaluate.figures import operating_point
from tercet.protocol.baselines import baselines_of
from tercet.protocol.calibration import training_cohort
from tercet.protocol.forgeries import forgery_figures, pairs_of_forgeries, reference_figures
from tercet.protocol.leakage import Leakage, find_leakage
from tercet.protocol.listed import ListedPairs, listed_pairs
from tercet.protocol.rows import Scored, gallery_rows, scored_rows
from tercet.protocol.scoring import Protocol, Scoring
from tercet.run import Model
from tercet.run.model import embed_rows

__all__ = ["Evaluation", "Protocol", "evaluate_run"]

_NORMALISED: Final = ("eer", "auc", "tar_at_fmr", "min_dcf", "min_cllr")  # what is said of normalised scores


@final
@dataclass(frozen=True)
class Evaluation:
    """The figures of a model, as `tercet evaluate --json` prints them.

    Args:
        figures: The model's; by the names that `--json` prints.
        intervals: 95 % intervals by bootstrap over identities, in the nesting of the figures: {"ci95": [low, high]},
            null where there is none.
        baselines: The same figures for the front end's baseline (such as "raw_pixels"), "untrained", where the
            model has a description beside its network "description", and where it has a pretrained backbone "frozen";
            see `tercet.protocol.baselines`.
        scored: What was scored.
        listed: The pairs of a list, where one was given.
        skipped: Files that could not be read: {"path", "reason"}.
        warnings: What a reader of the figures should know.
        model: Fingerprint.
        leakage: What may make the figures too good; None where nobody looked.
    """

    figures: Mapping[str, Any]
    intervals: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    scored: Scored
    listed: ListedPairs | None
    skipped: tuple[Mapping[str, str], ...]
    warnings: tuple[str, ...]
    model: str
    leakage: Leakage | None = None

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        out: dict[str, Any] = {"identities": len(self.scored.left_out), "samples": self.scored.left_out_samples}
        if self.listed is not None:
            out["pairs"] = self.listed.left_out
        return {
            **self.figures,
            "intervals": dict(self.intervals),
            "baselines": {name: dict(figures) for name, figures in self.baselines.items()},
            "identities": self.scored.identities,
            "samples": len(self.scored.rows),
            **({"forgeries": len(self.scored.forged)} if len(self.scored.forged) else {}),
            "left_out": out,
            "skipped": [dict(entry) for entry in self.skipped],
            **({} if self.leakage is None else {"leakage": self.leakage.to_json()}),
            "warnings": list(self.warnings),
            "model": self.model,
        }


def evaluate_run(
    model: Model,
    store: SampleStore,
    *,
    protocol: Protocol = "both",
    seed: int = 0,
    baselines: bool = True,
    resamples: int = 200,
    trials: Trials | None = None,
    keep_seen: bool = False,
    gallery: SampleStore | None = None,
    ignore_same_group: bool = False,
    force_small: bool = False,
    references: ReferenceProtocol | None = None,
    cohort: int | None = None,
    leakage: bool = True,
    on_phase: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score a model on the identities of a store that it has not seen.

    Args:
        model: The model.
        store: The data, decoded by the model's front end.
        protocol: Verification, retrieval, identification, or "both": the first two.
        seed: Of the folds, of the sampling of pairs where there are too many, of who is enrolled, and of the bootstrap.
        baselines: Whether the baselines are scored too.
        resamples: Draws of the bootstrap; 0 for no intervals.
        trials: Exactly these pairs are verified, in their folds; None: all pairs of the data.
        keep_seen: Score pairs of `trials` also where the model was trained on one of the identities; a warning says so.
        gallery: Where the queries of retrieval are searched; None: where the data say so, else among themselves. The
            same file is never a result.
        ignore_same_group: Leave out of a query's results what is of its identity and group.
        force_small: Give rates also where the pairs or searches are too few to show them.
        references: Samples are also questioned against several references of an identity, with their forgeries; the
            baselines by similarity alone.
        cohort: Verification is scored with AS-norm besides, each similarity judged by the so many most similar of the
            training identities; left out where the data hold fewer than two of them. None: not. A model that is
            calibrated for AS-norm has its own cohort, and takes no other.
        leakage: Whether to look for what may make the figures too good (`find_leakage`); some hundred files are read.
        on_phase: Told what comes next.

    Raises:
        DataError: Too little is left to score, or a file of `trials` is not among the data.
        InvalidInput: `cohort` is not a whole number of 2 or more, or the model decides by AS-norm already.
    """
    if cohort is not None:
        _check_cohort(model, cohort)
    tell = on_phase or _silent
    listed = None if trials is None else listed_pairs(model, store, trials, keep_seen=keep_seen)
    scored = _listed_rows(store, listed) if listed and protocol == "verification" else scored_rows(model, store)
    task = Scoring(store, scored.rows, listed, gallery, protocol, ignore_same_group, force_small, seed)
    here_N, there_G = task.rows, gallery_rows(model, gallery)
    tell("model")
    vectors_ND = embed_rows(model.encoder, store, here_N)
    others_GD = None if gallery is None else embed_rows(model.encoder, gallery, there_G)
    tell("figures")
    llr = None if model.calibration is None else model.calibration.llr
    figures, intervals, pairs = task.figures(vectors_ND, others_GD, there_G, resamples, norm=model.norm, llr=llr)
    warnings = (*scored.warnings, *(listed.warnings if listed else ()), *task.remarks())
    if pairs is not None and cohort is not None and (norm := training_cohort(model, store, cohort)):
        found, drawn = task.verification(vectors_ND, resamples, norm=norm)[:2]
        figures["as_norm"] = {name: found[name] for name in _NORMALISED} | {"cohort": norm.top}
        intervals |= {"as_norm": {name: drawn[name] for name in _NORMALISED if name in drawn}}
    if pairs is not None:
        figures |= _decisions(model, task, scored, pairs)
        warnings += _shared_with_calibration(model, task, pairs)
    forged = _Forged(store, scored, references, seed)
    if listed is None and pairs is not None:
        forged_FD = embed_rows(model.encoder, store, scored.forged) if len(scored.forged) else vectors_ND[:0]
        threshold = None if model.calibration is None else model.calibration.threshold
        more = forged.figures(pairs, vectors_ND, forged_FD, resamples, norm=model.norm, threshold=threshold)
        figures, intervals = figures | more[0], intervals | more[1]
    beside: dict[str, Mapping[str, Any]] = {}
    if baselines:
        for name, make in baselines_of(model).items():
            tell(name)
            others_GD = None if gallery is None else make(model, gallery, there_G)
            theirs_ND = make(model, store, here_N)
            beside[name], _, their_pairs = task.figures(theirs_ND, others_GD, there_G, 0)
            if listed is None and their_pairs is not None:
                forged_FD = make(model, store, scored.forged) if len(scored.forged) else theirs_ND[:0]
                more = forged.by_similarity().figures(their_pairs, theirs_ND, forged_FD, 0)
                beside[name] = {**beside[name], **more[0]}
    skipped = tuple({"path": skipped.path, "reason": skipped.reason} for skipped in store.manifest.skipped)
    leaks = find_leakage(model, store, scored, listed, seed=seed) if leakage else None
    warnings += () if leaks is None else leaks.warnings
    return Evaluation(figures, intervals, beside, scored, listed, skipped, warnings, model.fingerprint, leaks)


def _check_cohort(model: Model, cohort: int) -> None:
    if isinstance(cohort, bool) or not isinstance(cohort, int) or cohort < 2:
        raise InvalidInput(f"cohort: must be a whole number of training identities, 2 or more, not {cohort!r}")
    if model.norm is not None:
        raise InvalidInput(
            f"cohort={cohort}: the model is calibrated for scores with AS-norm, by {model.norm.top} of its own cohort"
        )


@final
@dataclass(frozen=True)
class _Forged:
    """What is said of forgeries and of several references, whatever makes the vectors."""

    store: SampleStore
    scored: Scored
    references: ReferenceProtocol | None
    seed: int

    def figures(
        self,
        pairs: Pairs,
        vectors_ND: npt.NDArray[np.float32],
        forged_FD: npt.NDArray[np.float32],
        resamples: int,
        *,
        norm: AsNorm | None = None,
        threshold: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures under `by_kind` and `references`, as far as there are any, and their intervals."""
        forged = pairs_of_forgeries(self.store, self.scored, vectors_ND, forged_FD, norm, seed=self.seed)
        figures, intervals = forgery_figures(
            self.store, self.scored, pairs, forged, threshold=threshold, resamples=resamples, seed=self.seed
        )
        if self.references is not None:
            figures |= reference_figures(self.store, self.scored, vectors_ND, forged_FD, self.references)
        return figures, intervals

    def by_similarity(self) -> _Forged:
        """The same without machines trained for each identity, which is what a baseline is given."""
        asked = self.references
        return self if asked is None else replace(self, references=replace(asked, decision="similarity"))


def _listed_rows(store: SampleStore, listed: ListedPairs) -> Scored:
    """What a list of pairs alone scores."""
    rows = np.unique(np.concatenate([listed.first, listed.second]))
    out = frozenset(listed.identities)
    samples = sum(row.identity in out for row in store.manifest.rows)
    return Scored(rows, len(np.unique(store.manifest.labels[rows])), listed.identities, samples, ())


def _decisions(model: Model, task: Scoring, scored: Scored, pairs: Pairs) -> dict[str, Any]:
    """The error curve, what could not be compared, and the rates at the EER's threshold and the calibrated one."""
    if task.listed is None:
        out = frozenset(scored.left_out)
        failed = sum(row.identity not in out for row in task.store.unreadable)
        of, what = failed + len(scored.rows), "files"
    else:
        failed, of, what = task.listed.failed, task.listed.failed + len(task.listed), "pairs"
    share = failed / of
    found = verification(pairs.scores, pairs.genuine)
    calibration = model.calibration
    at_threshold = None
    if calibration is not None:
        shared = _calibrated_on(model, task, pairs)
        at_threshold = operating_point(
            pairs, task.labels, calibration.threshold, failed=share, calibration=calibration, foresee=not shared
        )
    curve = thinned(roc(pairs.scores, pairs.genuine))
    return {
        "curve": {name: getattr(curve, name).tolist() for name in ("fmr", "fnmr", "thresholds")},
        "failure_to_acquire": {"failed": failed, "of": of, "rate": share, "what": what},
        "at_eer": operating_point(pairs, task.labels, found.eer_threshold, failed=share),
        "at_threshold": at_threshold,
    }


def _calibrated_on(model: Model, task: Scoring, pairs: Pairs) -> frozenset[str]:
    """The scored identities that the threshold was chosen on, recognised by their files."""
    rows = task.rows[np.unique(np.concatenate([pairs.first, pairs.second]))]
    manifest = task.store.manifest
    known = {row.identity for row, mark in zip(manifest.rows, task.store.hashes, strict=True)
             if mark in model.calibrated_on}  # fmt: skip
    return frozenset(manifest.rows[n].identity for n in rows) & known


def _shared_with_calibration(model: Model, task: Scoring, pairs: Pairs) -> tuple[str, ...]:
    shared = _calibrated_on(model, task, pairs) if model.calibration is not None else frozenset()
    if not shared:
        return ()
    return (
        f"the threshold was chosen on {len(shared)} of the scored identities: the figures at the threshold, act_dcf "
        "and cllr describe them and are no forecast for others",
    )


def _silent(phase: str) -> None:
    """Tell nobody."""
