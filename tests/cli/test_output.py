from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from tercet.cli.output import Screen
from tercet.cli.progress import Counting, Training
from tercet.train import TrainingProgress

LOOK = TrainingProgress(
    "train",
    step=5,
    fraction_done=0.5,
    elapsed_s=4.0,
    remaining_s=4.0,
    loss=0.125,
    active_fraction=0.25,
    mean_positive=0.5,
    mean_negative=1.5,
    images_per_second=1234.0,
)


def test_json_has_no_nan_and_no_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(as_json=True).emit(
        {"a": math.nan, "b": np.float32(0.5), "c": [np.int64(3), (math.inf,)], 4: None, "é": True}
    )
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 0.5, "c": [3, [None]], "4": None, "é": True}


def test_with_json_all_text_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("text")
    screen.title("title")
    screen.table(("a", "b"), [("1", "2")])
    screen.note("note")
    screen.emit({})
    captured = capsys.readouterr()
    assert captured.out == "{}\n"
    assert all(word in captured.err for word in ("text", "title", "note"))
    Screen(as_json=False).emit({"a": 1})
    assert capsys.readouterr().out == ""


def test_skipped_files_are_counted_and_the_first_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(as_json=False).skipped([{"path": f"{n}.png", "reason": "broken"} for n in range(8)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped 8 files:"
    assert lines[1:6] == [f"  {n}.png: broken" for n in range(5)]
    assert lines[6:] == ["  and 3 more"]


def test_table_in_a_pipe_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(as_json=False).table(("path",), [("x" * 500,)])
    assert "x" * 500 in capsys.readouterr().out


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    name = "a\x1b[31m\rb"
    screen.table(("identity", name), [(name, "x")])
    screen.say(f"removed {name}\nand more")
    screen.note(name)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\r" not in said.out + said.err
    assert r"a\x1b[31m\rb" in said.out
    assert said.out.endswith("\nand more\n")
    assert said.err == r"a\x1b[31m\rb" + "\n"


def told(*looks: TrainingProgress, terminal: bool) -> str:
    file = io.StringIO()
    with Training(Console(file=file, force_terminal=terminal, width=120)) as progress:
        for look in looks:
            progress(look)
    return file.getvalue()


def at(elapsed_s: float, **more: object) -> TrainingProgress:
    from dataclasses import replace

    return replace(LOOK, elapsed_s=elapsed_s, step=int(10 * elapsed_s), **more)


def test_training_in_a_pipe_is_a_plain_line_now_and_then() -> None:
    read = TrainingProgress("read", step=10, fraction_done=1.0)
    lines = told(read, *(at(t) for t in range(26)), terminal=False).splitlines()
    assert len(lines) == 4  # at 0, 10 and 20 seconds, and the last one
    assert "loss 0.1250" in lines[0]
    assert "active 25.0 %" in lines[0]
    assert "d+ 0.500" in lines[0] and "d- 1.500" in lines[0]
    assert "1,234 images/s" in lines[0]
    assert all("\x1b" not in line for line in lines)


def test_a_search_of_the_whole_training_set_is_told_too() -> None:
    shown = told(at(0.0), *(at(t, phase="survey", fraction_done=t / 40) for t in range(10, 40, 10)), terminal=False)
    assert shown.splitlines()[1:] == [f"searching for what is hard {share} %" for share in (25, 50, 75)]
    assert "searching for what is hard" in told(at(1.0, phase="survey"), terminal=True)


def test_training_on_a_terminal_is_a_live_bar_with_the_figures_below() -> None:
    shown = told(at(1.0), at(2.0, validation_eer=0.125), terminal=True)
    assert "50%" in shown
    assert "4 s left" in shown
    assert "validation EER 12.5 %" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_training_ends_with_the_error_rate_of_the_weights_that_are_saved(terminal: bool) -> None:
    """A whitening or earlier weights make it another than that of the last look; the rest is of that look."""
    from dataclasses import replace

    last = at(3, validation_eer=0.226)
    said = told(
        last, replace(last, phase="whiten"), replace(last, phase="done", validation_eer=0.243), terminal=terminal
    )
    assert said.rfind("validation EER 24.3 %") > said.rfind("validation EER 22.6 %") and "loss 0.1250" in said


def test_training_that_fails_before_the_first_step_shows_nothing_more() -> None:
    assert told(terminal=False) == ""
    file = io.StringIO()
    with pytest.raises(ZeroDivisionError), Training(Console(file=file)):
        raise ZeroDivisionError
    assert file.getvalue() == ""


@pytest.mark.parametrize("total, shown", [(10, False), (1000, True)])
def test_counting_shows_a_bar_where_there_is_something_to_wait_for(total: int, shown: bool) -> None:
    file = io.StringIO()
    with Counting(Console(file=file, force_terminal=True, width=100), "reading") as progress:
        for done in range(0, total + 1, 10):
            progress(done, total)
    assert ("reading" in file.getvalue()) == shown


def test_the_program_is_named_so_that_it_can_be_called_from_here(tmp_path, monkeypatch):
    from tercet.cli.output import program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv" / "bin" / "tercet")])
    assert program() == ".venv/bin/tercet"
    monkeypatch.setattr("sys.argv", ["/elsewhere/bin/tercet"])
    assert program() == "/elsewhere/bin/tercet"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert program() == "tercet"
