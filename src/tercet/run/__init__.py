"""The bundle of a trained model: saved, loaded and used."""

from __future__ import annotations

from tercet.run.bundle import RunSplit, save_model
from tercet.run.model import Decision, Model, load
from tercet.run.vectors import Hit, Vectors

__all__ = ["Decision", "Hit", "Model", "RunSplit", "Vectors", "load", "save_model"]
