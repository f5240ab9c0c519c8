from __future__ import annotations

import json

import numpy as np

from tercet.report.margin import RunCurve
from tercet.report.training import margin_drawing, read_history, remark_lines, training_drawings


def look(step: int, **more):
    values = {"phase": "train", "step": step, "loss": 1 / step, "active_fraction": 0.5, "mean_positive": 0.2}
    return values | {"mean_negative": 1.0, "mining": "semihard", "margin": 0.2, "rank": 5.0} | more


def test_remarks_come_once_in_order_with_the_changes_of_mining(tmp_path):
    lines = [look(1), look(5, mining="hard"), {"phase": "remark", "step": 4, "remark": "it is shrinking"}]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "tr')
    history = read_history(tmp_path / "history.jsonl")
    assert len(history) == 3
    metrics = {"remarks": [{"step": 4, "kind": "shrinking", "text": "it is shrinking"}]}
    assert remark_lines(history, metrics) == (
        "Step 4: it is shrinking",
        "Step 5: mining went from semihard to hard",
    )
    assert read_history(tmp_path / "none.jsonl") == [] and remark_lines([], {}) == ()


def test_curves_are_drawn_of_what_was_noted():
    history = [look(1), look(2), look(3)]
    assert [one.heading for one in training_drawings(history)] == ["Loss", "Active triplets", "Distances", "Directions"]
    history[2]["margin"] = 0.3
    history += [
        {"phase": "validate", "step": step, "validation_eer": 0.3 / step, "validation_map_at_r": 0.5} for step in (2, 3)
    ]
    drawn = {one.heading: one for one in training_drawings(history)}
    assert {"Margin", "Validation EER", "Validation MAP@R"} <= drawn.keys()
    assert "10.0 %" in drawn["Validation EER"].caption
    assert training_drawings([look(1)]) == ()
    old = [{"phase": "train", "step": step, "loss": 0.1} for step in (1, 2)]
    assert [one.heading for one in training_drawings(old)] == ["Loss"]


def test_the_margin_curve_says_where_a_tenth_is_active():
    margins = np.array([0.0, 0.5, 1.0])
    curve = RunCurve(margins, margins, np.array([0.0, 0.2, 0.4]), "squared", 0.2, 120, 6)
    drawn = margin_drawing(curve)
    assert "From a margin of 0.25 on" in drawn.caption and "120 samples of 6 identities" in drawn.caption
    assert "trained with 0.2" in drawn.svg
    soft = RunCurve(margins, margins, np.array([0.2, 0.3, 0.4]), "squared", "soft", 120, 6)
    assert "Trained with soft" in margin_drawing(soft).caption and "tenth" not in margin_drawing(soft).caption


def test_damaged_notes_cost_their_own_lines_and_nothing_else(tmp_path):
    lines = [
        '{"phase": "train", "step": 1, "loss": 0.5, "margin": "wide"}',
        '{"phase": "train", "step": 2, "loss": NaN, "margin": true}',
        '{"phase": "train", "step": 3, "loss": 0.4, "rank": Infinity}',
        '{"phase": "train", "step": "four", "loss": 0.3}',
        '{"phase": 5, "step": 5}',
        '{"phase": "validate", "step": 3, "validation_eer": "low"}',
        "[1]",
        '"text"',
        '{"phase": "train", "ste',
    ]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    history = read_history(tmp_path / "history.jsonl")
    assert [entry["step"] for entry in history] == [1, 2, 3, 3]
    assert [drawing.heading for drawing in training_drawings(history)] == ["Loss"]
    assert remark_lines(history, {"remarks": "none"}) == ()
    noted = [1, {"step": "two", "text": "a"}, {"step": 7}, {"step": 8, "text": "said"}]
    assert remark_lines(history, {"remarks": noted}) == ("Step 7: ", "Step 8: said")
