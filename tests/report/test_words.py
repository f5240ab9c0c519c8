from __future__ import annotations

from tercet.evaluate import Calibration
from tercet.report.page import Figure
from tercet.report.words import calibration_text, columns_and_systems, result_text

FIGURES = {
    "eer": 0.1,
    "auc": 0.95,
    "tar_at_fmr": {"0.1": 0.9, "0.01": None, "0.001": None},
    "pairs": {"genuine": 1200, "impostor": 3400},
    "recall": {"1": 0.9, "5": 0.99, "10": 1.0},
    "map_at_r": 0.5,
    "queries": 1500,
}
GOOD = FIGURES | {
    "intervals": {"eer": {"ci95": [0.08, 0.125]}, "recall": {"1": {"ci95": [0.85, 0.95]}}},
    "baselines": {
        "raw_pixels": FIGURES | {"eer": 0.3, "recall": {"1": 0.7}},
        "untrained": FIGURES | {"eer": 0.2, "recall": {"1": 0.8}},
    },
}


def test_table_has_the_figures_there_are_and_the_model_last() -> None:
    columns, systems = columns_and_systems(GOOD)
    assert [heading for heading, _ in columns] == ["EER", "AUC", "recall@1", "recall@5", "MAP@R"]
    assert [system.name for system in systems] == ["untrained network", "raw pixels", "trained model"]
    assert [system.best for system in systems] == [False, False, True]
    assert [system.figures[0] for system in systems] == [
        Figure("20.0 %"),
        Figure("30.0 %"),
        Figure("10.0 %", "8.0, 12.5"),
    ]
    assert systems[1].figures[3] == Figure("–")
    columns, systems = columns_and_systems({"eer": 0.25})
    assert ([heading for heading, _ in columns], [system.name for system in systems]) == (["EER"], ["trained model"])


def test_sentences_follow_the_figures_where_they_are_good() -> None:
    verification, retrieval = result_text(GOOD)
    assert "1,200 pairs of one identity and 3,400 pairs of two" in verification
    assert "10.0 %" in verification and "(95 % interval 8.0 to 12.5 %)" in verification
    assert verification.endswith("against 20.0 % with the untrained network and 30.0 % with raw pixels.")
    assert "In 90.0 % of 1,500 searches" in retrieval
    assert "no better" not in verification + retrieval


def test_sentences_say_so_where_they_are_bad() -> None:
    bad = GOOD | {"eer": 0.25, "recall": {"1": 0.8}}
    verification, retrieval = result_text(bad)
    assert verification.endswith(": no better than the untrained network.")
    assert retrieval.endswith(": no better than the untrained network.")
    worst = GOOD | {"eer": 0.3, "recall": {"1": 0.1}}
    assert all(line.endswith(": no better than the untrained network and raw pixels.") for line in result_text(worst))
    three = worst | {"baselines": worst["baselines"] | {"description": FIGURES | {"eer": 0.15}}}
    wanted = ": no better than the description alone, the untrained network and raw pixels."
    assert all(line.endswith(wanted) for line in result_text(three))
    assert result_text({"eer": 0.1, "pairs": FIGURES["pairs"]})[0].count("against") == 0


def test_calibration_is_told_with_its_evidence_and_its_absence_with_what_to_do() -> None:
    (none,) = calibration_text(None, "my-run")
    assert "tercet calibrate my-run DATA --fmr 0.01" in none
    told = " ".join(
        calibration_text(Calibration("abc", 0.5, 0.01, 0.009, 0.2, 30000, 700, (0.008, 0.01), (0.17, 0.23)), "r")
    )
    for words in ("0.5000", "1.00 %", "30,000", "700", "0.90 %", "0.80 to 1.00 %", "20.0 %", "abc"):
        assert words in told
