"""The description beside a network, in a training: fitted to whom it is trained on, weighed by who is held out."""

from __future__ import annotations

import copy
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import tercet
import tercet.functional as TF
from synthetic import read_people, tiny_plan, write_people
from tercet.data import ImageFrontEnd, Manifest, SampleStore, split_identities
from tercet.encoders.described import Description, fit_description, fit_whitening
from tercet.errors import DataError
from tercet.evaluate import all_pairs, retrieval, verification
from tercet.protocol import baselines_of
from tercet.report.margin import curve_of_run
from tercet.run.files import read_tensors
from tercet.run.model import embed_rows
from tercet.train import train
from tercet.train.description import whitening_of
from tercet.train.ranks import Ranks
from tercet.train.validation import SHARES, Validation

PLAN = {"described": True, "epochs": 3, "validations": 3}


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    return train(people, tiny_plan(**PLAN), tmp_path_factory.mktemp("described") / "run")


def test_the_map_is_fitted_to_the_identities_that_are_trained_on_and_no_others(people, run):
    model = tercet.load(run)
    with SampleStore.read(people.of(model.split.split.train), model.front_end) as store:
        x = model.front_end.normalise(store.take(np.arange(len(store))))
        described = Description(model.encoder.config).describe(x).numpy()
        middle, known = fit_description(described, store.manifest.labels, 6)
    torch.testing.assert_close(model.encoder.description.middle, middle)
    torch.testing.assert_close(model.encoder.description.known, known)
    assert known.any()


def test_forgeries_are_no_part_of_the_map(people, tmp_path):
    """A forger's hand says nothing of how a writer's own samples vary."""
    rows = tuple(row if int(row.path.stem) < 4 else replace(row, kind="skilled") for row in people.rows)
    with_forged = Manifest(people.root, rows)
    genuine = Manifest(people.root, tuple(row for row in rows if row.kind == "genuine"))
    maps = [
        read_tensors(train(each, tiny_plan(**PLAN | {"epochs": 1}), tmp_path / name) / "weights.safetensors")
        for name, each in (("with", with_forged), ("without", genuine))
    ]
    assert torch.equal(maps[0]["description.known"], maps[1]["description.known"])


def test_the_share_is_the_nearest_to_the_first_of_those_that_are_good_on_the_identities_held_out(people, run):
    """Found by embedding with every share in turn; the quick way has to come to the same."""
    model = tercet.load(run)
    held_out = model.split.split.validation
    with SampleStore.read(people.of(held_out), model.front_end) as store:
        validation = Validation(store, held_out)
        labels_N = store.manifest.labels
        found = {}
        for share in SHARES:
            model.encoder.share.fill_(share)
            x_ND = embed_rows(model.encoder, store, np.arange(len(store)))
            pairs = all_pairs(x_ND, labels_N)
            found[share] = (verification(pairs.scores, pairs.genuine).eer, retrieval(x_ND, labels_N).map_at_r)
        eer, map_at_r = validation.score(model.encoder, Ranks())
    share = round(float(model.encoder.share), 3)
    enough = min(validation.rank(*figures) for figures in found.values()) + 0.05 / math.sqrt(len(held_out))
    good = [tried for tried, figures in found.items() if validation.rank(*figures) <= enough]
    assert 0 < len(good) < len(SHARES), "a case in which there is something to choose"
    assert share == min(good, key=lambda tried: abs(tried - 0.3))
    assert (eer, map_at_r) == pytest.approx(found[share], abs=1e-4)
    assert len(set(found.values())) > 1, "the shares do differ"
    assert share == pytest.approx(float(tercet.load(run).encoder.share)), "and a run keeps its own"


def test_a_resumed_training_has_the_same_weights_map_and_share(people, run, tmp_path):
    seen = iter(range(9))

    def press_ctrl_c(progress):
        if progress.phase == "validate" and next(seen) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(**PLAN), tmp_path / "run", on_progress=press_ctrl_c)
    train(people, tiny_plan(**PLAN), tmp_path / "run", resume=True)
    one, other = (read_tensors(out / "weights.safetensors") for out in (run, tmp_path / "run"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_fresh_start_keeps_the_map(people, tmp_path):
    """At this rate the weights are no numbers after a step or two, and the training is taken back to the first ones."""
    plan = tiny_plan(**PLAN | {"learning_rate": 1e30, "warmup": 0, "mining": "all", "validations": 1})
    out = train(people, plan, tmp_path / "run")
    kinds = [remark["kind"] for remark in json.loads((out / "metrics.json").read_text())["remarks"]]
    assert kinds == ["not-finite", "fresh start 1"]
    kept = read_tensors(out / "weights.safetensors")
    assert kept["description.known"].any()
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


def test_with_nobody_to_hold_out_the_description_has_its_share(tmp_path):
    few = read_people(write_people(tmp_path / "few", people=4, side=16))
    out = train(few, tiny_plan(**PLAN | {"identities_per_batch": 2}), tmp_path / "run")
    assert float(tercet.load(out).encoder.share) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "more", [{"warm_start": 3}, {"memory": 20, "memory_momentum": 0.9}, {"memory": 20}, {"mine_every": 4}, {"chunk": 5}]
)
def test_what_else_looks_at_vectors_looks_at_those_that_learn(people, run, tmp_path, more):
    """Softmax weights, a bank, a search of the training set: in their width, and with no description among them."""
    out = train(people, tiny_plan(**PLAN | more), tmp_path / "run")
    newest = max(out.glob("checkpoints/step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    tensors = read_tensors(newest / "tensors.safetensors")
    if "memory" in more:
        assert tensors["memory.rows"].shape[1] == 8
        assert not any("description" in name for name in tensors if name.startswith("memory."))
    assert torch.equal(
        read_tensors(out / "weights.safetensors")["description.known"],
        read_tensors(run / "weights.safetensors")["description.known"],
    )


def test_pictures_that_cannot_be_read_are_told_in_one_line(tmp_path):
    data = read_people(write_people(tmp_path / "people", side=16))
    for identity in split_identities(data, seed=0).train:
        for file in (data.root / identity).iterdir():
            file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be trained on"):
        train(data, tiny_plan(**PLAN), tmp_path / "run")


def test_the_margin_curve_is_of_the_distances_that_the_margin_was_for(people, run):
    model = tercet.load(run)
    with SampleStore.read(people.of(model.split.split.test), model.front_end) as store:
        rows_N = np.arange(len(store))
        expected = TF.margin_curve(
            torch.from_numpy(embed_rows(model.encoder.network, store, rows_N)),
            torch.from_numpy(store.manifest.labels.copy()),
            [0.1, 0.5],
        )
        curve = curve_of_run(model, store, margins=[0.1, 0.5])
    assert float(model.encoder.share) > 0
    np.testing.assert_allclose(curve.loss, expected.loss.numpy(), atol=1e-6)


def test_the_description_alone_is_a_baseline(people, run):
    model = tercet.load(run)
    assert set(baselines_of(model)) == {"raw_pixels", "untrained", "description"}
    with SampleStore.read(people, ImageFrontEnd(16, 16, 1, fit="stretch")) as store:
        rows_N = np.arange(5)
        x_ND = baselines_of(model)["description"](model, store, rows_N)
        model.encoder.share.fill_(1.0)
        np.testing.assert_allclose(x_ND, embed_rows(model.encoder, store, rows_N)[:, 8:], atol=1e-6)


@pytest.fixture(scope="module")
def parts(people, run):
    """The run's model, and the stores of whom it was trained on and of those held out."""
    model = tercet.load(run)
    split = model.split.split
    with (
        SampleStore.read(people.of(split.train), model.front_end) as trained,
        SampleStore.read(people.of(split.validation), model.front_end) as held_out,
    ):
        yield model, trained, held_out


def test_a_training_ends_with_its_network_whitened_by_whom_it_was_trained_on(people, run, parts):
    model, trained, held_out = parts
    x_ND = embed_rows(model.encoder.network, trained, np.arange(len(trained)))
    expected_NN = fit_whitening(x_ND, trained.manifest.labels)
    assert not torch.allclose(expected_NN, torch.eye(8), atol=0.05), "a case in which there is something to whiten"
    torch.testing.assert_close(model.encoder.whitening, expected_NN)
    x_ND = embed_rows(model.encoder, held_out, np.arange(len(held_out)))
    pairs = all_pairs(x_ND, held_out.manifest.labels)
    noted = json.loads((run / "metrics.json").read_text())["validation"]
    assert noted["eer"] == pytest.approx(verification(pairs.scores, pairs.genuine).eer, abs=1e-4)
    assert noted["map_at_r"] == pytest.approx(retrieval(x_ND, held_out.manifest.labels).map_at_r, abs=1e-4)


def test_a_whitening_that_makes_the_held_out_worse_is_not_taken(parts):
    """One that keeps two directions of eight, the worst two there are."""
    model, _, held_out = parts
    validation = Validation(held_out, model.split.split.validation)
    encoder = copy.deepcopy(model.encoder)
    encoder.whitening.copy_(torch.eye(8))
    plain = validation.score(encoder, Ranks())
    x_ND = embed_rows(encoder.network, held_out, np.arange(len(held_out)))
    turn_NN = torch.from_numpy(np.linalg.eigh(np.cov(x_ND.T))[1]).float()
    blind_NN = turn_NN @ torch.diag(torch.tensor([1.0, 1.0, *[1e-3] * 6])) @ turn_NN.T
    *figures, taken = validation.whiten(encoder, blind_NN)
    assert figures == pytest.approx(plain) and not taken
    assert torch.equal(encoder.whitening, torch.eye(8))


@pytest.mark.parametrize(("worse", "taken"), [(-0.1, True), (0.0, True), (0.9, True), (1.1, False)])
def test_a_whitening_may_be_worse_by_chance_and_the_share_is_that_which_is_best_with_it(
    parts, monkeypatch, worse, taken
):
    """In units of what chance makes of so few held-out identities."""
    model, _, held_out = parts
    validation = Validation(held_out, model.split.split.validation)
    encoder = copy.deepcopy(model.encoder)
    encoder.whitening.copy_(torch.eye(8))
    chance = 0.05 / validation.identities**0.5
    found = iter([(0.2, 0.5, 0.3), (0.2 + worse * chance, 0.5, 0.6)])
    monkeypatch.setattr(Validation, "_best_share", lambda *_: next(found))
    assert validation.whiten(encoder, 2 * torch.eye(8)) == ((0.2 + worse * chance if taken else 0.2), 0.5, taken)
    assert torch.equal(encoder.whitening, (2 if taken else 1) * torch.eye(8))
    assert float(encoder.share) == pytest.approx(0.6 if taken else 0.3)


def test_a_network_that_has_died_is_scored_and_not_whitened(parts):
    """All of its vectors are zero: they have no similarity, and no length to divide by."""
    model, trained, held_out = parts
    encoder = copy.deepcopy(model.encoder)
    for parameter in encoder.network.parameters():
        parameter.data.zero_()
    validation = Validation(held_out, model.split.split.validation)
    eer, _ = validation.score(encoder, Ranks())
    whitening_NN = whitening_of(encoder, trained, model.split.split.train)
    assert torch.equal(whitening_NN, torch.eye(8))
    assert validation.whiten(encoder, whitening_NN)[0] == eer


def test_the_training_says_how_good_its_saved_weights_are_and_the_run_what_whitening_did(people, tmp_path):
    told = []
    out = train(people, tiny_plan(**PLAN), tmp_path / "run", on_progress=told.append)
    metrics = json.loads((out / "metrics.json").read_text())
    assert [now.phase for now in told[-2:]] == ["whiten", "done"]
    assert told[-1].validation_eer == metrics["validation"]["eer"] != metrics["whitening"]["before"]["eer"]
    assert metrics["whitening"]["taken"] and metrics["whitening"]["before"]["eer"] == told[-2].validation_eer


def test_forgeries_are_no_part_of_the_whitening(people, tmp_path):
    rows = tuple(row if int(row.path.stem) < 4 else replace(row, kind="skilled") for row in people.rows)
    with SampleStore.read(Manifest(people.root, rows), ImageFrontEnd(16, 16, 1, fit="stretch")) as store:
        encoder = tiny_plan(**PLAN).initial()
        genuine_M = np.flatnonzero(store.manifest.genuine)
        x_MN = embed_rows(encoder.network, store, genuine_M)
        names = tuple({row.identity for row in rows})
        found = whitening_of(encoder, store, names)
    assert 0 < len(genuine_M) < len(rows)
    torch.testing.assert_close(found, fit_whitening(x_MN, store.manifest.labels[genuine_M]))


def test_a_training_stopped_before_a_validation_is_left_as_it_is(people, tmp_path):
    def press_ctrl_c(progress):
        if progress.phase == "train":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(people, tiny_plan(**PLAN | {"epochs": 30, "validations": 1}), tmp_path / "run", on_progress=press_ctrl_c)
    assert torch.equal(tercet.load(tmp_path / "run").encoder.whitening, torch.eye(8))
