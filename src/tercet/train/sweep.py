"""A sweep over margins: the same seeds for each, and after each seed the worse half goes no further (Optuna).

    OUT/
      trials.json                the margins that are done, with the figures after each seed, and what was pruned
      margin-0.2/seed-0/         a run folder for each training, with its own checkpoints

For one seed everything but the margin is the same: the division of the identities, the first weights, the batches and
the augmentation. Scored are the identities held out for validation, never those of the test. What is on the disk is
not trained again: a sweep that was interrupted goes on where it stood, in the middle of a training too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from tercet.data import Manifest
from tercet.errors import DataError, InvalidInput, MissingExtra, RunError
from tercet.run.files import read_json, write_json
from tercet.train.loop import train
from tercet.train.plan import Plan
from tercet.train.progress import OnProgress

__all__ = ["MARGINS", "Trial", "difference", "sweep"]

MARGINS: Final[tuple[float | Literal["auto", "soft"], ...]] = ("auto", 0.2, 0.1, 0.5, 0.05, 1.0, 0.3, 0.02, 0.7, "soft")


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """One margin of a sweep.

    Args:
        margin: A number in units of the distance, "auto" or "soft".
        eer: Equal error rate on the validation identities, one for each seed that was run.
        map_at_r: MAP@R on them, likewise.
        pruned: Whether it was stopped because others were better.
    """

    margin: float | Literal["auto", "soft"]
    eer: tuple[float, ...]
    map_at_r: tuple[float, ...]
    pruned: bool

    @property
    def mean_eer(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.eer)

    def to_json(self) -> dict[str, Any]:
        """The trial as plain JSON values."""
        return {
            "margin": self.margin,
            "eer": list(self.eer),
            "map_at_r": list(self.map_at_r),
            "mean_eer": self.mean_eer,
            "pruned": self.pruned,
        }


def sweep(
    manifest: Manifest,
    plan: Plan,
    out: Path,
    *,
    margins: Sequence[float | Literal["auto", "soft"]] = MARGINS,
    seeds: int = 4,
    on_trial: Callable[[Trial], None] | None = None,
    on_progress: OnProgress | None = None,
) -> list[Trial]:
    """Train with each margin on the same seeds, and return the trials, best mean error rate first.

    After 1, 2, 4, ... seeds a margin goes on only if it is in the better half of those that came as far (successive
    halving, Jamieson and Talwalkar 2016; the asynchronous form of Li et al. 2020). Cost: at most margins x seeds
    trainings, about a third of that with four seeds.

    Args:
        manifest: The samples.
        plan: All settings but the margin and the seed.
        out: A folder for the trials; made where it is not there, gone on with where it is.
        margins: What to try; the first ones set the mark that later ones have to reach.
        seeds: How many, from the plan's seed on.
        on_trial: Told of each margin that is done.
        on_progress: Told how each training goes.

    Raises:
        MissingExtra: Optuna is not installed.
        InvalidInput: No margin, one twice, or no seed.
        DataError: The data have too few identities for some to be held out.
        RunError: `out` cannot be written, or holds trainings with other settings or data.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra.of("the margin sweep", "sweep") from error
    if not margins or len(set(margins)) != len(margins):
        raise InvalidInput("margins must be at least one, none of them twice")
    if seeds < 1:
        raise InvalidInput(f"seeds={seeds} must be 1 or more")
    for margin in margins:
        replace(plan.settings, margin=margin)  # refused here rather than after hours of others
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # In memory: each margin is compared with those before it. With the trials of an interrupted sweep still there, it
    # would be compared with later ones and with itself, too; the trainings are what is kept.
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2))
    found: dict[str, Trial] = {}

    def objective(trial: Any) -> float:
        name = trial.suggest_categorical("margin", [str(margin) for margin in margins])
        margin = next(margin for margin in margins if str(margin) == name)
        eer: list[float] = []
        map_at_r: list[float] = []
        for number in range(seeds):
            measured = _one(manifest, plan, margin, number, out, on_progress)
            eer.append(measured["eer"])
            map_at_r.append(measured["map_at_r"])
            trial.report(statistics.fmean(eer), number + 1)
            pruned = number + 1 < seeds and trial.should_prune()
            found[name] = Trial(margin, tuple(eer), tuple(map_at_r), pruned)
            if pruned:
                raise optuna.TrialPruned
        return statistics.fmean(eer)

    for margin in margins:
        study.enqueue_trial({"margin": str(margin)})
        study.optimize(objective, n_trials=1)
        write_json(out / "trials.json", {"trials": [trial.to_json() for trial in found.values()]})
        if on_trial is not None:
            on_trial(found[str(margin)])
    return sorted(found.values(), key=lambda trial: (-len(trial.eer), trial.mean_eer))


def _one(
    manifest: Manifest,
    plan: Plan,
    margin: float | Literal["auto", "soft"],
    number: int,
    out: Path,
    on_progress: OnProgress | None,
) -> dict[str, float]:
    """The validation figures of one margin and seed; trained where that is not done yet."""
    run = out / f"margin-{margin}" / f"seed-{plan.settings.seed + number}"
    settings = replace(plan.settings, margin=margin, seed=plan.settings.seed + number)
    begun = (run / "plan.json").is_file()
    if not (run / "run.json").is_file() or not read_json(run / "metrics.json").get("finished"):
        train(manifest, replace(plan, settings=settings), run, resume=begun, on_progress=on_progress)
    elif read_json(run / "plan.json") != replace(plan, settings=settings).to_json():
        raise RunError(f"{run}: was trained with other settings; choose another --out")
    validation = read_json(run / "metrics.json")["validation"]
    if validation["eer"] is None:
        raise DataError(f"{manifest.root}: too few identities for some to be held out, so margins cannot be compared")
    return {key: float(validation[key]) for key in ("eer", "map_at_r")}


def difference(of: Trial, against: Trial) -> tuple[float, float, float]:
    """Mean paired difference of two trials' error rates over their common seeds, with a 95 % interval (Student's t).

    NaN for both ends where there are fewer than two common seeds.
    """
    from scipy.stats import t

    off = [a - b for a, b in zip(of.eer, against.eer, strict=False)]
    mean = statistics.fmean(off)
    if len(off) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(off) - 1)) * statistics.stdev(off) / math.sqrt(len(off))
    return mean, mean - half, mean + half
