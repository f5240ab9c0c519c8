"""Triplet losses as pure functions of tensors; by custom `import tercet.functional as TF`.

`reference` holds the definitions as plain loops; everything else here is exact to it and fast.
"""

from tercet.functional import reference
from tercet.functional.engine import use_engine
from tercet.functional.margin import (
    BatchStatistics,
    MarginCurve,
    TripletCensus,
    batch_statistics,
    census,
    margin_curve,
)
from tercet.functional.mining import mine
from tercet.functional.multi_sample import multi_sample_triplet_loss
from tercet.functional.triplets import batch_triplet_loss, triplet_loss

__all__ = [
    "triplet_loss",
    "batch_triplet_loss",
    "multi_sample_triplet_loss",
    "mine",
    "census",
    "margin_curve",
    "batch_statistics",
    "use_engine",
    "TripletCensus",
    "MarginCurve",
    "BatchStatistics",
    "reference",
]
