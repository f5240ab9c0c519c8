"""Batches for property tests: odd shapes, duplicates, ties on whole numbers, negative-only rows, references."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st


@dataclass
class Batch:
    x: torch.Tensor
    labels: torch.Tensor
    reference: torch.Tensor | None = None
    reference_labels: torch.Tensor | None = None
    anchor_rows: torch.Tensor | None = None
    kind: str = "random"

    def others(self) -> dict[str, torch.Tensor | None]:
        return {
            "reference": self.reference,
            "reference_labels": self.reference_labels,
            "anchor_rows": self.anchor_rows,
        }


def rows(draw: st.DrawFn, count: int, width: int, kind: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "whole":  # many ties, exact arithmetic
        return torch.randint(-2, 3, (count, width), generator=generator).double()
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if kind == "far":
        return x + 1000.0
    if kind == "copies" and count:
        return x[torch.randint(0, max(1, count // 2), (count,), generator=generator)]
    return x


@st.composite
def batches(draw: st.DrawFn, max_rows: int = 9, references: bool = False) -> Batch:
    count = draw(st.integers(0, max_rows))
    width = draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["random", "whole", "far", "copies"]))
    seed = draw(st.integers(0, 10_000))
    label = st.sampled_from([0, 0, 1, 2, -1, -7, 40])
    x = rows(draw, count, width, kind, seed)
    labels = torch.tensor(draw(st.lists(label, min_size=count, max_size=count)), dtype=torch.int64)
    if not references or draw(st.booleans()):
        return Batch(x, labels, kind=kind)
    others = draw(st.integers(0, max_rows))
    y = rows(draw, others, width, kind, seed + 1)
    y_labels = torch.tensor(draw(st.lists(label, min_size=others, max_size=others)), dtype=torch.int64)
    where = None
    if draw(st.booleans()):
        where = torch.tensor(
            draw(st.lists(st.integers(-1, others - 1), min_size=count, max_size=count)), dtype=torch.int64
        )
    return Batch(x, labels, y, y_labels, where, kind)
