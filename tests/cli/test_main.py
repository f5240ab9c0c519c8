from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import tercet
from tercet.cli import main as cli
from tercet.errors import DataError

VERBS = ("demo", "train", "evaluate", "calibrate", "embed", "verify", "search", "report")

HEAVY = """
import json, sys
from tercet.cli.main import main
codes = [main(args) for args in json.loads(sys.argv[1])]
print(json.dumps({"codes": codes, "heavy": sorted({"torch", "sklearn", "scipy", "matplotlib"} & set(sys.modules))}))
"""


def test_help_of_every_verb_answers_without_torch() -> None:
    calls = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, json.dumps(calls)], capture_output=True, text=True, encoding="utf-8", check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"codes": [0] * len(calls), "heavy": []}
    for verb in VERBS:
        assert f" {verb} " in done.stdout


def test_every_verb_takes_json_and_says_what_it_is_for(run) -> None:
    for verb in VERBS:
        shown = run(verb, "--help").out
        assert "--json" in shown
        assert "Usage: tercet" in shown


def test_version(run) -> None:
    assert run("--version").out == f"tercet {tercet.__version__}\n"


@pytest.mark.parametrize(
    "args, said",
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["verifi"], "Did you mean 'verify'"),
        (["verify", "run"], "Missing argument 'A'"),
        (["evaluate", "run", "data", "--protocol", "tea"], "--protocol"),
        (["search", "run", "file", "--gallery", "g", "-k", "0"], "-k"),
        (["calibrate", "run", "data"], "--fmr"),
        (["train", "data", "--out", "run", "--epochs", "many"], "--epochs"),
        (["report", "run", "--nonsense"], "--nonsense"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(run, args: list[str], said: str) -> None:
    ended = run(*args)
    assert ended.refused(said)
    assert len(ended.err.splitlines()) == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Puts a command in the place of the whole program that raises what it is given."""

    def replace(error: BaseException) -> None:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)

    return replace


def test_errors_become_codes(run, failing) -> None:
    failing(DataError("a/b.png: is\nno picture"))
    ended = run()
    assert (ended.code, ended.err) == (2, "tercet: a/b.png: is no picture\n")

    failing(OSError(errno.ENOSPC, "No space left on device", "run/weights"))
    ended = run()
    assert (ended.code, ended.err) == (2, "tercet: run/weights: No space left on device\n")

    failing(KeyboardInterrupt())
    ended = run()
    assert (ended.code, ended.err) == (130, "tercet: interrupted\n")

    failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert run().code == 141

    failing(typer.Exit(3))
    assert run().code == 3


def test_a_defect_is_no_answer(run, failing) -> None:
    # Python's own code for an uncaught error is 1, which verify uses for "no match".
    failing(ZeroDivisionError("oops"))
    ended = run()
    assert ended.code == 70
    assert ended.out == ""
    assert "ZeroDivisionError: oops" in ended.err
    assert ended.err.splitlines()[-1].startswith("tercet: this is a defect")


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("tercet"), "evaluate", tmp_path / "none", tmp_path, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tercet: {tmp_path / 'none'}: no such run folder\n"


def test_a_closed_pipe_is_no_negative_answer() -> None:
    import subprocess
    import sys

    code = "import sys; from tercet.cli.main import main; sys.exit(main(['--help']))"
    read, write = __import__("os").pipe()
    __import__("os").close(read)
    ended = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    assert ended.returncode not in (0, 1)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_an_answer_that_nobody_can_read_is_none(tmp_path: Path) -> None:
    """Stdout was closed before the start."""
    code = "import sys; from tercet.cli.output import Screen; import tercet.cli.main as m; import typer\n"
    code += "app = typer.Typer()\n@app.command()\ndef f() -> None: Screen(as_json=True).emit({'a': 1})\n"
    code += "m.app = app; sys.exit(m.main([]))"
    (tmp_path / "answer.py").write_text(code)
    command = [sys.executable, str(tmp_path / "answer.py")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b'{"a": 1}\n'
    ended = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], capture_output=True)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_no_arguments_print_the_help_and_nothing_else(capsys) -> None:
    from tercet.cli.main import main

    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err
    assert "tercet: (" not in captured.err
