"""What a task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch

from tercet.data import LAYOUTS, FrontEnd, Manifest, read_data
from tercet.encoders import EncoderConfig
from tercet.errors import InvalidInput, InvalidOption
from tercet.evaluate import ReferenceProtocol
from tercet.train.plan import Augment, Plan, Settings

__all__ = ["Layout", "Task"]


@final
@dataclass(frozen=True)
class Layout:
    """One way in which data of a kind is published.

    Args:
        name: What `--layout` calls it.
        summary: One line: whose layout it is, and by what it is known.
        recognise: Whether a path holds data in this layout; looks at names only, and never raises.
        read: Lists the samples: (path, suffixes) -> manifest. Raises DataError, with a line number where a list is off.
    """

    name: str
    summary: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, frozenset[str]], Manifest]


@final
@dataclass(frozen=True)
class Task:
    """A kind of data, and what works for it.

    Args:
        name: Its name.
        summary: One line for `--help`.
        front_end: Turns a file into a sample.
        encoder: Shape of the network.
        augment: Changes that leave the identity as it is.
        settings: Training settings, with a budget that is enough for small data.
        references: How samples are questioned against several references in the test; None: they are not.
        cohort: Verification is scored with AS-norm besides, by so many of the training identities; None: it is not.
        layouts: Ways in which such data is published, beside a folder per identity and a manifest; asked in this order.
        start: Weights that the encoder begins with, where they are not drawn: a pretrained backbone's.
    """

    name: str
    summary: str
    front_end: FrontEnd
    encoder: EncoderConfig
    augment: Augment
    settings: Settings
    layouts: tuple[Layout, ...] = field(default=())
    references: ReferenceProtocol | None = None
    cohort: int | None = None
    start: Mapping[str, torch.Tensor] | None = field(default=None, compare=False, repr=False)

    @property
    def suffixes(self) -> frozenset[str]:
        """Endings of the files that are samples."""
        return self.front_end.SUFFIXES

    def read(self, path: Path, *, layout: str = "auto") -> Manifest:
        """List the samples of a data set.

        Args:
            path: A folder or a file.
            layout: The name of one of the task's layouts, "folders", "manifest", or "auto": the first of the task's
                layouts that recognises the path, else a folder per identity or a manifest.

        Raises:
            InvalidOption: A layout that the task does not know.
            DataError: Nothing can be read from the path.
        """
        named = {found.name: found for found in self.layouts}
        if layout not in (*LAYOUTS, *named):
            raise InvalidOption.unknown("layout", layout, (*LAYOUTS, *named))
        if layout == "auto":
            layout = next((found.name for found in self.layouts if found.recognise(Path(path))), "auto")
        if layout in named:
            return named[layout].read(Path(path), self.suffixes)
        return read_data(path, layout=layout, suffixes=self.suffixes)

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
        encoder = self.encoder if embedding_dim is None else self.encoder.with_embedding_dim(embedding_dim)
        return Plan(self.name, self.front_end, encoder, self.augment, chosen, self.start)
