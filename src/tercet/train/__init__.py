"""Training: a plan, the loop that carries it out, and the checkpoints that outlive a kill."""

from __future__ import annotations

from tercet.train.loop import train
from tercet.train.plan import Plan, Settings
from tercet.train.progress import TrainingProgress

__all__ = ["Plan", "Settings", "TrainingProgress", "train"]
