"""A trained model scored on data it has not seen, beside its baselines, and the threshold to decide by."""

from __future__ import annotations

from tercet.protocol.baselines import baselines_of, description, frozen, plain_baseline, untrained
from tercet.protocol.calibration import Calibrated, Impostors, calibrate_run, calibration_rows
from tercet.protocol.evaluation import Evaluation, Protocol, evaluate_run
from tercet.protocol.listed import ListedPairs, listed_pairs
from tercet.protocol.rows import Scored, scored_rows

__all__ = [
    "evaluate_run",
    "Evaluation",
    "Protocol",
    "scored_rows",
    "Scored",
    "listed_pairs",
    "ListedPairs",
    "calibrate_run",
    "calibration_rows",
    "Calibrated",
    "Impostors",
    "baselines_of",
    "description",
    "frozen",
    "plain_baseline",
    "untrained",
]
