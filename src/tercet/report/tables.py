"""The report's further tables: costs, kinds of impostor, numbers of references, leakage; cells as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tercet.report.page import Table
from tercet.report.words import beside, rate, reference_rows

__all__ = ["cost_table", "kind_table", "leakage_lines", "leakage_table", "reference_table"]

_KINDS = {"random": "other identities", "skilled": "skilled forgeries", "simple": "simple forgeries"}


def cost_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Costs of decisions, accuracy and failures to acquire, each with what it means."""
    rows = []
    for prior, value in (evaluation.get("min_dcf") or {}).items():
        meaning = f"least detection cost of any threshold, where {rate(float(prior), 0)} of the pairs are genuine"
        rows.append((f"minDCF, prior {prior}", f"{value:.3f}", meaning))
    normed = evaluation.get("as_norm")
    if normed is not None:
        meaning = f"each similarity judged by those to {normed['cohort']} training identities"
        rows.append(("EER with AS-norm", rate(normed["eer"]), meaning))
        rows.extend(
            (f"minDCF with AS-norm, prior {prior}", f"{value:.3f}", "as above, of such scores")
            for prior, value in normed["min_dcf"].items()
        )
    for prior, value in (evaluation.get("act_dcf") or {}).items():
        if value is not None:
            meaning = "the same cost at the threshold that the calibration gives for this prior"
            rows.append((f"actual DCF, prior {prior}", f"{value:.3f}", meaning))
    if evaluation.get("cllr") is not None:
        rows.append(
            ("Cllr", f"{evaluation['cllr']:.3f} bits", "cost of the log-likelihood ratios; 1 is knowing nothing")
        )
    if evaluation.get("min_cllr") is not None:
        meaning = "the same for the best possible map; what is above it is the price of calibration"
        rows.append(("minCllr", f"{evaluation['min_cllr']:.3f} bits", meaning))
    if evaluation.get("accuracy") is not None:
        meaning = "share of right decisions at thresholds from other folds; rejecting everything can score high too"
        rows.append(("accuracy", rate(evaluation["accuracy"]), meaning))
    lost = evaluation.get("failure_to_acquire")
    if lost is not None:
        meaning = "could not be read at all; they count as rejected in what people meet"
        rows.append((f"failures to acquire ({lost['what']})", f"{lost['failed']} of {lost['of']:,}", meaning))
    point = evaluation.get("at_threshold")
    if point is not None:
        rows.append(("FMR at the threshold", rate(point["fmr"], 2), _promise(point)))
        rows.append(("FNMR at the threshold", rate(point["fnmr"]), "share of pairs of one identity rejected there"))
        rows.append(("FRR at the threshold", rate(point["frr"]), "the same with failures to acquire"))
    return Table("Costs and failures", ("figure", "value", "what it means"), tuple(rows)) if rows else None


def _promise(point: Mapping[str, Any]) -> str:
    foreseen = point["foreseen_fmr"]
    if foreseen is None:
        return "no forecast: the threshold was chosen on these people, or on too few others"
    kept = "kept" if point["kept"] else "NOT kept"
    return f"foreseen {100 * foreseen[0]:.2f} to {rate(foreseen[1], 2)}: {kept}"


def kind_table(evaluation: Mapping[str, Any]) -> Table | None:
    """EER, AUC and TAR against each kind of impostor apart, with the baselines' EER beside."""
    found = evaluation.get("by_kind")
    if not found:
        return None
    others = beside(evaluation, "by_kind")
    rows = []
    for kind, figures in found.items():
        if kind != "thresholds":
            tar = figures["tar_at_fmr"]["0.01"]
            rows.append(
                (
                    _KINDS.get(kind, kind),
                    f"{figures['impostor']:,}",
                    rate(figures["eer"]),
                    rate(figures["auc"]),
                    "too few pairs" if tar is None else rate(tar),
                    *(rate(theirs[kind]["eer"]) if kind in theirs else "–" for theirs in others.values()),
                )
            )
    lines = tuple(
        f"Threshold {at['threshold']:.4f}, {at['name']}"
        + (" (chosen on these very pairs, so no forecast)" if at["a_posteriori"] else "")
        + f": rejects {rate(at['frr'])} of genuine pairs, accepts "
        + ", ".join(f"{rate(share)} of {_KINDS.get(kind, kind)}" for kind, share in at["far"].items())
        + "."
        for at in found["thresholds"]
    )
    heads = ("impostors", "pairs", "EER", "AUC", "TAR at FMR 1 %", *(f"EER, {name}" for name in others))
    return Table("By kind of impostor", heads, tuple(rows), lines)


def reference_table(evaluation: Mapping[str, Any]) -> Table | None:
    """A row for each number of references that a sample was questioned against, with the baselines' own below."""
    found = evaluation.get("references")
    if not found:
        return None
    known = {count: one for count, one in found["by_count"].items() if one is not None}
    if not known:
        return None
    kinds = list(next(iter(known.values()))["eer"])
    rows = tuple(
        (
            name,
            str(one["identities"]),
            *(_spread(one["eer"][kind]) for kind in kinds),
            _spread(one["frr"]),
            *(_spread(one["far"][kind]) for kind in kinds),
        )
        for name, one in reference_rows(evaluation)
    )
    how = "a classifier for each identity" if found["decision"] == "svm" else f"{found['fusion']} of the scores"
    note = (
        f"Decided by {how}; mean ± standard deviation over {found['draws']} draws of the references. EER is a "
        f"posteriori; FRR and FAR are at the EER threshold of others, on {_KINDS.get(found['threshold_on'], '')}."
    )
    heads = tuple(f"EER, {_KINDS.get(kind, kind)}" for kind in kinds)
    fars = tuple(f"FAR, {_KINDS.get(kind, kind)}" for kind in kinds)
    return Table("By number of references", ("references", "identities", *heads, "FRR", *fars), rows, (note,))


def leakage_lines(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """What was found that may make the figures too good, or that nothing was."""
    found = evaluation.get("leakage")
    if found is None:
        return ()
    lines = [line.removeprefix("leakage: ") for line in evaluation["warnings"] if line.startswith("leakage: ")]
    warned = tuple(f"{line[0].upper()}{line[1:]}." for line in lines)
    compared = found["compared"]
    looked = (
        f"Looked at: the trivial properties of {found['files']:,} files; the checksums of all; small versions of "
        f"{compared['scored']:,} scored samples, against each other and against {compared['training']:,} of training "
        "and validation that lie in the same data."
    )
    if not compared["training"]:
        looked += " None do, so near-copies of training samples cannot be told."
    return (*(warned or ("Nothing was found that would make these figures too good.",)), looked)


def leakage_table(evaluation: Mapping[str, Any]) -> Table | None:
    """How well each trivial property separates, beside its limit."""
    found = evaluation.get("leakage")
    if found is None or found["pairs"] is None:
        return None
    forged = (found["forgeries"] or {}).get("features", {})
    columns: tuple[str, ...] = (
        "property of the file",
        f"AUC, genuine from impostor pairs (limit {found['pairs']['limit']:g})",
    )
    if forged:
        columns += (f"AUC, forged from genuine samples (limit {found['forgeries']['limit']:g})",)

    def cell(one: Mapping[str, Any] | None) -> str:
        return "–" if one is None else f"{one['auc']:.2f}" + (" – beyond" if one["beyond"] else "")

    rows = tuple(
        (name, cell(one), *((cell(forged.get(name)),) if forged else ()))
        for name, one in found["pairs"]["features"].items()
    )
    note = "0.50 is chance. A property is beyond its limit only where the choice of identities does not explain it."
    return Table("Trivial properties", columns, rows, (note,))


def _spread(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f} %"
