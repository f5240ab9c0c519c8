"""Trainings in several real processes: the same command, the same model; one that goes ends the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from synthetic import tiny_plan
from tercet.errors import RunError
from tercet.run.files import read_tensors
from tercet.train import train
from tercet.train.ranks import FailedInFirst, Ranks

PLAN = {"checkpoint_seconds": 0, "memory": 20, "memory_momentum": 0.9, "mining": "hard", "mine_every": 5}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}

# One of two processes that meet in a file: a training in which the second begins to wait, or dies, at some step.
ONE_OF_TWO = """
import datetime, json, os, sys
from pathlib import Path
import torch
from torch import distributed
from synthetic import read_people, tiny_plan
from tercet.errors import TercetError
from tercet.train import train
rank, (data, out, meet), plan = int(sys.argv[1]), map(Path, sys.argv[2:5]), json.loads(sys.argv[5])
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
distributed.init_process_group(
    "gloo", init_method=f"file://{meet}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=120)
)
try:
    train(read_people(data), tiny_plan(**plan), out)
except TercetError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def two(data: Path, out: Path, meet: Path, plan: dict) -> list[subprocess.Popen]:
    words = [str(data), str(out), str(meet), json.dumps(plan)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(rank), *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(out / "weights.safetensors")


def test_the_same_command_under_torchrun_gives_the_same_model_and_tells_it_once(people, tmp_path):
    def command(out: Path) -> list[str]:
        return ["tercet", "train", str(people.root), "--task", "digits", "--out", str(out), "--epochs", "1", "--json"]

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    several = tmp_path / "several"
    done = subprocess.run(
        [*launch, *command(several)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["run"] == str(several)
    assert done.stderr.count("training on ") == done.stderr.count("training 100 %") == 1
    alone = tmp_path / "alone"
    from tercet.cli.main import main

    assert main(command(alone)[1:]) == 0
    one, other = weights(alone), weights(several)
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one | other)
    # How often the loss is looked at depends on the clock; validations do not.
    lines = [
        [json.loads(text) for text in (run / "history.jsonl").read_text().splitlines()] for run in (alone, several)
    ]
    validations = [[line["step"] for line in told if line["phase"] == "validate"] for told in lines]
    assert validations[0] == validations[1] != [], "and no line is written twice"


def test_a_killed_process_ends_the_others_with_one_line_and_one_process_can_go_on(people, tmp_path):
    out = tmp_path / "run"
    processes = two(people.root, out, tmp_path / "meet", PLAN | {"epochs": 100_000})
    try:
        deadline = time.monotonic() + 200
        while len(list(out.glob("checkpoints/step-*"))) < 2 and time.monotonic() < deadline:
            assert [process.poll() for process in processes] == [None, None], processes[0].communicate()[1]
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGKILL)
        told = processes[0].communicate(timeout=150)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
    assert processes[0].returncode == 1
    last = told.strip().splitlines()[-1]
    assert last.startswith("RunError: process 0 of 2: another process of this training has gone"), told
    assert "--resume" in last
    step = max(int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*"))
    # A checkpoint is of the whole training, however many computed it: one process goes on from it.
    before = read_tensors(max(out.glob("checkpoints/step-*")) / "tensors.safetensors")
    assert len(before["memory.rows"]) > 12 and before["memory.follower.embed.bias"].any()
    train(people, tiny_plan(**PLAN | {"epochs": (step + 6) / 3}), out, resume=True)
    assert json.loads((out / "metrics.json").read_text())["steps"] == step + 6
    assert json.loads((out / "history.jsonl").read_text().splitlines()[0])["step"] <= step


def test_a_description_is_fitted_and_weighed_once_for_all_processes(people, tmp_path):
    """Every checkpoint sees to it that all hold the same weights, map and share among them."""
    plan = {"described": True, "epochs": 2, "checkpoint_seconds": 0, "mine_every": 3}
    processes = two(people.root, tmp_path / "several", tmp_path / "meet", plan)
    told = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    one = weights(train(people, tiny_plan(**plan), tmp_path / "alone"))
    other = weights(tmp_path / "several")
    assert one["description.known"].any()
    for name in ("description.middle", "description.known", "share"):
        assert torch.equal(one[name], other[name])
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one | other)


def environment_of(process: int) -> dict[str, str]:
    entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def workers_of(launcher: int) -> dict[str, int]:
    """The processes that a launcher has started, by their rank (Linux)."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):
            if rank := environment_of(int(child)).get("RANK"):
                found[rank] = int(child)
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_same_command_under_accelerate_launch_trains_in_two_processes(people, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["--log_dir", str(tmp_path / "log"), "--tee", "3", "-m"]
    out = tmp_path / "run"
    words = ["tercet", "train", str(people.root), "--task", "digits", "--out", str(out), "--epochs", "2", "--json"]
    options = ["--mine-every", "1", "--chunk", "7"]
    done = subprocess.run(
        [*launch, *words, *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    (one,), (other,) = (list((tmp_path / "log").rglob(f"{rank}/stdout.log")) for rank in range(2))
    assert json.loads(one.read_text())["run"] == str(out) and other.read_text() == ""
    assert not (out / "survey").exists() and json.loads((out / "metrics.json").read_text())["finished"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_frozen_process_ends_the_job_with_one_line_within_the_timeout_and_the_grace_of_the_launcher(people, tmp_path):
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["tercet", "train", str(people.root), "--task", "digits", "--out", str(out)]
    options = ["--epochs", "100000", "--timeout", "20"]
    process = subprocess.Popen([*launch, *words, *options], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    frozen = None
    try:
        deadline = time.monotonic() + 300
        # The history tells when steps are being made.
        while time.monotonic() < deadline and not (out / "history.jsonl").is_file():
            assert process.poll() is None
            time.sleep(0.1)
        frozen = workers_of(process.pid)["1"]
        os.kill(frozen, signal.SIGSTOP)
        told = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        if frozen is not None:
            with contextlib.suppress(OSError):
                os.kill(frozen, signal.SIGKILL)
    assert process.returncode != 0
    (line,) = (line for line in told.splitlines() if "has gone or does not answer" in line)
    assert "process 0 of 2" in line and "--resume" in line, told


def test_alone_there_is_nobody_to_ask():
    ranks = Ranks()
    assert (ranks.size, ranks.rank, ranks.first) == (1, 0, True)
    assert ranks.agreed(1.5, False) == (1.5, False) and ranks.as_first([1.0, 2.0]) == [1.0, 2.0]
    ranks.require_equal("weights", [torch.ones(3)])
    assert ranks.by_first(lambda: 7) == 7
    with pytest.raises(RunError, match="no room"):
        ranks.by_first(lambda: (_ for _ in ()).throw(RunError("no room")))
    assert issubclass(FailedInFirst, RunError)
