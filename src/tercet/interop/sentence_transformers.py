"""For users of sentence-transformers: a loss of tercet in the form that its trainer takes.

Legend: B sentences of a batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from torch import Tensor, nn

from tercet.errors import InvalidInput

__all__ = ["SentenceLoss"]


@final
class SentenceLoss(nn.Module):
    """One of tercet's losses over a batch of sentences with labels, for `SentenceTransformerTrainer(loss=...)`.

    The data set has one text column and one column of integers, `label`, as for the library's own batch losses;
    `BatchSamplers.GROUP_BY_LABEL` puts several sentences of a label into every batch, without which there are no
    positives.

    Args:
        model: the SentenceTransformer that is trained.
        loss: a module called as `loss(embeddings, labels)`, such as `tercet.TripletLoss(...)`.

    The margin belongs to the distance: the embeddings are used as the model gives them, so with `"squared"` or
    `"euclidean"` and a margin below 1 let the model end in a `Normalize` module, or take `distance="cosine"`.

    Raises:
        InvalidInput: a loss that is no module; at a batch, several text columns or a number of labels other than B.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):
            raise InvalidInput(f"loss must be a module such as tercet.TripletLoss(), got {type(loss).__name__}")
        self.model = model  # under this name the trainer finds it, and puts its wrapped form (several devices) in place
        self.loss = loss

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of one batch of tokenised sentences with labels [B]."""
        columns = list(sentence_features)
        if len(columns) != 1:
            raise InvalidInput(f"sentence_features must be one text column beside the labels, got {len(columns)}")
        x_BD = self.model(columns[0])["sentence_embedding"]
        if labels is None or labels.numel() != len(x_BD):
            got = "none" if labels is None else str(list(labels.shape))
            raise InvalidInput(f"labels must be one integer per sentence, {len(x_BD)} of them, got {got}")
        value: Tensor = self.loss(x_BD, labels.view(-1))
        return value

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return {"loss": repr(self.loss)}

    @property
    def citation(self) -> str:
        """The source, for the model card."""
        return (
            "@misc{hermans2017defense,\n"
            "    title={In Defense of the Triplet Loss for Person Re-Identification},\n"
            "    author={Alexander Hermans and Lucas Beyer and Bastian Leibe},\n"
            "    year={2017},\n    eprint={1703.07737},\n    archivePrefix={arXiv},\n    primaryClass={cs.CV}\n}\n"
        )
