from __future__ import annotations

from tercet.report.tables import cost_table, kind_table, leakage_lines, leakage_table, reference_table

POINT = {"fmr": 0.012, "fnmr": 0.2, "frr": 0.24, "foreseen_fmr": [0.002, 0.03], "kept": True}
LEAKAGE = {
    "pairs": {
        "limit": 0.75,
        "features": {"mean grey": {"auc": 0.8, "beyond": True}, "ink share": {"auc": 0.5, "beyond": False}},
    },
    "forgeries": {"limit": 0.6, "features": {"mean grey": {"auc": 0.97, "beyond": True}}},
    "files": 40,
    "compared": {"scored": 30, "training": 0},
}


def test_costs_and_failures_are_told_with_what_they_mean():
    table = cost_table(
        {
            "min_dcf": {"0.01": 0.5},
            "act_dcf": {"0.01": None},
            "min_cllr": 0.3,
            "cllr": None,
            "accuracy": 0.9,
            "failure_to_acquire": {"failed": 2, "of": 1500, "what": "files"},
            "at_threshold": POINT,
        }
    )
    assert table is not None
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["minDCF, prior 0.01"][0] == "0.500" and not any("actual DCF" in name for name in cells)
    assert cells["failures to acquire (files)"][0] == "2 of 1,500"
    assert cells["FMR at the threshold"] == ("1.20 %", "foreseen 0.20 to 3.00 %: kept")
    broken = cost_table({"at_threshold": POINT | {"kept": False}})
    assert broken is not None and "NOT kept" in broken.rows[0][2]
    untold = cost_table({"at_threshold": POINT | {"foreseen_fmr": None, "kept": None}})
    assert untold is not None and untold.rows[0][2].startswith("no forecast")
    assert cost_table({}) is None


def test_as_norm_is_told_beside_the_similarity():
    table = cost_table({"min_dcf": {"0.01": 0.5}, "as_norm": {"eer": 0.031, "min_dcf": {"0.01": 0.25}, "cohort": 40}})
    assert table is not None
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["minDCF, prior 0.01"][0] == "0.500" and cells["minDCF with AS-norm, prior 0.01"][0] == "0.250"
    assert cells["EER with AS-norm"] == ("3.1 %", "each similarity judged by those to 40 training identities")


def test_each_kind_of_impostor_and_each_number_of_references_has_a_row():
    found = {
        "random": {"eer": 0.1, "auc": 0.95, "tar_at_fmr": {"0.01": 0.7}, "impostor": 4000},
        "skilled": {"eer": 0.3, "auc": 0.75, "tar_at_fmr": {"0.01": None}, "impostor": 50},
        "thresholds": [
            {
                "name": "calibrated",
                "threshold": 0.5,
                "a_posteriori": False,
                "frr": 0.2,
                "far": {"random": 0.01, "skilled": 0.4},
            }
        ],
    }
    table = kind_table({"by_kind": found})
    assert table is not None
    assert table.rows[0] == ("other identities", "4,000", "10.0 %", "95.0 %", "70.0 %")
    assert table.rows[1] == ("skilled forgeries", "50", "30.0 %", "75.0 %", "too few pairs")
    assert "rejects 20.0 % of genuine pairs, accepts 1.0 % of other identities, 40.0 %" in table.notes[0]
    one = {"mean": 0.1, "sd": 0.02}
    count = {"identities": 9, "eer": {"skilled": one}, "frr": one, "far": {"skilled": one}}
    references = {
        "by_count": {"1": count, "20": None},
        "decision": "similarity",
        "fusion": "max",
        "draws": 5,
        "threshold_on": "skilled",
    }
    table = reference_table({"references": references})
    assert table is not None and table.rows == (("1", "9", "10.0 ± 2.0 %", "10.0 ± 2.0 %", "10.0 ± 2.0 %"),)
    assert kind_table({}) is None and reference_table({}) is None
    assert reference_table({"references": references | {"by_count": {"9": None}}}) is None


def test_the_baselines_stand_beside_each_kind_and_below_each_number_of_references():
    def kind(eer):
        return {"eer": eer, "auc": 0.9, "tar_at_fmr": {"0.01": 0.5}, "impostor": 10}

    def counts(eer):
        one = {"mean": eer, "sd": 0.01}
        found = {
            "identities": 9,
            "eer": {"skilled": one},
            "eer_user": {"skilled": one},
            "frr": one,
            "far": {"skilled": one},
        }
        return {"by_count": {"1": found, "5": None}, "decision": "similarity", "fusion": "max", "draws": 5,
                "threshold_on": "skilled"}  # fmt: skip

    evaluation = {
        "by_kind": {"random": kind(0.1), "skilled": kind(0.2), "thresholds": []},
        "references": counts(0.1),
        "baselines": {
            "hog": {
                "by_kind": {"random": kind(0.3), "skilled": kind(0.4), "thresholds": []},
                "references": counts(0.3),
            },
            "untrained": {"by_kind": {"random": kind(0.35), "thresholds": []}},
            "raw_pixels": {},
        },
    }
    table = kind_table(evaluation)
    assert table is not None and table.columns[5:] == ("EER, untrained network", "EER, hog")
    assert [row[5:] for row in table.rows] == [("35.0 %", "30.0 %"), ("–", "40.0 %")]
    table = reference_table(evaluation)
    assert table is not None
    assert [row[:3] for row in table.rows] == [("1", "9", "10.0 ± 1.0 %"), ("1, hog", "9", "30.0 ± 1.0 %")]


def test_leakage_is_told_or_its_absence_with_what_was_looked_at():
    evaluation = {"leakage": LEAKAGE, "warnings": ["something else", "leakage: trivial features alone tell (AUC)"]}
    warned, looked = leakage_lines(evaluation)
    assert warned == "Trivial features alone tell (AUC)."
    assert "40 files" in looked and "cannot be told" in looked
    table = leakage_table(evaluation)
    assert table is not None
    assert table.rows == (("mean grey", "0.80 – beyond", "0.97 – beyond"), ("ink share", "0.50", "–"))
    assert leakage_lines({"leakage": LEAKAGE, "warnings": []})[0].startswith("Nothing was found")
    assert leakage_lines({"warnings": []}) == () and leakage_table({}) is None
