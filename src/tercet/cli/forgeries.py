"""What the commands say of forgeries, and of samples questioned against several references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tercet.cli.output import Screen
from tercet.errors import InvalidOption

if TYPE_CHECKING:
    from tercet.evaluate import ReferenceProtocol

__all__ = ["KIND_NAMES", "parse_references", "show_kinds", "show_references"]

KIND_NAMES = {"random": "other identities", "skilled": "skilled forgeries", "simple": "simple forgeries"}


def parse_references(
    given: str | None, by_task: ReferenceProtocol | None, *, fusion: str, writer_dependent: bool
) -> ReferenceProtocol | None:
    """What `--references`, `--fusion` and `--writer-dependent` ask for; None: no references.

    Raises:
        InvalidOption: `given` is no list of numbers, or an option that would do nothing.
    """
    from tercet.evaluate import ReferenceProtocol

    wanted = by_task
    if given == "none":
        wanted = None
    elif given is not None:
        numbers = [part.strip() for part in given.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in numbers):
            raise InvalidOption(f"--references={given!r}: expected numbers such as 1,3,5,10, or none")
        wanted = replace(by_task or ReferenceProtocol(), counts=tuple(sorted({int(part) for part in numbers})))
    if wanted is None:
        if fusion != "max" or writer_dependent:
            raise InvalidOption("--fusion and --writer-dependent are for --references")
        return None
    if writer_dependent and fusion != "max":
        raise InvalidOption("--fusion has no part in --writer-dependent")
    return replace(wanted, fusion=fusion, decision="svm" if writer_dependent else "similarity")


def show_kinds(evaluation: Mapping[str, Any], screen: Screen) -> None:
    """A table of each kind of impostor, the baselines' EER beside the model's, and what thresholds let through."""
    from tercet.report.words import beside

    by_kind, others = evaluation["by_kind"], beside(evaluation, "by_kind")
    kinds = [kind for kind in by_kind if kind != "thresholds"]
    screen.table(
        ("impostors", "pairs", "EER", "TAR at FMR 1 %", *(f"EER, {name}" for name in others)),
        [
            (
                KIND_NAMES.get(kind, kind),
                f"{by_kind[kind]['impostor']:,}",
                _percent(by_kind[kind]["eer"]),
                _percent(by_kind[kind]["tar_at_fmr"]["0.01"], "too few pairs"),
                *(_percent(theirs[kind]["eer"] if kind in theirs else None) for theirs in others.values()),
            )
            for kind in kinds
        ],
        right=range(1, 4 + len(others)),
    )
    for found in by_kind["thresholds"]:
        after = " (a posteriori: chosen on these very pairs)" if found["a_posteriori"] else ""
        accepted = ", ".join(f"{_percent(found['far'][kind])} of {KIND_NAMES.get(kind, kind)}" for kind in kinds)
        screen.say(
            f"threshold {found['threshold']:.4f}, {found['name']}{after}: rejects {_percent(found['frr'])} of genuine "
            f"pairs, accepts {accepted}"
        )


def show_references(evaluation: Mapping[str, Any], screen: Screen) -> None:
    """A table with a row for each number of references, and below each the baselines' own."""
    from tercet.report.words import reference_rows

    references = evaluation["references"]
    known = {count: found for count, found in references["by_count"].items() if found is not None}
    few = [count for count, found in references["by_count"].items() if found is None]
    how = (
        "a classifier for each identity" if references["decision"] == "svm" else f"{references['fusion']} of the scores"
    )
    screen.say(
        f"against several references ({how}; mean and standard deviation over {references['draws']} draws of them)"
    )
    kinds = list(next(iter(known.values()))["eer"]) if known else []
    screen.table(
        (
            "references",
            "identities",
            *(f"EER, {kind}" for kind in kinds),
            *(f"EER, {kind}, own threshold" for kind in kinds),
            "FRR",
            *(f"FAR, {kind}" for kind in kinds),
        ),
        [
            (
                name,
                str(found["identities"]),
                *(_spread(found["eer"][kind]) for kind in kinds),
                *(_spread(found["eer_user"][kind]) for kind in kinds),
                _spread(found["frr"]),
                *(_spread(found["far"][kind]) for kind in kinds),
            )
            for name, found in reference_rows(evaluation)
        ],
        right=range(3 + 3 * len(kinds)),
    )
    screen.say(
        "EER is a posteriori (its threshold is found on these very scores); FRR and FAR are at the EER threshold of "
        f"other identities, on {KIND_NAMES.get(references['threshold_on'], references['threshold_on'])}"
    )
    if few:
        screen.note(f"too few identities have more than {', '.join(few)} genuine samples")


def _spread(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f} %"


def _percent(value: float | None, absent: str = "-") -> str:
    return absent if value is None else f"{100 * value:.1f} %"
