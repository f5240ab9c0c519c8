"""Formula 1: the triplet loss, on given triplets and over all triplets of a batch.

Legend: B rows of the batch, M reference rows, D embedding width, N given triplets.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tercet.errors import InvalidInput, InvalidOption
from tercet.functional import _tiles
from tercet.functional._compile import outside_graph
from tercet.functional._once import once
from tercet.functional._threads import on_one_core
from tercet.functional._tiles import Problem, Sums, loss_and_slope
from tercet.functional.distances import Geometry
from tercet.functional.engine import chosen_engine
from tercet.functional.options import (
    DISTANCES,
    MINING,
    REDUCTIONS,
    Margin,
    Relation,
    check_choice,
    check_embeddings,
    check_margin,
    check_relation_table,
    working_dtype,
)

__all__ = ["batch_triplet_loss", "check_problem", "triplet_loss"]


@outside_graph
def batch_triplet_loss(
    embeddings: Tensor,
    labels: Tensor | None,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    mining: str = "all",
    reduction: str = "mean",
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    anchor_rows: Tensor | None = None,
    relation: Relation | None = None,
    swap: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Triplet loss over the triplets of a batch, exact, without a list of triplets.

    Formula 1: mean over the kept triplets of max(0, d(a, p) - d(a, n) + margin). A positive has the anchor's label and
    is another row; a negative has another label. A label < 0 marks a row that is negative only: nobody's positive and
    no anchor. Rows without a positive or without a negative are no anchors.

    Args:
        embeddings: [B, D], floating point. float16 and bfloat16 are computed in float32.
        labels: [B], any integer dtype; may be None with `relation`.
        margin: in units of `distance` (squared ones for `"squared"`): a number >= 0, a tensor [B] (one per anchor), or
            `"soft"` for log(1 + exp(d_ap - d_an)).
        distance: `"squared"` sum (u - v)^2, `"euclidean"` its root, `"cosine"` 1 - u.v / (|u| |v|).
        mining: which triplets are kept. `"all"`; `"hard"` (per anchor the farthest positive with the nearest negative);
            `"semihard"` (per anchor-positive pair the nearest negative with d_ap < d_an < d_ap + margin, left out where
            there is none; no upper end with the soft margin); `"hard_negative"` (every positive with the nearest
            negative); `"easy_positive"` (per anchor the nearest positive with the nearest negative); `"random"` and
            `"distance_weighted"` (per pair one negative drawn; the latter wants unit-norm rows).
        reduction: `"mean"` over kept triplets, `"active"` over those with loss > 0, `"anchor"` (mean over anchors of
            the mean over each one's kept triplets), `"sum"`, `"none"` ([B] sums per anchor).
        reference: [M, D] rows from which positives and negatives come instead (a memory bank, a gathered batch).
        reference_labels: [M].
        anchor_rows: [B] the row of `reference` where each anchor itself stands, so that it is not its own positive
            (-1: nowhere). None: nobody stands there, even if the reference repeats the batch.
        relation: `(anchor_rows, other_rows) -> int8 [len(anchor_rows), len(other_rows)]` of +1 positive, 0 ignore, -1
            negative; takes the place of the labels and is called a tile of rows at a time.
        swap: replace d_an by min(d_an, d_pn); the triplets are chosen without it.
        generator: of the draws; one number is taken from it per call.

    Returns:
        A scalar, or [B] for `"none"`; float64 for float64 embeddings, else float32. 0 with gradient 0 where there is
        no triplet.

    Cost: with K positives of the anchor that has the most, O(B M (D + min(K, log M))) operations for `"all"`, memory
    O((B + M) D) and one tile; no [B, M]. `"soft"` needs B M K, `swap` with `"all"` B M K D operations.

    Ties: the lowest row wins. The gradient is 0 at the hinge point, at euclidean distance 0, and for zero rows under
    cosine. It can be taken once: a second derivative is refused.

    Raises:
        InvalidOption: an unknown option, or one that makes no sense beside another.
        InvalidInput: wrong shape, dtype, device, or values out of range; the message begins with the argument.

    Sources: Schroff et al., "FaceNet", CVPR 2015 (formula, semihard); Hermans et al., arXiv 1703.07737 (all, hard,
    soft); Xuan et al., WACV 2020 (easy positive); Wu et al., ICCV 2017 (distance weighted); Balntas et al., BMVC 2016
    (swap). Derivation: docs/mathematics.md.

    >>> import torch, tercet.functional as TF
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> TF.batch_triplet_loss(x, torch.tensor([0, 0, 1]), margin=4.0)  # ((1 - 4 + 4) + max(0, 1 - 5 + 4)) / 2
    tensor(0.5000)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    problem = check_problem(
        embeddings,
        labels,
        margin,
        distance,
        mining,
        reference,
        reference_labels,
        anchor_rows,
        relation,
        swap,
        generator,
    )
    rows = (embeddings,) if reference is None else (embeddings, reference)
    gradient = torch.is_grad_enabled() and any(r.requires_grad for r in rows)
    result: Tensor = _BatchTriplets.apply(  # type: ignore[no-untyped-call]
        embeddings, reference, problem, reduction, gradient
    )
    return result


def check_problem(
    embeddings: Tensor,
    labels: Tensor | None,
    margin: Margin,
    distance: str,
    mining: str,
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    anchor_rows: Tensor | None = None,
    relation: Relation | None = None,
    swap: bool = False,
    generator: torch.Generator | None = None,
) -> Problem:
    """Check every argument and bring the call into one form; takes one number from `generator` if there are draws."""
    check_choice("distance", distance, DISTANCES)
    check_choice("mining", mining, MINING)
    check_embeddings("embeddings", embeddings, distance)
    if isinstance(reference, Tensor) and reference.ndim == 2:
        check_embeddings("reference", reference, distance)
    table = check_relation_table(embeddings, labels, reference, reference_labels, anchor_rows, relation)
    if not isinstance(swap, bool):
        raise InvalidInput(f"swap must be True or False, got {swap!r}")
    seed = 0
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidInput(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if mining in ("random", "distance_weighted"):
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device if generator else "cpu"))
    if mining == "distance_weighted" and distance != "cosine":
        for name, rows in (("embeddings", embeddings), ("reference", reference)):
            if rows is not None and len(rows) and float((rows.detach().float().norm(dim=1) - 1).abs().max()) > 0.01:
                raise InvalidInput(
                    f'{name} must have rows of norm 1 for mining="distance_weighted", or distance="cosine"'
                )
    like = embeddings.detach().new_empty(0, dtype=working_dtype(embeddings))
    return Problem(table, distance, mining, check_margin(margin, len(embeddings), like), swap, seed)


class _BatchTriplets(torch.autograd.Function):
    """The loss, and its gradient taken in the same pass over the tiles; `"none"` passes over them again in backward."""

    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, y_MD: Tensor | None, problem: Problem, reduction: str, gradient: bool
    ) -> Tensor:
        ctx.problem, ctx.reduction = problem, reduction
        at_once = gradient and reduction != "none"
        with torch.autocast(x_BD.device.type, enabled=False), on_one_core(x_BD, y_MD):
            sums = _reduce(x_BD, y_MD, problem, gradient=at_once, mean_per_anchor=reduction == "anchor")
            loss, ctx.scale = _reduced(sums, reduction, soft=problem.margin is None)
        if at_once:
            ctx.save_for_backward(x_BD, y_MD, sums.dx_BD, sums.dy_MD)
        else:
            ctx.save_for_backward(x_BD, y_MD, None, None)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (up,) = upstream
        x_BD, y_MD, dx_BD, dy_MD = ctx.saved_tensors
        if ctx.reduction == "none":
            off = torch.autocast(x_BD.device.type, enabled=False)
            with torch.no_grad(), off, on_one_core(x_BD, y_MD):
                sums = _reduce(x_BD, y_MD, ctx.problem, gradient=True, weight_B=up)
            dx_BD, dy_MD = sums.dx_BD, sums.dy_MD
        else:
            dx_BD = dx_BD * (up * ctx.scale)
            dy_MD = None if dy_MD is None else dy_MD * (up * ctx.scale)
        return (
            once(dx_BD, x_BD, up),
            None if dy_MD is None else once(dy_MD, y_MD, up),
            None,
            None,
            None,
        )


def _reduce(
    x_BD: Tensor,
    y_MD: Tensor | None,
    problem: Problem,
    *,
    gradient: bool,
    weight_B: Tensor | None = None,
    mean_per_anchor: bool = False,
) -> Sums:
    """The one place where the engine is chosen. The rows come as the user gave them."""
    engine = chosen_engine()
    if engine == "triton" or (engine == "auto" and x_BD.device.type in ("cuda", "xpu")):
        kernels = _triton_engine()
        why = "triton is not installed" if kernels is None else kernels.cannot_reduce(x_BD, y_MD, problem)
        if kernels is not None and why is None:
            done: Sums | None = kernels.reduce_triplets(
                x_BD, y_MD, problem, gradient=gradient, weight_B=weight_B, mean_per_anchor=mean_per_anchor
            )
            if done is not None:
                return done
            why = "its table of positive distances would be too large for a class of this size"
        if engine == "triton":
            raise InvalidOption(f'engine="triton" cannot do this call: {why}')
    dtype = working_dtype(x_BD)
    x_BD, y_MD = x_BD.to(dtype), None if y_MD is None else y_MD.to(dtype)
    if engine in ("auto", "fused"):
        fused = _fused_engine()
        if fused is not None and fused.can_reduce(x_BD, y_MD, problem):
            sums: Sums | None = fused.reduce_triplets(
                x_BD,
                problem,
                gradient=gradient,
                weight_B=weight_B,
                mean_per_anchor=mean_per_anchor,
                anyhow=engine == "fused",
            )
            if sums is not None:
                return sums
        if engine == "fused":
            raise InvalidOption(
                'engine="fused" does labels without reference, relation or swap, in float32 on the CPU, without draws, '
                'and "all" without the soft margin; no margins or distances beyond 1e30, no very large classes'
            )
    return _tiles.reduce_triplets(
        x_BD, y_MD, problem, gradient=gradient, weight_B=weight_B, mean_per_anchor=mean_per_anchor
    )


@functools.cache
def _triton_engine() -> ModuleType | None:
    """The kernels for GPUs, or None where triton is not installed."""
    try:
        from tercet.functional import _triton
    except ImportError:
        return None
    return _triton


@functools.cache
def _fused_engine() -> ModuleType | None:
    """The compiled engine, or None where numba is not installed."""
    try:
        from tercet.functional import _fused
    except (ImportError, RuntimeError):  # not installed; or nowhere to keep its compiled code
        return None
    return _fused


def _reduced(sums: Sums, reduction: str, *, soft: bool) -> tuple[Tensor, Tensor | float]:
    """The loss, and what the gradient of the weighted sum is multiplied with. Sums over anchors run in float64."""
    if reduction == "none":
        return sums.loss_B, 1.0
    loss_B = sums.loss_B.to(torch.float64)
    if reduction == "anchor":
        loss_B = loss_B / sums.kept_B.clamp(min=1)
        count = (sums.kept_B > 0).sum()
    elif reduction == "active":
        count = (sums.kept_B if soft else sums.active_B).sum()  # log(1 + exp(gap)) is above 0 whatever the gap
    elif reduction == "mean":
        count = sums.kept_B.sum()
    else:
        count = sums.kept_B.new_ones(())
    scale = 1.0 / count.clamp(min=1).to(torch.float64)
    return (loss_B.sum() * scale).to(sums.loss_B.dtype), scale.to(sums.loss_B.dtype)


@outside_graph
def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: Margin = 0.2,
    distance: str = "squared",
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Formula 1 on N given triplets: mean of max(0, d(a, p) - d(a, n) + margin).

    Args:
        anchor: [N, D], floating point.
        positive: [N, D].
        negative: [N, D].
        margin: in units of `distance`: a number >= 0, `"soft"`, or a tensor [N].
        distance: `"squared"`, `"euclidean"` or `"cosine"`, as in `batch_triplet_loss`.
        swap: replace d_an by min(d_an, d_pn).
        reduction: `"mean"` (`"anchor"` is the same, each row being its own anchor), `"active"` (over losses > 0),
            `"sum"`, or `"none"` ([N]).

    Returns:
        A scalar, or [N] for `"none"`; 0 with gradient 0 for N = 0. O(N D) time and memory.

    Raises:
        InvalidOption: an unknown option.
        InvalidInput: shapes that differ, wrong dtypes, values out of range.

    Source: Schroff et al., "FaceNet", CVPR 2015, equation 2; Balntas et al., BMVC 2016 (swap).

    >>> import torch, tercet.functional as TF
    >>> a, p, n = torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])
    >>> TF.triplet_loss(a, p, n, margin=3.5)  # 1 - 4 + 3.5
    tensor(0.5000)
    """
    check_choice("distance", distance, DISTANCES)
    check_choice("reduction", reduction, REDUCTIONS)
    if not isinstance(swap, bool):
        raise InvalidInput(f"swap must be True or False, got {swap!r}")
    for name, rows in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        check_embeddings(name, rows, distance)
        if rows.shape != anchor.shape:
            raise InvalidInput(f"{name} has shape {list(rows.shape)}, anchor has {list(anchor.shape)}")
        if rows.device != anchor.device:
            raise InvalidInput(f"{name} is on {rows.device}, anchor is on {anchor.device}")
        if rows.dtype != anchor.dtype:
            raise InvalidInput(f"{name} is {rows.dtype}, anchor is {anchor.dtype}")
    dtype = working_dtype(anchor)
    checked = check_margin(margin, len(anchor), anchor.detach().new_empty(0, dtype=dtype))
    loss_N: Tensor = _GivenTriplets.apply(  # type: ignore[no-untyped-call]
        anchor.to(dtype), positive.to(dtype), negative.to(dtype), checked, distance, swap
    )
    if reduction == "none":
        return loss_N
    active = len(loss_N) if checked is None else int((loss_N > 0).sum())
    count = {"sum": 1, "active": active}.get(reduction, len(loss_N))
    return loss_N.sum() / max(count, 1)


class _GivenTriplets(torch.autograd.Function):
    """Losses [N] of given triplets, and their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        a_ND: Tensor,
        p_ND: Tensor,
        n_ND: Tensor,
        margin: Tensor | float | None,
        distance: str,
        swap: bool,
    ) -> Tensor:
        with torch.autocast(a_ND.device.type, enabled=False):
            ap, an, pn = Geometry(a_ND, p_ND, distance), Geometry(a_ND, n_ND, distance), Geometry(p_ND, n_ND, distance)
            d_ap_N = ap.pairs(ap.x_BD, ap.y_MD)
            d_an_N = an.pairs(an.x_BD, an.y_MD)
            d_pn_N = pn.pairs(pn.x_BD, pn.y_MD) if swap else d_an_N
            swapped_N = d_pn_N < d_an_N
            gap_N = d_ap_N - torch.where(swapped_N, d_pn_N, d_an_N)
            loss_N, slope_N = loss_and_slope(gap_N if margin is None else gap_N + margin, margin is None)
        ctx.save_for_backward(a_ND, p_ND, n_ND, slope_N, swapped_N, d_ap_N, d_an_N, d_pn_N)
        ctx.distance = distance
        return loss_N

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        a_ND, p_ND, n_ND, slope_N, swapped_N, d_ap_N, d_an_N, d_pn_N = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(a_ND.device.type, enabled=False):
            g_N = upstream[0] * slope_N
            sides = [torch.zeros_like(a_ND) for _ in range(3)]
            for i, j, g_side_N, d_N in (
                (0, 1, g_N, d_ap_N),
                (0, 2, -g_N.masked_fill(swapped_N, 0), d_an_N),
                (1, 2, -g_N.masked_fill(~swapped_N, 0), d_pn_N),
            ):
                geometry = Geometry((a_ND, p_ND, n_ND)[i], (a_ND, p_ND, n_ND)[j], ctx.distance)
                di_ND, dj_ND = geometry.back_pairs(geometry.slope(g_side_N, d_N), geometry.x_BD, geometry.y_MD)
                sides[i] += geometry.back_rows(di_ND)
                sides[j] += geometry.back_rows(dj_ND, of_others=True)
        return (*(once(side, a_ND, p_ND, n_ND, upstream[0]) for side in sides), None, None, None)
