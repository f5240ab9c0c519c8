"""What a task is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from tercet.data import ImageFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.errors import InvalidInput
from tercet.train.plan import Augment, Plan, Settings

__all__ = ["Task"]


@final
@dataclass(frozen=True)
class Task:
    """A kind of data, and what works for it.

    Args:
        name: Its name.
        summary: One line for `--help`.
        front_end: Turns a file into a picture.
        encoder: Shape of the network.
        augment: Changes that leave the identity as it is.
        settings: Training settings, with a budget that is enough for small data.
    """

    name: str
    summary: str
    front_end: ImageFrontEnd
    encoder: ConvEncoderConfig
    augment: Augment
    settings: Settings

    @property
    def suffixes(self) -> frozenset[str]:
        """Endings of the files that are samples."""
        return self.front_end.SUFFIXES

    def plan(self, *, embedding_dim: int | None = None, **settings: Any) -> Plan:
        """A plan for training, with some of the task's settings replaced.

        Args:
            embedding_dim: Width of the embedding.
            **settings: Fields of `Settings`; one of minutes and epochs replaces the other.

        Raises:
            InvalidInput: A value out of range, or an unknown setting.
            InvalidOption: An unknown option.
        """
        if "minutes" in settings or "epochs" in settings:
            settings = {"minutes": None, "epochs": None} | settings
        try:
            chosen = replace(self.settings, **settings)
        except TypeError as error:
            raise InvalidInput(f"settings: {error}") from error
        encoder = self.encoder if embedding_dim is None else replace(self.encoder, embedding_dim=embedding_dim)
        return Plan(self.name, self.front_end, encoder, self.augment, chosen)
