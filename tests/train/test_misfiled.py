"""Files under two identities are named before the first step: once, in the run, and not where there are none."""

import json
import shutil

import pytest

from synthetic import read_people, tiny_plan, write_people
from tercet.data import ImageFrontEnd, Manifest, Row, SampleStore
from tercet.train import train
from tercet.train.misfiled import misfiled_in


@pytest.fixture
def mixed(tmp_path):
    """Ten identities, of which some have a picture of another."""
    data = write_people(tmp_path / "people")
    for person in range(1, 10):
        shutil.copy(data / "p00" / "0.png", data / f"p{person:02d}" / "copy.png")
    shutil.copy(data / "p03" / "1.png", data / "p03" / "again.png")
    return data


def remarks(out):
    return json.loads((out / "metrics.json").read_text())["remarks"]


def test_it_is_the_first_that_is_said_and_is_kept_in_the_run(mixed, tmp_path):
    told = []
    plan = tiny_plan(epochs=1)
    out = train(read_people(mixed), plan, tmp_path / "run", on_progress=told.append)
    phases = [now.phase for now in told if now.phase != "read"]
    assert phases[0] == "remark"
    (said,) = [remark for remark in remarks(out) if remark["kind"] == "misfiled"]
    assert said["step"] == 0 and "files lie under more than one identity" in said["text"]
    assert "copy.png" in said["text"] and str(mixed) not in said["text"] and "\n" not in said["text"]
    (line,) = [line for line in (out / "history.jsonl").read_text().splitlines() if "misfiled" in line]
    assert json.loads(line)["remark"] == said["text"]
    train(read_people(mixed), tiny_plan(epochs=2), out, resume=True)
    assert len([remark for remark in remarks(out) if remark["kind"] == "misfiled"]) == 1
    assert (out / "history.jsonl").read_text().count("misfiled") == 1


def test_a_training_that_is_left_to_itself_says_nothing(mixed, tmp_path):
    out = train(read_people(mixed), tiny_plan(epochs=1, doctor=False), tmp_path / "run")
    assert remarks(out) == []


def store(rows, root):
    return SampleStore.read(Manifest(root, tuple(rows)), ImageFrontEnd(8, 8, 1))


def test_what_counts(mixed):
    a, copy = mixed / "p00" / "0.png", mixed / "p01" / "copy.png"
    with store([Row(a, "a"), Row(copy, "b")], mixed) as both:
        text = misfiled_in(both)
        assert text.startswith("a file lies under more than one identity") and "p00/0.png and p01/copy.png" in text
    with store([Row(a, "a"), Row(copy, "a")], mixed) as one_name:
        assert misfiled_in(one_name) is None
    with store([Row(a, "a", kind="skilled"), Row(copy, "b", kind="skilled")], mixed) as nobody:
        assert misfiled_in(nobody) is None
    with store([Row(a, "a"), Row(copy, "a", kind="skilled")], mixed) as genuine_and_not:
        assert "more than one identity" in misfiled_in(genuine_and_not)
    with store([Row(mixed / "p00" / "1.png", "a"), Row(mixed / "p01" / "1.png", "b")], mixed) as others:
        assert misfiled_in(others) is None
