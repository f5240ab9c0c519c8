import json
import pickle
import shutil

import pytest
import torch

import tercet
from tercet.errors import RunError
from tercet.run.files import read_tensors, write_json, write_tensors


def change(path, **values):
    config = json.loads(path.read_text()) | values
    write_json(path, {key: value for key, value in config.items() if value != "drop"})


def test_a_saved_run_loads_with_all_that_it_holds(run, save, tmp_path):
    model = tercet.load(run)
    assert model.task == "digits" and model.front_end.shape == (1, 8, 8) and not model.encoder.training
    assert (
        model.fingerprint == json.loads((run / "run.json").read_text())["fingerprint"] and len(model.fingerprint) == 16
    )
    assert model.calibration is None
    assert model.split.hashes["train"] == ("a" * 32,) and len(model.split.split.test) == 3
    assert model.config["packages"]["torch"] == torch.__version__
    assert save(tmp_path / "same") == model.fingerprint
    assert save(tmp_path / "other", seed=1) != model.fingerprint


def test_nothing_in_a_run_is_a_pickle(run):
    for file in run.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError, AttributeError)):
            pickle.loads(file.read_bytes())


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "golden.safetensors", "split.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "a folder"])
def test_a_damaged_file_is_named_in_one_line(run, name, damage):
    content = (run / name).read_bytes()
    (run / name).unlink()
    match damage:
        case "empty":
            (run / name).write_bytes(b"")
        case "truncated":
            (run / name).write_bytes(content[: len(content) // 2])
        case "a folder":
            (run / name).mkdir()
    with pytest.raises(RunError) as caught:
        tercet.load(run)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 2}, "made by a newer version"),
        ({"format": "something"}, "not a run of tercet"),
        ({"format_version": "1"}, "not a run of tercet"),
        ({"weights_sha256": "drop"}, "'weights_sha256' is missing"),
        ({"weights_sha256": "0" * 64}, "checksum"),
        ({"fingerprint": "0" * 16}, "not the one the model was saved with"),
        ({"encoder": {"kind": "unheard-of"}}, "damaged .*unheard-of"),
        ({"encoder": 3}, "damaged"),
        ({"front_end": {}}, "damaged"),
        ({"front_end": [1, 2]}, "damaged"),
    ],
)
def test_a_foreign_newer_or_edited_run_is_one_line(run, values, message):
    change(run / "run.json", **values)
    with pytest.raises(RunError, match=message) as caught:
        tercet.load(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)


def test_an_edited_front_end_is_noticed(run):
    front_end = json.loads((run / "run.json").read_text())["front_end"]
    change(run / "run.json", front_end=front_end | {"fit": "crop"})
    with pytest.raises(RunError, match="its front end or encoder is not the one"):
        tercet.load(run)


def test_weights_of_another_shape_are_refused(run):
    weights = read_tensors(run / "weights.safetensors")
    weights["embed.bias"] = torch.zeros(9)
    change(run / "run.json", weights_sha256=write_tensors(run / "weights.safetensors", weights))
    with pytest.raises(RunError, match="weights are for another encoder"):
        tercet.load(run)


def test_a_model_that_computes_something_else_than_when_it_was_saved_is_refused(run):
    golden = read_tensors(run / "golden.safetensors")["vectors"]
    write_tensors(run / "golden.safetensors", {"vectors": golden + 2e-4})
    with pytest.raises(RunError, match=r"golden\.safetensors"):
        tercet.load(run)


def test_no_run_is_told_from_an_unfinished_one(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        tercet.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run of tercet"):
        tercet.load(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RunError, match=r"has not finished.*--resume"):
        tercet.load(tmp_path)


def test_run_json_is_written_last_so_that_a_kill_leaves_no_half_run(run, save, tmp_path, monkeypatch):
    import tercet.run.bundle as bundle

    def killed_at(name):
        def write(path, *rest):
            if path.name == name:
                raise KeyboardInterrupt
            return original(path, *rest)

        return write

    for function, name in (("write_tensors", "weights.safetensors"), ("write_json", "run.json")):
        original = getattr(bundle, function)
        monkeypatch.setattr(bundle, function, killed_at(name))
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "new")
        monkeypatch.undo()
        with pytest.raises(RunError, match="not a run of tercet"):
            tercet.load(tmp_path / "new")
        shutil.rmtree(tmp_path / "new")
