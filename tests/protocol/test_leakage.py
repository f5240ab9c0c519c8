"""What makes figures too good is named, and clean data are let alone."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tercet
from synthetic import read_people, write_people
from tercet.data import Manifest, SampleStore
from tercet.data.trials import read_trials
from tercet.protocol import evaluate_run, scored_rows
from tercet.protocol.leakage import find_leakage
from tercet.tasks import load_task
from tercet.train import Settings, train
from tercet.train.plan import Plan
from writers import write_writers


def leaks(model, folder, **options):
    with SampleStore.read(read_people(folder), model.front_end) as store:
        return find_leakage(model, store, scored_rows(model, store), **options)


def strangers(folder, seed, name="new", **options):
    made = write_people(folder, people=16, pictures=5, seed=seed, **options)
    for place in sorted(made.iterdir()):
        place.rename(place.with_name(f"{name}-{place.name}"))
    return made


def test_clean_data_are_let_alone_over_seeds(model, tmp_path):
    for seed in range(10, 18):
        found = leaks(model, strangers(tmp_path / str(seed), seed))
        assert found.warnings == ()
        assert found.files == 80 and found.pairs["mean grey"].auc < 0.75


def test_a_lamp_for_each_person_is_named(model, tmp_path):
    folder = strangers(tmp_path / "lit", 31)
    for n, place in enumerate(sorted(folder.iterdir())):
        for file in place.iterdir():
            picture = np.asarray(Image.open(file)).astype(float) * 0.2 + 5 + 10 * n
            Image.fromarray(picture.astype(np.uint8)).save(file)
    with SampleStore.read(read_people(folder), model.front_end) as store:
        values = evaluate_run(model, store, resamples=0, baselines=False).to_json()
    (line,) = values["warnings"]
    assert line.startswith("leakage: trivial features alone tell genuine from impostor pairs (AUC: mean grey 0.")
    found = values["leakage"]["pairs"]
    assert found["limit"] == 0.75 and found["features"]["mean grey"]["beyond"]
    assert not found["features"]["picture width"]["beyond"]
    assert values["leakage"]["forgeries"] is None
    assert json.loads(json.dumps(values["leakage"], allow_nan=False)) == values["leakage"]


def test_a_list_of_pairs_is_asked_about_its_own_pairs(model, tmp_path):
    """The list compares each light picture with a dark one of somebody else, and light ones of one person."""
    folder = strangers(tmp_path / "listed", 33)
    lines = []
    for n, place in enumerate(sorted(folder.iterdir())):
        files = sorted(place.iterdir())
        for k, file in enumerate(files):
            picture = np.asarray(Image.open(file)).astype(float) * 0.3 + (150 if k < 2 else 0)
            Image.fromarray(picture.astype(np.uint8)).save(file)
        after = sorted(sorted(folder.iterdir())[(n + 1) % 16].iterdir())
        lines += [f"{place.name}/{files[0].name} {place.name}/{files[1].name} 1"]
        lines += [f"{place.name}/{files[0].name} {after[0].parent.name}/{after[3].name} 0"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    trials = read_trials(tmp_path / "pairs.txt", folder.resolve())
    with SampleStore.read(read_people(folder), model.front_end) as store:
        listed = evaluate_run(model, store, trials=trials, protocol="verification", resamples=0, baselines=False)
        every = evaluate_run(model, store, protocol="verification", resamples=0, baselines=False)
    assert listed.leakage.pairs["mean grey"].auc == 1.0
    assert any("mean grey 1.00" in line for line in listed.warnings)
    assert every.warnings == ()


def test_copies_across_the_split_are_named(model, people, tmp_path):
    folder = shutil.copytree(people, tmp_path / "people")
    split = model.split.split
    trained, tested, other = split.train[0], split.test[0], split.test[1]
    # A copy without loss of another file type, and the very same bytes twice under two scored names and under one.
    Image.open(folder / trained / "0.png").save(folder / tested / "again.bmp")
    shutil.copy(folder / tested / "1.png", folder / other / "twin.png")
    shutil.copy(folder / other / "2.png", folder / other / "twice.png")
    found = leaks(model, folder)
    named = {(one["a"], one["b"], one["where"]) for one in found.duplicates}
    assert named == {
        (f"{tested}/again.bmp", f"{trained}/0.png", "training"),
        (f"{tested}/1.png", f"{other}/twin.png", "identities"),
        (f"{other}/2.png", f"{other}/twice.png", "identity"),
    }
    lines = found.warnings
    assert len(lines) == 3 and f"{tested}/again.bmp = {trained}/0.png" in lines[0]
    assert found.to_json()["duplicates_found"] == {"training": 1, "identities": 1, "identity": 1}
    assert found.compared == {"scored": 33, "training": 90}


def test_an_identity_that_is_also_in_training_is_named_with_its_file(model, people, tmp_path):
    folder = shutil.copytree(people, tmp_path / "people")
    trained, tested = model.split.split.train[0], model.split.split.test[0]
    shutil.copy(folder / trained / "3.png", folder / tested / "copy.png")
    found = leaks(model, folder)
    assert found.in_both == (tested,)
    assert [(one["a"], one["b"], one["where"]) for one in found.duplicates] == [
        (f"{tested}/copy.png", f"{trained}/3.png", "training")
    ]
    assert any(line.endswith(f"told by their files, and are left out: {tested}") for line in found.warnings)


def test_a_picture_compressed_again_and_made_smaller_is_a_near_copy(tmp_path):
    """At 64 pixels a copy with losses is still told, and other pictures are not."""
    rng = np.random.default_rng(0)
    for n in range(12):
        (tmp_path / "faces" / f"p{n:02d}").mkdir(parents=True)
        low = rng.normal(size=(6, 6))
        for k in range(4):
            small = Image.fromarray((128 + 40 * (low + 0.5 * rng.normal(size=(6, 6)))).clip(0, 255).astype(np.uint8))
            small.resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / "faces" / f"p{n:02d}" / f"{k}.png")
    task = load_task("faces")
    manifest = read_people(tmp_path / "faces")
    settings = Settings(epochs=0.2, identities_per_batch=2, samples_per_identity=2, validations=1)
    run = train(manifest, Plan("faces", task.front_end, task.encoder, task.augment, settings), tmp_path / "run")
    model = tercet.load(run)
    assert leaks(model, tmp_path / "faces").duplicates == ()
    trained, tested = model.split.split.train[0], model.split.split.test[0]
    blob = io.BytesIO()
    Image.open(tmp_path / "faces" / trained / "0.png").resize((80, 80)).save(blob, "JPEG", quality=60)
    (tmp_path / "faces" / tested / "stolen.jpg").write_bytes(blob.getvalue())
    (one,) = leaks(model, tmp_path / "faces").duplicates
    assert (one["a"], one["b"], one["where"]) == (f"{tested}/stolen.jpg", f"{trained}/0.png", "training")
    assert 0.985 <= one["similarity"] <= 1


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    """A run on made-up writers, who stay the same; the tests write others."""
    place = tmp_path_factory.mktemp("signatures")
    folder = write_writers(place / "writers", writers=8, genuine=4, forged=2)
    task = load_task("signatures")
    settings = Settings(epochs=0.2, identities_per_batch=2, samples_per_identity=2, validations=1)
    plan = Plan("signatures", task.front_end, task.encoder, task.augment, settings)
    return tercet.load(train(task.read(folder, layout="auto"), plan, place / "run"))


def test_pictures_that_are_all_alike_are_counted_to_a_limit(model, tmp_path, monkeypatch):
    """Each a byte of its own away from one pattern: thousands of such would be millions of pairs."""
    folder = strangers(tmp_path / "new", 31)
    pattern = np.random.default_rng(0).integers(60, 200, size=(8, 8)).astype(np.uint8)
    for n, file in enumerate(sorted(folder.rglob("*.png"))):
        own = pattern.copy()
        own[n // 8 % 8, n % 8] += 1 + n // 64
        Image.fromarray(own).save(file)
    whole = leaks(model, folder).to_json()
    assert whole["duplicates_found"]["identities"] == 1000 and len(whole["duplicates"]) == 20
    monkeypatch.setattr("tercet.protocol.leakage._MOST_NEAR", 7)
    found = leaks(model, folder)
    assert found.to_json()["duplicates_found"]["identities"] == 7
    similar = [one["similarity"] for one in found.duplicates]
    assert similar == sorted(similar, reverse=True) and min(similar) >= 0.999
    assert any("7 pairs of samples under two identities" in line for line in found.warnings)


def of_writers(model, folder):
    manifest = load_task("signatures").read(folder, layout="auto")
    with SampleStore.read(Manifest(manifest.root, manifest.rows), model.front_end) as store:
        return find_leakage(model, store, scored_rows(model, store))


def test_forgeries_on_other_paper_are_named_and_such_on_the_same_are_not(signatures, tmp_path):
    """As in CEDAR: the scans of genuine signatures are tinted, those of the forgeries are not."""
    for seed in (1, 2, 3):
        folder = write_writers(tmp_path / f"w{seed}", writers=12, genuine=8, forged=8, seed=seed, name="{:03d}")
        clean = of_writers(signatures, folder)
        assert not clean.forged["mean grey"].beyond(0.6) and not clean.forged["paper grey"].beyond(0.6)
        assert not clean.forged["file type"].beyond(0.6)
        for file in folder.rglob("genuine/*.png"):
            grey = np.asarray(Image.open(file)).astype(float)
            Image.fromarray((grey * 0.9).astype(np.uint8)).save(file)
        tinted = of_writers(signatures, folder)
        assert tinted.forged["paper grey"].auc == 1.0
        assert any(
            "tell forged from genuine samples (AUC: " in line and "paper grey 1.00" in line for line in tinted.warnings
        )
