"""Options of `train` about scale: the size of a batch and how it is computed, the memory bank, precision, trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tercet.errors import InvalidOption

if TYPE_CHECKING:
    from tercet.train import Settings

__all__ = [
    "BatchSizeOption",
    "CategoriesOption",
    "CheckpointsOption",
    "ChunkOption",
    "ClipOption",
    "CompileOption",
    "MemoryAgeOption",
    "MemoryMomentumOption",
    "MemoryOption",
    "MemoryWarmupOption",
    "MineEveryOption",
    "MineSkipOption",
    "PrecisionOption",
    "SamplesOption",
    "TemperOption",
    "TensorboardOption",
    "TimeoutOption",
    "batch_settings",
]

_PANEL: Final = "Scale"

BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Samples in a batch, over all processes; forgeries come on top.",
        show_default="by task",
        rich_help_panel=_PANEL,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(help="Samples of each identity in a batch.", show_default="by task", rich_help_panel=_PANEL),
]
TemperOption = Annotated[
    float | None,
    typer.Option(
        help="How much more often identities with more samples come: from 0, all alike, to 1, in proportion.",
        show_default="0",
        rich_help_panel=_PANEL,
    ),
]
CategoriesOption = Annotated[
    int | None,
    typer.Option(
        help="Of how many categories a batch is, so that its negatives are hard; DATA names them (column category).",
        show_default="any",
        rich_help_panel=_PANEL,
    ),
]
MineEveryOption = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS",
        help="After so many steps each time, search all of the training set for what is hard, and make batches of it.",
        show_default="never",
        rich_help_panel=_PANEL,
    ),
]
MineSkipOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Leave out this share of the hardest samples: wrong labels are among them.",
        show_default="0.02",
        rich_help_panel=_PANEL,
    ),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(
        help="Samples that go through the encoder at once: for batches that do not fit; the gradient is the same.",
        show_default="all",
        rich_help_panel=_PANEL,
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        metavar="ROWS",
        help="Compare anchors also with so many embeddings of past batches.",
        show_default="0",
        rich_help_panel=_PANEL,
    ),
]
MemoryAgeOption = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS",
        help="Leave out those that are older.",
        show_default="no limit",
        rich_help_panel=_PANEL,
    ),
]
MemoryWarmupOption = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS", help="Begin with them after so many steps.", show_default="0", rich_help_panel=_PANEL
    ),
]
MemoryMomentumOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Have them made by an encoder that keeps this share of its weights at each step, such as 0.99.",
        show_default="the trained encoder",
        rich_help_panel=_PANEL,
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="Of the encoder: float32, bfloat16 or float16; the loss has float32.",
        show_default="float32",
        rich_help_panel=_PANEL,
    ),
]
ClipOption = Annotated[
    float | None,
    typer.Option(help="Largest norm of the gradient.", show_default="no limit", rich_help_panel=_PANEL),
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Run the encoder as torch.compile makes it.",
        show_default="--no-compile",
        rich_help_panel=_PANEL,
    ),
]
CheckpointsOption = Annotated[
    int | None,
    typer.Option(help="How many checkpoints are kept, 2 or more.", show_default="2", rich_help_panel=_PANEL),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="How long a process waits for the others before it gives up.", rich_help_panel=_PANEL
    ),
]
TensorboardOption = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write the figures as tensorboard files into RUN too.", rich_help_panel=_PANEL),
]


def batch_settings(now: Settings, batch_size: int | None, samples_per_identity: int | None) -> dict[str, Any]:
    """What the size of a batch means in identities P and samples K of each: B = P x K.

    Args:
        now: The settings as they are; their K serves where none is given.
        batch_size: B.
        samples_per_identity: K.

    Raises:
        InvalidOption: B is no multiple of K, or less than two identities.
    """
    each = now.samples_per_identity if samples_per_identity is None else samples_per_identity
    settings: dict[str, Any] = {} if samples_per_identity is None else {"samples_per_identity": each}
    if batch_size is None:
        return settings
    if each < 1 or batch_size % each or batch_size < 2 * each:
        raise InvalidOption(
            f"--batch-size {batch_size} must be {each} samples (--samples-per-identity) of two or more identities"
        )
    return settings | {"identities_per_batch": batch_size // each}
