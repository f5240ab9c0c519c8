"""Groups of samples that are all alike: near-copies, and people enrolled under two names. Groups do not chain.

N templates, D embedding width, T rows of one tile
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tercet.errors import InvalidInput

__all__ = ["alike"]

_TILE_ROWS: Final = 512
_MOST_TOGETHER: Final = 8000  # templates within one chain: their distances fill half a GiB
_MOST_PAIRS: Final = 50_000_000


def alike(x_ND: npt.NDArray[np.float32], threshold: float) -> list[list[int]]:
    """Groups of two and more rows in which every two rows have at least this cosine similarity (complete link).

    With single link, A like B and B like C would join A and C that are not alike at all, and in a large gallery nearly
    everybody; here each pair in a group has to be alike. Groups are disjoint, largest first.

    Rows that no chain of like pairs connects cannot share a group, so each chain is clustered by itself.
    Cost: O(N^2 D) time in tiles; memory for the like pairs, and N'^2 for a chain of N' rows.

    Raises:
        InvalidInput: A threshold outside -1 to 1, or one so low that chains cannot be held in memory.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # nearly a second to import
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import squareform

    if not -1 <= threshold <= 1:
        raise InvalidInput(f"threshold={threshold:g} must be a cosine similarity, -1 to 1")
    firsts, seconds, total = [], [], 0
    for start in range(0, len(x_ND), _TILE_ROWS):
        like_TN = x_ND[start : start + _TILE_ROWS] @ x_ND[start:].T >= threshold
        row, column = np.nonzero(np.triu(like_TN, 1))
        firsts.append(row + start)
        seconds.append(column + start)
        total += len(row)
        if total > _MOST_PAIRS:
            raise InvalidInput(f"threshold={threshold:g} is too low: more than {_MOST_PAIRS} pairs are alike by it")
    pairs = (np.concatenate(firsts), np.concatenate(seconds)) if firsts else (np.empty(0, int), np.empty(0, int))
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(x_ND), len(x_ND)))
    chain_N = connected_components(graph, directed=False)[1] if len(x_ND) else np.empty(0, int)
    groups = []
    for chain in np.flatnonzero(np.bincount(chain_N) > 1):
        rows = np.flatnonzero(chain_N == chain)
        if len(rows) > _MOST_TOGETHER:
            raise InvalidInput(f"threshold={threshold:g} is too low: a chain of {len(rows)} templates is alike by it")
        distance = 1 - (x_ND[rows].astype(np.float64) @ x_ND[rows].T.astype(np.float64))
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(np.clip((distance + distance.T) / 2, 0, 2), checks=False), "complete")
        cluster = fcluster(tree, 1 - threshold + 1e-6, "distance")
        groups += [rows[cluster == c].tolist() for c in np.flatnonzero(np.bincount(cluster) > 1)]
    return sorted(groups, key=lambda group: (-len(group), group))
