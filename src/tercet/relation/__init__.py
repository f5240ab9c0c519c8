"""Who is positive, negative or nothing to whom: builders of the `relation` that the losses take.

A relation is called a tile at a time as `relation(anchor_rows, other_rows)`, with two int64 index tensors, and answers
an int8 tensor [len(anchor_rows), len(other_rows)]: +1 positive, 0 ignored, -1 negative. It takes the place of the
labels in `tercet.functional.batch_triplet_loss`. What a row is to itself does not matter: the losses leave it out.

Every builder checks its arguments once and keeps a few numbers per row; nothing of the size anchors x others exists
outside the tile that is asked for. `others` describes the reference rows, where there are any; without it the others
are the anchors' own rows. The tables follow the index tensors to their device and stay there. All relations can be
pickled.

    from_labels        equal labels
    from_sets          several labels per row: enough of them in common
    from_pairs         pairs that are known, all others unknown
    from_hierarchy     classes in a tree: shared levels
    leave_out_groups   another relation without the pairs of one recording, photo or session
    first_known        of several relations the first that knows
"""

from tercet.relation.combine import first_known, leave_out_groups
from tercet.relation.hierarchy import from_hierarchy
from tercet.relation.labels import from_labels
from tercet.relation.pairs import from_pairs
from tercet.relation.sets import from_sets

__all__ = ["from_labels", "from_sets", "from_pairs", "from_hierarchy", "leave_out_groups", "first_known"]
