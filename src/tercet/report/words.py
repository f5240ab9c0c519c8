"""The report's sentences and table cells, from the figures of an evaluation and the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tercet.evaluate import Calibration
from tercet.report.page import Figure, System

__all__ = [
    "beside",
    "calibration_text",
    "columns_and_systems",
    "rate",
    "reference_rows",
    "result_text",
    "system_name",
]

# heading, path of keys in the evaluation, what it means
_COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "EER",
        ("eer",),
        "equal error rate: at the threshold where as many pairs of two identities are accepted as pairs of one "
        "identity are rejected, the share of each; 50 % is guessing, lower is better",
    ),
    ("AUC", ("auc",), "chance that a pair of one identity scores higher than a pair of two; 50 % is guessing"),
    (
        "TAR at FMR 1 %",
        ("tar_at_fmr", "0.01"),
        "share of pairs of one identity that are accepted when at most 1 in 100 pairs of two identities is",
    ),
    ("recall@1", ("recall", "1"), "share of searches whose first result is of the right identity"),
    ("recall@5", ("recall", "5"), "share of searches with the right identity among the first five results"),
    (
        "MAP@R",
        ("map_at_r",),
        "quality of the whole ranking: mean precision over the first R results, R being the number of samples of the "
        "identity that there are to find; 100 % where all of them come first",
    ),
)
_NETWORKS = {"untrained": "untrained network", "description": "description alone", "frozen": "frozen network"}


def rate(value: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def columns_and_systems(
    evaluation: Mapping[str, Any],
) -> tuple[tuple[tuple[str, str], ...], tuple[System, ...]]:
    """The table: columns for which the model has a figure, and a row each for the baselines and the model."""
    known = [column for column in _COLUMNS if _find(evaluation, column[1]) is not None]
    baselines = evaluation.get("baselines") or {}
    rows = [(name, figures, False) for name, figures in _named(baselines)]
    rows.append(("trained model", evaluation, True))
    systems = tuple(
        System(name, tuple(_cell(figures, path) for _, path, _ in known), best=own) for name, figures, own in rows
    )
    return tuple((heading, meaning) for heading, _, meaning in known), systems


def result_text(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """What the figures say, in sentences that follow the numbers also where they are bad."""
    lines = []
    eer = _find(evaluation, ("eer",))
    pairs = evaluation.get("pairs") or {}
    if eer is not None:
        others = _others(evaluation, ("eer",))
        lines.append(
            f"Verification. Over {pairs['genuine']:,} pairs of one identity and {pairs['impostor']:,} pairs of two, "
            f"the model's error rate is {rate(eer)} where both kinds of error are equal"
            f"{_in_words(_interval(evaluation, ('eer',)))}{_against(others, eer, lower=True)}."
        )
    first = _find(evaluation, ("recall", "1"))
    if first is not None:
        others = _others(evaluation, ("recall", "1"))
        lines.append(
            f"Retrieval. In {rate(first)} of {evaluation['queries']:,} searches the first result is of the right "
            f"identity{_in_words(_interval(evaluation, ('recall', '1')))}{_against(others, first, lower=False)}."
        )
    return tuple(lines)


def calibration_text(calibration: Calibration | None, run: str) -> tuple[str, ...]:
    """What the threshold is and how far it can be trusted."""
    if calibration is None:
        return (
            "No threshold has been chosen for this run, so verify answers “undecided”. Choose one on identities "
            f"that are not in training: tercet calibrate {run} DATA --fmr 0.01",
        )
    people = calibration.identities
    basis = (
        "The intervals treat pairs as independent; pairs share identities, so the true ones are wider."
        if people is None
        else f"The intervals speak of other people of the kind of these {people:,}; what one more set of people shows "
        "varies more than that."
    )
    who = "skilled forgeries" if calibration.impostors == "skilled" else "pairs of two identities"
    return (
        f"Two samples count as one identity from a score of {calibration.threshold:.4f} on. The threshold was "
        f"chosen so that at most {rate(calibration.target_fmr, 2)} of {who} are accepted (target "
        f"FMR), on {calibration.impostor_pairs:,} such pairs and {calibration.genuine_pairs:,} pairs of one identity, "
        "of identities that the model was not trained on.",
        f"On those pairs {rate(calibration.achieved_fmr, 2)} of the {who} were accepted "
        f"(FMR; 95 % interval {_range(calibration.fmr_interval, 2)}) and {rate(calibration.achieved_fnmr, 1)} of the "
        f"pairs of one identity rejected (FNMR; {_range(calibration.fnmr_interval, 1)}). {basis} "
        f"Calibration {calibration.id}.",
    )


def _cell(figures: Mapping[str, Any], path: Sequence[str]) -> Figure:
    value = _find(figures, path)
    if value is None:
        return Figure("–")
    interval = _interval(figures, path)
    return Figure(rate(value), "" if interval is None else f"{100 * interval[0]:.1f}, {100 * interval[1]:.1f}")


def _named(baselines: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The baselines by the names that people read: networks first, then what works without one."""
    order = sorted(baselines, key=lambda key: (key not in _NETWORKS, key))
    return [(system_name(key), baselines[key]) for key in order]


def system_name(baseline: str) -> str:
    """What people call a baseline, such as "untrained network" or "raw pixels"."""
    return _NETWORKS.get(baseline, baseline.replace("_", " "))


def beside(evaluation: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What the baselines have under a key, by the names that people call them."""
    return {name: figures[key] for name, figures in _named(evaluation.get("baselines") or {}) if figures.get(key)}


def reference_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The figures for each number of references, named by it, the baselines' below the model's."""
    others = beside(evaluation, "references")
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for count, found in evaluation["references"]["by_count"].items():
        if found is not None:
            theirs = [(f"{count}, {name}", one["by_count"].get(count)) for name, one in others.items()]
            rows += [(count, found), *((name, one) for name, one in theirs if one is not None)]
    return rows


def _others(evaluation: Mapping[str, Any], path: Sequence[str]) -> list[tuple[str, float]]:
    found = [(name, _find(figures, path)) for name, figures in _named(evaluation.get("baselines") or {})]
    return [(name, value) for name, value in found if value is not None]


def _against(others: Sequence[tuple[str, float]], own: float, *, lower: bool) -> str:
    if not others:
        return ""
    called = {name: f"the {name}" if name in _NETWORKS.values() else name for name, _ in others}
    worse = [called[name] for name, value in others if (own >= value if lower else own <= value)]
    verdict = f": no better than {_and(worse)}" if worse else ""
    return f", against {_and([f'{rate(value)} with {called[name]}' for name, value in others])}{verdict}"


def _and(words: Sequence[str]) -> str:
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])


def _in_words(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" (95 % interval {_range(interval, 1)})"


def _range(interval: Sequence[float], digits: int) -> str:
    return f"{100 * interval[0]:.{digits}f} to {rate(interval[1], digits)}"


def _find(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _interval(figures: Mapping[str, Any], path: Sequence[str]) -> Sequence[float] | None:
    found: Sequence[float] | None = _find(figures.get("intervals"), (*path, "ci95"))
    return found
