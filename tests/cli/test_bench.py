"""`tercet bench losses` on a moment's measurements; no figure is judged."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.bench import contenders
from tercet.bench.plot import plot

SMALL = (
    "--quick",
    "--no-peers",
    "--rows",
    "16",
    "--width",
    "4",
    "--threads",
    "1",
    "--rounds",
    "2",
    "--seconds",
    "1e-5",
)


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "QUICK", ("formula 2",))


@pytest.mark.usefixtures("one_case")
def test_one_object_a_plot_and_a_file(run, tmp_path: Path) -> None:
    ended = run("bench", "losses", *SMALL, "--json", "--plot", tmp_path / "plot.png", "--out", tmp_path / "all.json")
    assert ended.code == 0, ended.err
    result = ended.json
    assert json.loads((tmp_path / "all.json").read_text("utf-8")) == result
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert {entry["contender"] for entry in result["entries"]} == {"tercet", "torch, broadcast"}
    assert result["setting"]["rows"] == 16
    assert result["setting"]["memory"] == 10**9
    assert result["unit"]["ms"] is None or result["unit"]["ms"] > 0
    for words in ("formula 2", "torch, broadcast", "x unit", "rows in 1,000 MB", "plot: "):
        assert words in ended.err, words


def entry(**given):
    figures = {
        "case": "all", "contender": "tercet (tiles)", "ms": 2.0, "times_unit": 4.0, "times_tercet": 1.0, "rounds": 3,
        "gradient_error": 1e-7, "extra_bytes": 3_000_000, "largest_rows": 2048, "ended_by": "time",
        "steps": [{"rows": 128, "seconds": 0.1, "extra": 0.0}, {"rows": 256, "seconds": 0.2, "extra": 4e6}],
    }  # fmt: skip
    return figures | given


RESULT = {
    "machine": {"tercet": "0", "torch": "2", "cores": 2, "load": 0.1, "device": "cpu", "date": "2026-01-01"},
    "setting": {"rows": 256, "width": 8, "samples_per_class": 4, "threads": 1, "memory": 10**9, "tolerance": 1e-4},
    "unit": {"what": "product", "ms": 0.5, "steps": [{"rows": 128, "seconds": 0.01, "extra": 65536.0}]},
    "entries": [
        entry(),
        entry(contender="torch, broadcast", ms=None, gradient_error=None, ended_by="memory", largest_rows=160),
        entry(contender="torch.nn, index triplets", ms=None, gradient_error=None, largest_rows=0, steps=[]),
    ],
    "left_out": [{"case": "all", "contender": "someone", "reason": "does not compute the same"}],
}


def test_what_the_table_says(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercet.bench.losses.bench_losses", lambda plan, tell: RESULT)
    lines = run("bench", "losses").out.splitlines()
    cells = {re.split(" {2,}", line)[1]: line.split() for line in lines if line.startswith("all  ")}
    assert cells["tercet (tiles)"][-7:] == ["4.0", "1.0", "3.0", "1e-07", "at", "least", "2,048"]
    assert cells["torch, broadcast"][-5:] == ["too", "large", "over", "1,000", "160"]
    assert cells["torch.nn, index triplets"][-3:] == ["too", "slow", "none"]
    assert "  all, someone: does not compute the same" in lines


def test_the_plot_is_one_row_per_case() -> None:
    one = plot(RESULT)
    assert one.startswith(b"\x89PNG")
    two = plot(RESULT | {"entries": [*RESULT["entries"], entry(case="hard")]})
    height = slice(20, 24)  # of the PNG's header
    assert int.from_bytes(two[height], "big") > 1.5 * int.from_bytes(one[height], "big")


@pytest.mark.parametrize(
    "options, said",
    [
        (["--memory", "much"], "memory must be a size such as 500MB or 2GB, got 'much'"),
        (["--memory", "1KB"], "memory must be at least 1000000, got 1000"),
        (["--device", "tpu"], "device must be auto, cpu or cuda, got 'tpu'"),
        (["--rows", "5"], "rows must be at least 8"),
        (["--rows", "-5"], "rows must be at least 8"),
        (["--seconds", "-1"], "seconds must lie between 0 and 3600"),
        (["--plot", "no/such/folder/x.png"], "plot: no/such/folder is no folder"),
    ],
)
def test_wrong_use_is_said_before_anything_is_measured(run, options: list[str], said: str) -> None:
    assert run("bench", "losses", *options).refused(said)


@pytest.mark.parametrize(
    "text, size", [("1GB", 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("2000000", 2000000)]
)
def test_sizes(text: str, size: int) -> None:
    from tercet.cli.bench import _bytes

    assert _bytes(text) == size


def test_bench_alone_prints_its_help(run) -> None:
    assert "losses" in run("bench", "--help").out
    assert run("bench").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
def test_ctrl_c_ends_it_and_what_it_started() -> None:
    code = "import sys; from tercet.cli.main import main; sys.exit(main(['bench', 'losses', '--no-peers']))"
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stderr is not None
    first = running.stderr.readline()
    assert first.startswith("starting")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()  # returns only when nobody holds the pipes any more
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_the_table_of_the_evaluation(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tercet.bench import evaluation

    monkeypatch.setattr(evaluation, "CASES", {"AUC, EER": evaluation.CASES["AUC, EER"]})
    out = tmp_path / "all.json"
    given = ("--quick", "--pairs", "500", "--rows", "50", "--threads", "1", "--json", "--out", out)
    ended = run("bench", "evaluation", *given)
    assert ended.code == 0, ended.err
    assert json.loads(out.read_text("utf-8")) == ended.json
    ours, theirs = ended.json["entries"]
    assert (ours["contender"], theirs["contender"]) == ("tercet", "scikit-learn, hull")
    assert ours["figures"] == pytest.approx(theirs["figures"], abs=1e-6)
    assert ours["times_tercet"] is None and theirs["times_tercet"] > 0 and ours["rounds"] == 2
    for words in ("x tercet", "500 pairs", "scikit-learn, brentq: does not compute the same: eer", "figures: "):
        assert words in ended.err, words


def test_the_table_of_the_gallery(run, tmp_path: Path) -> None:
    ended = run("bench", "gallery", "--quick", "--templates", "60", "--probes", "3", "-k", "2", "--no-peers", "--json")
    assert ended.code == 0, ended.err
    entries = {entry["contender"]: entry for entry in ended.json["entries"]}
    assert set(entries) == {
        "tercet, FLAT",
        "tercet, HNSW",
        "tercet, IVF_FLAT",
        "milvus lite, bare",
        "numpy, one product",
    }
    assert entries["tercet, FLAT"]["recall"] == entries["numpy, one product"]["recall"] == 1.0
    assert all(entry["enroll_seconds"] > 0 and entry["search_ms"] > 0 for entry in entries.values())
    assert "recall@2" in ended.err and "60 templates" in ended.err
    assert run("bench", "gallery", "--templates", "5").refused("templates must lie between 10")
    assert run("bench", "gallery", "--out", tmp_path / "no" / "a.json").refused("no is no folder")
    assert run("bench", "evaluation", "--memory", "much").refused("memory must be a size")
