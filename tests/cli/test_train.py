from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tercet.cli.train import parse_margin
from tercet.errors import InvalidOption


def test_training_writes_a_run_and_prints_the_test_as_one_json_object(run, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = ("train", digits / "digits.csv", "--task", "digits", "--epochs", "1", "--seed", "3", "--out", out)
    ended = run(*args, "--margin", "soft", "--mining", "hard", "--embedding-dim", "16", "--json")
    assert ended.code == 0
    found = ended.json
    assert found["run"] == str(out)
    assert found["task"] == "digits"
    assert found["identities"] == 3
    assert found["trained_on"] == {"train": 5, "validation": 2, "test": 3}
    assert found["pairs"] == {"genuine": 3 * 300, "impostor": 3 * 625}
    assert set(found["baselines"]) == {"raw_pixels", "untrained"}
    assert len(found["intervals"]["eer"]["ci95"]) == 2
    config = json.loads((out / "run.json").read_text())
    assert config["fingerprint"] == found["model"]
    assert config["seed"] == 3
    assert config["encoder"]["embedding_dim"] == 16
    assert {key: config["training"][key] for key in ("margin", "mining", "epochs")} == {
        "margin": "soft",
        "mining": "hard",
        "epochs": 1.0,
    }
    noted = json.loads((out / "command.json").read_text())
    assert noted["command"].startswith(f"tercet train {digits}/digits.csv --task digits --epochs 1")
    assert noted["data"] == str(digits / "digits.csv")
    assert "training on 125 samples of 5 identities" in ended.err
    assert "loss" in ended.err and "d+" in ended.err and "images/s" in ended.err

    assert "report" not in found and not (out / "report.html").exists()
    again = run(*args)
    assert again.refused(str(out), "is there already")
    assert json.loads((out / "run.json").read_text()) == config


def test_model_figures_and_report_come_from_one_command(run, digits, tmp_path):
    out = tmp_path / "run"
    ended = run("train", digits / "digits.csv", "--task", "digits", "--epochs", "1", "--out", out, "--report", "--json")
    assert ended.code == 0 and ended.json["report"] == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert ended.json["model"] in page and "What a model for digits makes of identities it has never seen" in page
    assert "tercet report" not in ended.err, "it is not told to do next what is done"


def test_options_of_scale_reach_the_training(run, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--batch-size", "20", "--samples-per-identity", "5", "--chunk", "8", "--checkpoints", "3")
    memory = ("--memory", "40", "--memory-age", "9", "--memory-warmup", "2", "--memory-momentum", "0.9")
    rest = ("--precision", "bfloat16", "--clip", "5", "--temper", "0.5", "--no-compile", "--timeout", "30")
    ended = run(
        "train", digits / "digits.csv", "--task", "digits", "--epochs", "1", "--out", out, *sizes, *memory, *rest
    )
    assert ended.code == 0, ended.err
    settings = json.loads((out / "plan.json").read_text())["settings"]
    expected = {"identities_per_batch": 4, "samples_per_identity": 5, "chunk": 8, "checkpoints": 3, "memory": 40}
    expected |= {
        "memory_age": 9,
        "memory_warmup": 2,
        "memory_momentum": 0.9,
        "precision": "bfloat16",
        "clip": 5.0,
        "temper": 0.5,
    }
    assert {name: settings[name] for name in expected} == expected and settings["compile"] is False
    assert "% outside the encoder" in ended.err
    mined = ("--mine-every", "3", "--mine-skip", "0.1", "--epochs", "0.5")
    assert run("train", digits, "--task", "digits", "--out", tmp_path / "mined", *mined).code == 0
    settings = json.loads((tmp_path / "mined" / "plan.json").read_text())["settings"]
    assert (settings["mine_every"], settings["mine_skip"]) == (3, 0.1)
    again = ("train", digits / "digits.csv", "--out", out, "--resume", "--epochs", "2")
    assert run(*again, "--batch-size", "40").refused("identities_per_batch=4", "not 8")
    assert run(*again, "--chunk", "20").code == 0, "how a batch is computed may change"


def test_batches_by_the_categories_of_a_manifest(run, digits: Path, tmp_path: Path) -> None:
    lines = ["path,identity,category"]
    for folder in sorted(path for path in digits.iterdir() if path.is_dir()):
        kind = "even" if int(folder.name[-1]) % 2 == 0 else "odd"
        lines += [f"{file},{folder.name},{kind}" for file in sorted(folder.glob("*.png"))[:12]]
    manifest = tmp_path / "kinds.csv"
    manifest.write_text("\n".join(lines) + "\n")
    words = ("--task", "digits", "--epochs", "1", "--categories", "1", "--batch-size", "8", "--json")
    ended = run("train", manifest, "--out", tmp_path / "run", *words)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["settings"]["categories"] == 1
    manifest.write_text("\n".join(lines).replace(",category", ",kinds") + "\n")
    assert run("train", manifest, "--out", tmp_path / "none", *words).refused("no sample has a category")


def test_tensorboard_files_are_written_beside_the_history(run, digits: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    words = ("train", digits / "digits.csv", "--task", "digits", "--epochs", "0.5", "--tensorboard")
    importlib.import_module("accelerate")  # which looks once for what is installed
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        assert run(*words, "--out", tmp_path / "none").refused("pip install 'tercet[tracking]'")
        assert not (tmp_path / "none").exists()
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    assert run(*words, "--out", out).code == 0
    (events,) = (out / "tensorboard").glob("events.out.tfevents.*")
    found = reading.EventAccumulator(str(events.parent))
    found.Reload()
    told = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in told if line["phase"] == "train"]
    assert [point.value for point in found.Scalars("loss")] == pytest.approx(losses)
    assert {"validation_eer", "learning_rate", "outside_encoder"} <= set(found.Tags()["scalars"])


def test_text_names_what_comes_next(run, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run("train", digits / "digits.csv", "--task", "digits", "--epochs", "0.5", "--out", out)
    assert ended.code == 0
    for words in ("untrained network", "raw pixels", "trained model", "EER", "recall@1", "MAP@R", "never seen"):
        assert words in ended.out
    assert f"tercet report {out}" in ended.out


def test_resume_goes_on_with_a_longer_budget_and_with_the_same_options(run, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start = ("train", digits / "digits.csv", "--out", out)
    assert run(*start, "--task", "digits", "--epochs", "1").code == 0
    steps = json.loads((out / "metrics.json").read_text())["steps"]
    assert run(*start, "--resume", "--epochs", "2", "--json").code == 0
    assert json.loads((out / "metrics.json").read_text())["steps"] == 2 * steps
    assert run(*start, "--resume", "--margin", "0.5").refused("margin='auto'", "not 0.5")
    assert run(*start, "--resume", "--mining", "hard").refused("mining='auto'", "not 'hard'")
    assert run(*start, "--resume", "--embedding-dim", "7").refused("embedding_dim")
    assert run(*start, "--resume", "--task", "faces").refused("task='digits', not 'faces'")
    assert run("train", digits, "--out", tmp_path / "none", "--resume").refused("plan.json")


@pytest.mark.parametrize(
    "options, said",
    [
        ((), "--task is needed"),
        (("--task", "fish"), "task='fish' is not known"),
        (("--task", "digits", "--mining", "gold"), "mining='gold' is not known"),
        (("--task", "digits", "--margin", "wide"), "margin='wide' is not known"),
        (("--task", "digits", "--margin", "-1"), "margin"),
        (("--task", "digits", "--minutes", "1", "--epochs", "1"), "--minutes and --epochs"),
        (("--task", "digits", "--minutes", "0"), "minutes"),
        (("--task", "digits", "--epochs", "nan"), "epochs"),
        (("--task", "digits", "--embedding-dim", "0"), "embedding_dim"),
        (("--task", "digits", "--layout", "heap"), "layout='heap' is not known"),
        (("--task", "digits", "--batch-size", "43"), "--batch-size 43 must be "),
        (("--task", "digits", "--batch-size", "5", "--samples-per-identity", "5"), "of two or more identities"),
        (("--task", "digits", "--samples-per-identity", "1"), "samples_per_identity=1"),
        (("--task", "digits", "--chunk", "0"), "chunk=0"),
        (("--task", "digits", "--precision", "float8"), "precision='float8' is not known"),
        (("--task", "digits", "--clip", "-1"), "clip=-1"),
        (("--task", "digits", "--temper", "2"), "temper=2"),
        (("--task", "digits", "--checkpoints", "1"), "checkpoints=1"),
        (("--task", "digits", "--mine-every", "-1"), "mine_every=-1"),
        (("--task", "digits", "--mine-every", "9", "--mine-skip", "1"), "mine_skip=1"),
        (("--task", "digits", "--categories", "99"), "categories=99"),
        (("--task", "digits", "--memory-age", "5"), "memory_age has no meaning without memory"),
    ],
)
def test_options_without_meaning_are_refused_before_anything_is_written(
    run, digits: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "run"
    assert run("train", digits, "--out", out, *options).refused(said)
    assert not out.exists()


def test_margin_is_a_number_or_soft_or_auto() -> None:
    assert parse_margin("soft") == "soft"
    assert parse_margin("auto") == "auto"
    assert parse_margin("0.35") == 0.35
    with pytest.raises(InvalidOption):
        parse_margin("automatic")


def test_ctrl_c_keeps_a_checkpoint_and_ends_with_130(
    run, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from tercet.cli.progress import Training

    told = Training.__call__
    pressed = []

    def press(self: Training, now) -> None:
        told(self, now)
        # Once: a second Ctrl-C means at once, and one step may tell twice.
        if now.phase in ("train", "validate") and now.step >= 2 and not pressed:
            pressed.append(now.step)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "__call__", press)
        out = tmp_path / "run"
        ended = run("train", digits / "digits.csv", "--task", "digits", "--epochs", "30", "--out", out)
    assert ended.code == 130
    assert "interrupted" in ended.err and "--resume" in ended.err
    assert ended.out == ""
    assert list((out / "checkpoints").iterdir())
    done = json.loads((out / "metrics.json").read_text())
    assert not done["finished"]
    ended = run("train", digits / "digits.csv", "--out", out, "--resume", "--epochs", "1", "--json")
    assert ended.code == 0
    assert json.loads((out / "metrics.json").read_text())["finished"]
