"""Cosine similarities that do not depend on where a row stands, and the exact nearest rows by them.

A matrix product rounds its last bits differently at the edge of a block than inside it, so two identical rows can get
two different similarities, and a tie stops being a tie. Here every similarity is computed in float64 from rows scaled
to unit length and then rounded to a grid of 2^-24 (6e-8, about the accuracy of a float32 vector): equal rows get equal
scores.

Legend: N, M rows; Q queries; G gallery rows; D embedding width; K neighbours; B queries and T gallery rows of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput
from tercet.evaluate.shortlist import LEAST_GALLERY, Shortlist

__all__ = ["Neighbours", "cosine", "nearest"]

_GRID = 2.0**24
_TILE_ENTRIES = 2**20  # keys in memory at a time: 8 MiB, which the processor's cache can nearly hold
_INDEX = np.int64(2**32 - 1)
_KEPT_VALUES = 2**26  # a gallery up to here (512 MiB) is kept in float64 while it is searched
_NOTHING = np.int64(-(2**62))  # the key of an excluded row or an empty place: below that of every score


@final
@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery rows of each query, best first.

    `index_QK` is int64, -1 where fewer than K rows were there to choose from; `score_QK` is the cosine similarity as
    float32, 0 at those places.
    """

    index_QK: npt.NDArray[np.int64]
    score_QK: npt.NDArray[np.float32]


def checked_vectors(x_ND: npt.ArrayLike, name: str) -> npt.NDArray[np.floating]:
    """`x_ND` as a finite floating array with two axes, or InvalidInput that begins with `name`."""
    x = np.asarray(x_ND)
    if x.ndim != 2:
        raise InvalidInput(f"{name}: expected [N, D], got shape {list(x.shape)}")
    if not np.issubdtype(x.dtype, np.floating):
        raise InvalidInput(f"{name}: expected floating point, got {x.dtype}")
    if not np.isfinite(x).all():
        raise InvalidInput(f"{name}: holds NaN or infinity")
    return x


def checked_labels(labels_N: npt.ArrayLike, rows: int, name: str) -> npt.NDArray[np.int64]:
    """`labels_N` as int64 [rows], or InvalidInput that begins with `name`."""
    labels = np.asarray(labels_N)
    if labels.shape != (rows,):
        raise InvalidInput(f"{name}: expected [{rows}], got shape {list(labels.shape)}")
    if not np.issubdtype(labels.dtype, np.integer) and labels.size:
        raise InvalidInput(f"{name}: expected integers, got {labels.dtype}")
    return labels.astype(np.int64, copy=False)


def unit_rows(x_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Rows scaled to length 1 in float64; a zero row stays zero, so that its similarity to everything is 0."""
    x = x_ND.astype(np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    x /= np.where(largest > 0, largest, 1.0)  # so that no square overflows or vanishes
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    x /= np.where(norm > 0, norm, 1.0)
    return x


def grid_steps(a_BD: npt.NDArray[np.float64], b_TD: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine similarities [B, T] between unit rows in whole steps of the grid: -2^24 to 2^24, as float64."""
    steps = (a_BD * _GRID) @ b_TD.T  # a power of two, so scaling first rounds nothing
    return np.rint(steps, out=steps)


def tile_similarity(a_BD: npt.NDArray[np.float64], b_TD: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cosine similarities [B, T] between unit rows, on the grid (which float32 holds exactly)."""
    return (grid_steps(a_BD, b_TD) / _GRID).astype(np.float32)


def row_similarity(a_ND: npt.NDArray[np.float64], b_ND: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cosine similarities [N] of unit rows with the same row of the other, on the grid."""
    steps: npt.NDArray[np.float64] = np.rint(np.einsum("nd,nd->n", a_ND, b_ND) * _GRID)
    return (steps / _GRID).astype(np.float32)


def cosine(a_ND: npt.ArrayLike, b_ND: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Cosine similarity of each row of `a_ND` with the same row of `b_ND`.

    score_n = <a_n, b_n> / (|a_n| |b_n|), rounded to a multiple of 2^-24; 0 where a row is zero. It is the score by
    which `all_pairs` and `nearest` judge, bit for bit but for a similarity that falls on a rounding boundary. Returns
    float32 [N]; raises InvalidInput for shapes that differ and for values that are not finite. Cost: O(N D).

    >>> cosine([[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]).tolist()
    [1.0, 0.0]
    """
    a, b = checked_vectors(a_ND, "a_ND"), checked_vectors(b_ND, "b_ND")
    if a.shape != b.shape:
        raise InvalidInput(f"b_ND: expected shape {list(a.shape)} as a_ND, got {list(b.shape)}")
    return row_similarity(unit_rows(a), unit_rows(b))


def nearest(
    query_QD: npt.ArrayLike,
    gallery_GD: npt.ArrayLike | None = None,
    k: int = 10,
    *,
    query_ids: npt.ArrayLike | None = None,
    gallery_ids: npt.ArrayLike | None = None,
    tile: int = 1024,
) -> Neighbours:
    """The `k` gallery rows of highest cosine similarity to each query, exactly; at ties the lowest row wins.

    Without a gallery the queries are searched among themselves, each leaving itself out. A gallery row whose id equals
    the query's id is left out; ids are integers or strings of samples (not identities), and without them nothing is
    left out of a gallery that was given.

    Shapes: `query_QD` [Q, D], `gallery_GD` [G, D] floating; any scale, a zero row has similarity 0. `tile` is the
    number of gallery rows compared at a time. Cost: O(Q G D) time; memory O(tile * D) and one tile of at most 2^20
    similarities, plus the result. Raises InvalidInput.
    """
    query, gallery, left_out = search_arguments(query_QD, gallery_GD, query_ids, gallery_ids)
    if k < 1:
        raise InvalidInput(f"k: expected at least 1, got {k}")
    index = np.full((len(query), k), -1, dtype=np.int64)
    score = np.zeros((len(query), k), dtype=np.float32)
    wanted = np.full(len(query), k, dtype=np.int64)
    for rows, found, similarity in nearest_tiles(query, gallery, wanted, left_out, tile=tile):
        index[rows, : found.shape[1]] = found
        score[rows, : found.shape[1]] = similarity
    return Neighbours(index, score)


@final
@dataclass(frozen=True)
class SampleIds:
    """Which gallery rows are the query itself: rows with the same code."""

    query_Q: npt.NDArray[np.int64]
    gallery_G: npt.NDArray[np.int64]


def search_arguments(
    query_QD: npt.ArrayLike,
    gallery_GD: npt.ArrayLike | None,
    query_ids: npt.ArrayLike | None,
    gallery_ids: npt.ArrayLike | None,
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], SampleIds | None]:
    """Checked queries and gallery, and the ids by which a query is left out of its own results."""
    query = checked_vectors(query_QD, "query_QD")
    if gallery_GD is None:
        if gallery_ids is not None:
            raise InvalidInput("gallery_ids: given without a gallery")
        own = np.arange(len(query)) if query_ids is None else _checked_ids(query_ids, len(query), "query_ids")
        codes = np.unique(own, return_inverse=True)[1].astype(np.int64)
        return query, query, SampleIds(codes, codes)
    gallery = checked_vectors(gallery_GD, "gallery_GD")
    if gallery.shape[1] != query.shape[1]:
        raise InvalidInput(f"gallery_GD: expected width {query.shape[1]} as the queries, got {gallery.shape[1]}")
    if (query_ids is None) != (gallery_ids is None):
        missing = "query_ids" if query_ids is None else "gallery_ids"
        raise InvalidInput(f"{missing}: ids are needed on both sides of a gallery, or on neither")
    if query_ids is None or gallery_ids is None:
        return query, gallery, None
    q = _checked_ids(query_ids, len(query), "query_ids")
    g = _checked_ids(gallery_ids, len(gallery), "gallery_ids")
    if (q.dtype.kind in "iu") != (g.dtype.kind in "iu"):
        raise InvalidInput(f"gallery_ids: expected the same kind as query_ids ({q.dtype}), got {g.dtype}")
    codes = np.unique(np.concatenate([q, g]), return_inverse=True)[1].astype(np.int64)
    return query, gallery, SampleIds(codes[: len(q)], codes[len(q) :])


def _checked_ids(ids: npt.ArrayLike, rows: int, name: str) -> npt.NDArray[np.generic]:
    array = np.asarray(ids)
    if array.shape != (rows,):
        raise InvalidInput(f"{name}: expected [{rows}], got shape {list(array.shape)}")
    if array.dtype.kind not in "iuUS" and array.size:
        raise InvalidInput(f"{name}: expected integers or strings, got {array.dtype}")
    return array


def nearest_tiles(
    query_QD: npt.NDArray[np.floating],
    gallery_GD: npt.NDArray[np.floating],
    wanted_Q: npt.NDArray[np.int64],
    left_out: SampleIds | None,
    *,
    tile: int,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yield (query rows [B], gallery rows [B, K], similarities [B, K]) until every query has been yielded once.

    K is the largest of the `wanted_Q` of the queries in the chunk, at most G. Queries that want about as many are put
    together, so that one large class does not make the others pay for it.
    """
    if tile < 1:
        raise InvalidInput(f"tile: expected at least 1, got {tile}")
    if len(gallery_GD) > _INDEX:
        raise InvalidInput(f"gallery_GD: at most {_INDEX} rows, got {len(gallery_GD)}")
    order = np.argsort(wanted_Q, kind="stable")
    short = kept = None
    if len(gallery_GD) >= LEAST_GALLERY and len(order) > 1:
        kept = unit_rows(gallery_GD) if gallery_GD.size <= _KEPT_VALUES else None
        parts = [unit_rows(part).astype(np.float32) for part in _parts(gallery_GD)] if kept is None else []
        unit = np.concatenate(parts) if kept is None else kept.astype(np.float32)
        short = Shortlist(unit, None if left_out is None else left_out.gallery_G)
    start = 0
    while start < len(order):
        if short is not None:
            stop = min(len(order), start + short.rows_at_once())
            rows, k = order[start:stop], int(wanted_Q[order[stop - 1]])
            count = short.width(k)
            if count is not None:
                yield (rows, *_read_keys(_quick_keys(short, query_QD, gallery_GD, kept, k, count, rows, left_out)))
                start = stop
                continue
        # The chunk's K is that of its last row, and its width follows from K: shrink until both agree.
        stop = min(len(order), start + max(1, _TILE_ENTRIES // tile))
        while True:
            k = min(int(wanted_Q[order[stop - 1]]), len(gallery_GD))
            fits = max(1, _TILE_ENTRIES // (k + max(tile, 2 * k)))
            if stop - start <= fits:
                break
            stop = start + fits
        rows = order[start:stop]
        keys = _nearest_keys(unit_rows(query_QD[rows]), gallery_GD, k, rows, left_out, columns=max(tile, 2 * k))
        yield (rows, *_read_keys(keys))
        start = stop


def _parts(x_ND: npt.NDArray[np.floating]) -> Iterator[npt.NDArray[np.floating]]:
    size = max(1, _TILE_ENTRIES // max(1, x_ND.shape[1]))
    return (x_ND[start : start + size] for start in range(0, len(x_ND), size))


def _read_keys(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Gallery rows and similarities; -1 and 0 at empty places."""
    empty = keys == _NOTHING
    index = np.where(empty, np.int64(-1), _INDEX - (keys & _INDEX))
    return index, np.where(empty, 0.0, (keys >> np.int64(32)) / _GRID).astype(np.float32)


def _quick_keys(
    short: Shortlist,
    query_QD: npt.NDArray[np.floating],
    gallery_GD: npt.NDArray[np.floating],
    kept_GD: npt.NDArray[np.float64] | None,
    k: int,
    count: int,
    rows: npt.NDArray[np.int64],
    left_out: SampleIds | None,
) -> npt.NDArray[np.int64]:
    """`_nearest_keys` by way of a short list; the slow way where the list does not prove to be enough."""
    query = unit_rows(query_QD[rows])
    index_BC, bound_B = short.candidates(query, count)
    keys = np.empty(index_BC.shape, dtype=np.int64)
    size = short.parts(count, query.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        places = index_BC[part]
        found = unit_rows(gallery_GD[places.ravel()]) if kept_GD is None else kept_GD[places.ravel()]
        cosine_BC = np.einsum("bcd,bd->bc", found.reshape(*places.shape, -1), query[part])
        keys[part] = (np.rint(cosine_BC * _GRID).astype(np.int64) << np.int64(32)) + (_INDEX - places)
    if left_out is not None:
        keys[left_out.query_Q[rows, None] == left_out.gallery_G[index_BC]] = _NOTHING
    keys.sort(axis=1)
    best = keys[:, ::-1][:, :k]
    open_ = (best[:, -1] >> np.int64(32)) <= np.ceil(bound_B * _GRID) + 1
    if open_.any():
        some = np.flatnonzero(open_)
        size = max(1, _TILE_ENTRIES // (2 * max(1024, 2 * k)))
        for start in range(0, len(some), size):
            here = some[start : start + size]
            best[here] = _nearest_keys(query[here], gallery_GD, k, rows[here], left_out, columns=max(1024, 2 * k))
    return best


def all_keys(
    query_QD: npt.NDArray[np.floating],
    gallery_GD: npt.NDArray[np.floating],
    rows: npt.NDArray[np.int64],
    left_out: SampleIds | None,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield (query rows [B], keys [B, G]) until all of `rows` have been; the larger key comes first in a ranking.

    Cost: O(Q G D); memory for the gallery as float64 and one tile of at most 2^22 keys.
    """
    gallery = unit_rows(gallery_GD)
    low = _INDEX - np.arange(len(gallery), dtype=np.int64)
    size = max(1, 4 * _TILE_ENTRIES // max(1, len(gallery)))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        keys = grid_steps(unit_rows(query_QD[chunk]), gallery).astype(np.int64)
        keys <<= np.int64(32)
        keys += low
        if left_out is not None:
            keys[left_out.query_Q[chunk, None] == left_out.gallery_G] = _NOTHING
        yield chunk, keys


def _nearest_keys(
    query_BD: npt.NDArray[np.float64],
    gallery_GD: npt.NDArray[np.floating],
    k: int,
    rows: npt.NDArray[np.int64],
    left_out: SampleIds | None,
    *,
    columns: int,
) -> npt.NDArray[np.int64]:
    """The `k` largest keys of each query [B, k], descending.

    A key holds the similarity in grid steps in its upper half and the inverted gallery row in its lower half, so that
    keys are distinct and the larger key is the more similar row, or at equal similarity the lower row.
    """
    best = np.full((len(query_BD), k), _NOTHING, dtype=np.int64)
    for start in range(0, len(gallery_GD), columns):
        stop = min(start + columns, len(gallery_GD))
        steps = grid_steps(query_BD, unit_rows(gallery_GD[start:stop]))
        keys = np.empty((len(query_BD), k + stop - start), dtype=np.int64)
        keys[:, :k] = best
        fresh = keys[:, k:]
        fresh[...] = steps
        fresh <<= np.int64(32)
        fresh += _INDEX - np.arange(start, stop, dtype=np.int64)
        if left_out is not None:
            fresh[left_out.query_Q[rows, None] == left_out.gallery_G[None, start:stop]] = _NOTHING
        keys.partition(keys.shape[1] - k, axis=1)
        best = keys[:, keys.shape[1] - k :].copy()
    best.sort(axis=1)
    return best[:, ::-1]
