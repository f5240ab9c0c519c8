"""Forgeries in training: in the batch with their target, nobody's positive, and part of what chooses the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.data import Manifest, SampleStore, SignatureFrontEnd
from tercet.encoders import ConvEncoderConfig
from tercet.evaluate import all_pairs, forgery_pairs, mean_eer, verification
from tercet.losses import TripletLoss
from tercet.run import load
from tercet.run.files import read_json
from tercet.run.model import embed_rows
from tercet.tasks import load_task
from tercet.train import train
from tercet.train.validation import Validation
from writers import write_writers

TASK = load_task("signatures")


def small_plan(**settings):
    """The task's plan with small pictures and a small network."""
    encoder = ConvEncoderConfig(1, 24, 48, embedding_dim=16, base_width=8, pool="flatten")
    return replace(TASK.plan(**settings), front_end=SignatureFrontEnd(24, 48, edge=2), encoder=encoder)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = write_writers(tmp_path_factory.mktemp("signatures") / "w", writers=12, genuine=5, forged=4)
    return TASK.read(folder)


def test_forgeries_are_negative_only_in_the_loss_and_by_their_target_in_augmentation(manifest, tmp_path, monkeypatch):
    in_loss, in_augmentation = [], []
    original = TripletLoss.forward

    def watch(self, embeddings, labels, *arguments, **options):
        in_loss.append(labels.clone())
        return original(self, embeddings, labels, *arguments, **options)

    monkeypatch.setattr(TripletLoss, "forward", watch)
    plan = small_plan(epochs=2, identities_per_batch=4, samples_per_identity=3, forgeries_per_identity=2)

    def augment(x_BCHW, labels_B, generator):
        in_augmentation.append(labels_B.clone())
        return plan.augment(x_BCHW, labels_B, generator)

    train(manifest, replace(plan, augment=augment), tmp_path / "run")
    assert in_loss
    for owner, target in zip(in_loss, in_augmentation, strict=True):
        forged = owner < 0
        assert int(forged.sum()) == 8
        assert (owner[~forged] == target[~forged]).all()
        assert set(target[forged].tolist()) == set(target[~forged].tolist())


def test_without_forgeries_asked_for_there_are_none_in_the_batch(manifest, tmp_path, monkeypatch):
    seen = []
    original = TripletLoss.forward

    def watch(self, embeddings, labels, *arguments, **options):
        seen.append(labels.clone())
        return original(self, embeddings, labels, *arguments, **options)

    monkeypatch.setattr(TripletLoss, "forward", watch)
    train(manifest, small_plan(epochs=1, identities_per_batch=4, forgeries_per_identity=0), tmp_path / "run")
    assert all((labels >= 0).all() for labels in seen)


def test_the_weights_are_chosen_by_the_mean_over_kinds_of_impostor(manifest, tmp_path):
    out = tmp_path / "run"
    train(manifest, small_plan(epochs=2, identities_per_batch=4, validations=2), out)
    model = load(out)
    validation = manifest.of(model.split.split.validation)
    assert len(validation)
    with SampleStore.read(validation, model.front_end) as store:
        x = embed_rows(model.encoder, store, np.arange(len(store)))
    genuine = validation.genuine
    pairs = all_pairs(x[genuine], validation.labels[genuine])
    forged = forgery_pairs(x, validation.labels, validation.kinds)
    chosen = read_json(out / "metrics.json")["validation"]["eer"]
    assert chosen == pytest.approx(mean_eer(pairs, forged), abs=1e-6)
    assert chosen != pytest.approx(verification(pairs.scores, pairs.genuine).eer, abs=1e-6)


def test_files_of_forgeries_count_as_seen(manifest, tmp_path):
    """So that the identity is recognised by any of them."""
    out = tmp_path / "run"
    train(manifest, small_plan(epochs=1, identities_per_batch=4), out)
    model = load(out)
    assert len(model.split.hashes["train"]) == len(manifest.of(model.split.split.train))
    assert Path(out / "weights.safetensors").is_file()


def test_strokes_become_thinner_or_broader_and_stay_in_range():
    from tercet.train.augment import stroke

    x = torch.full((40, 1, 9, 9), -1.0)
    x[:, :, 4] = 1.0
    changed = stroke(x, torch.Generator().manual_seed(0), thinner=0.5, thicker=1.0)
    ink = changed.sum(dim=(1, 2, 3)) - x.sum(dim=(1, 2, 3))
    assert (ink > 1).any()
    assert (ink < -1).any()
    assert float(changed.max()) <= 1.0
    assert float(changed.min()) >= -1.0
    # The lines beside the stroke brighten at most to it, the stroke itself is gone at most by the share asked for.
    assert float(changed[:, :, 4].min()) >= 1.0 - 2 * 0.5
    assert torch.equal(stroke(x, torch.Generator().manual_seed(0), thinner=0.0, thicker=0.0), x)
    again = stroke(x, torch.Generator().manual_seed(0), thinner=0.5, thicker=1.0)
    assert torch.equal(again, changed)


def test_where_there_are_forgeries_the_eer_alone_chooses_the_weights(manifest):
    """MAP@R knows no forgeries."""
    with SampleStore.read(manifest, SignatureFrontEnd(24, 48, edge=2)) as store:
        identities = tuple(manifest.counts())[:4]
        with_forgeries = Validation(store, identities)
    genuine = Manifest(manifest.root, tuple(row for row in manifest.rows if row.kind == "genuine"))
    with SampleStore.read(genuine, SignatureFrontEnd(24, 48, edge=2)) as store:
        without = Validation(store, identities)
    assert with_forgeries.rank(0.30, 0.1) == with_forgeries.rank(0.30, 0.9) < with_forgeries.rank(0.31, 0.9)
    assert without.rank(0.31, 0.5) < without.rank(0.30, 0.1)
