"""A tiny sentence model with random weights, made here, trained by the library's own trainer with our loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tercet
from tercet import InvalidInput
from tercet.interop.sentence_transformers import SentenceLoss

WORDS = ["red", "green", "blue", "cat", "dog", "cow", "sun", "rain", "snow", "the", "a"]
TEXTS = [
    f"the {WORDS[3 * label + i]} a {WORDS[3 * label + j]}" for label in range(3) for i in range(3) for j in range(3)
]
LABELS = [label for label in range(3) for _ in range(9)]


@pytest.fixture
def model():
    for package in ("sentence_transformers", "datasets"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")


@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_their_trainer_trains_with_our_loss(model, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.training_args import BatchSamplers

    loss = SentenceLoss(model, tercet.TripletLoss(margin=0.3, distance="cosine"))
    data = Dataset.from_dict({"sentence": TEXTS, "label": LABELS})

    def value() -> float:
        x = model.encode(TEXTS, convert_to_tensor=True)
        return float(loss.loss(x, torch.tensor(LABELS)))

    before = value()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=30, per_device_train_batch_size=8, learning_rate=0.1, use_cpu=True,
        batch_sampler=BatchSamplers.GROUP_BY_LABEL, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    assert value() < 0.5 * before
    model.save_pretrained(str(tmp_path / "model"))
    assert "SentenceLoss" in (tmp_path / "model" / "README.md").read_text("utf-8")


@pytest.mark.filterwarnings("ignore")
def test_it_is_the_loss_of_the_embeddings(model) -> None:
    for of in (tercet.TripletLoss(margin=0.3, mining="semihard", distance="cosine"), tercet.MultiSampleTripletLoss()):
        value = SentenceLoss(model, of)([model.tokenize(TEXTS)], torch.tensor(LABELS).view(-1, 1))
        x = model.encode(TEXTS, convert_to_tensor=True)
        torch.testing.assert_close(value.detach(), of(x, torch.tensor(LABELS)))
        value.backward()


class Fixed(torch.nn.Module):
    """Stands for a sentence model where none is needed: its embeddings are the features."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["x"]}


def test_wrong_use_is_said() -> None:
    loss = SentenceLoss(Fixed(), tercet.TripletLoss())
    column = {"x": torch.randn(4, 2, generator=torch.Generator().manual_seed(0))}
    with pytest.raises(InvalidInput, match="must be one text column beside the labels, got 2"):
        loss([column, column], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="one integer per sentence, 4 of them, got none"):
        loss([column], None)
    with pytest.raises(InvalidInput, match=r"one integer per sentence, 4 of them, got \[3\]"):
        loss([column], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="loss must be a module such as"):
        SentenceLoss(Fixed(), tercet.functional.batch_triplet_loss)
    assert "margin=0.2" in loss.get_config_dict()["loss"]
    assert "1703.07737" in loss.citation
