"""tercet beside other libraries: one module per peer, imported by name, and needing that peer only when it is used.

    tercet.interop.pytorch_metric_learning   its distances' names, a miner, and triplets as pairs
    tercet.interop.sentence_transformers     a loss for its trainer

A plain training loop, Lightning or accelerate need nothing: the losses are ordinary `nn.Module`s.
"""

__all__: list[str] = []
