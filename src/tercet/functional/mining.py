"""The triplets themselves, as index lists: the one thing here that grows with their number.

Legend: B rows of the batch, M reference rows, D embedding width, T triplets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.functional._compile import full_precision
from tercet.functional._tiles import tiles
from tercet.functional.distances import Geometry
from tercet.functional.options import Margin, working_dtype
from tercet.functional.selection import Tile, choose
from tercet.functional.triplets import check_problem

__all__ = ["mine"]


@torch.no_grad()
@full_precision
def mine(
    embeddings: Tensor,
    labels: Tensor,
    *,
    mining: str = "semihard",
    margin: Margin = 0.2,
    distance: str = "squared",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets that `mining` keeps, as (anchor, positive, negative) indices in that order of sorting.

    The lists grow with the number of triplets T (24 bytes each): for `"all"` that is cubic in the batch, so use
    `batch_triplet_loss`, which never forms them, to train. Everything else stays at one tile.

    Args:
        embeddings: [B, D], floating point.
        labels: [B] integers; < 0 is negative only.
        mining: as in `batch_triplet_loss`.
        margin: in units of `distance`; ends the window of `"semihard"`, no other mode looks at it.
        distance: `"squared"`, `"euclidean"` or `"cosine"`.
        reference: [M, D] rows that `positive` and `negative` point to instead of the batch.
        reference_labels: [M].
        generator: of the draws.

    Returns:
        Three int64 tensors [T].

    Raises:
        InvalidOption: an unknown option.
        InvalidInput: wrong shape, dtype, device, or values out of range.

    >>> import torch, tercet.functional as TF
    >>> x = torch.tensor([[0.0], [1.0], [1.2], [9.0]])
    >>> TF.mine(x, torch.tensor([0, 0, 1, 2]), mining="hard")
    (tensor([0, 1]), tensor([1, 0]), tensor([2, 2]))
    """
    problem = check_problem(
        embeddings, labels, margin, distance, mining, reference, reference_labels, generator=generator
    )
    dtype = working_dtype(embeddings)
    geometry = Geometry(embeddings.to(dtype), None if reference is None else reference.to(dtype), distance)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for tile in tiles(geometry, problem):
        if mining == "all":
            row_P, positive_P, negative_P = _all(tile)
        else:
            chosen = choose(tile, mining, problem.seed, embeddings.shape[1], distance)
            row_P, positive_P, negative_P = chosen.row_P, chosen.positive_P, chosen.negative_P
        found.append((row_P + tile.start, positive_P, negative_P))
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=embeddings.device)
        return none, none.clone(), none.clone()
    anchor, positive, negative = (torch.cat(column) for column in zip(*found, strict=True))
    return anchor, positive, negative


def _all(tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Every triplet of a tile, row by row."""
    row_P, positive_P = torch.nonzero(tile.positive_TM, as_tuple=True)
    row_N, negative_N = torch.nonzero(tile.negative_TM, as_tuple=True)
    count_T = torch.bincount(row_N, minlength=len(tile.d_TM))
    first_T = count_T.cumsum(0) - count_T
    times_P = count_T[row_P]
    pair_T = torch.repeat_interleave(torch.arange(len(row_P), device=row_P.device), times_P)
    place_T = torch.arange(len(pair_T), device=row_P.device) - (times_P.cumsum(0) - times_P)[pair_T]
    return row_P[pair_T], positive_P[pair_T], negative_N[first_T[row_P[pair_T]] + place_T]
