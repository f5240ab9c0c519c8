"""The command `tercet`: one parser for all verbs, and the one place where errors become exit codes.

    0    done
    1    a negative answer (verify: no match; identify: unknown)
    2    wrong use or bad input: one line on stderr that names the file and the reason
    3    could not decide (verify without a calibrated threshold)
    70   a defect of tercet itself, with its traceback (never 1, which would read as an answer)
    130  interrupted
    141  the reader of stdout has gone

The modules of the verbs import torch and the rest inside their functions, so that `--help` is immediate.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from tercet import __version__
from tercet.cli import bench, demo, enroll, evaluate, export, gallery, margin, report, serve, train, use
from tercet.cli.output import plain
from tercet.errors import TercetError

__all__ = ["app", "main"]

# torch's threads wait for each other at every step. Waiting by spinning costs nine steps in ten where another program
# wants the same cores; OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

app = typer.Typer(
    name="tercet",
    help="Triplet-loss metric learning: from a folder of labelled pictures to a model that recognises, "
    "verifies and retrieves identities it has never seen in training.",
    epilog="Exit codes: 0 done; 1 negative answer; 2 wrong use or bad input; 3 could not decide; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(evaluate.calibrate)
app.command("embed")(use.embed)
app.command("verify")(use.verify)
app.command("search")(use.search)
app.command("enroll")(enroll.enroll)
app.command("identify")(enroll.identify)
app.command("forget")(gallery.forget)
app.add_typer(gallery.app, name="gallery")
app.command("margin")(margin.margin)
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tercet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the verb."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        args: the arguments after the program's name; None reads `sys.argv`.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not end a command that has done its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if args is None else list(args)
        # The verbs that make a run note in it the command they were given.
        # Not `app(...)`, which would end on Ctrl-C without a word.
        command = typer.main.get_command(app)
        with command.make_context("tercet", list(given), obj=given) as context:
            command.invoke(context)
        code = 0
    except typer.Exit as ended:
        code = ended.exit_code
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except TercetError as error:
        return _fail(str(error), EXIT_USAGE)
    except (
        BrokenPipeError,
        SystemExit,
    ):  # the latter is how the printing of tables answers to a closed pipe, with code 1
        return _gone()
    except OSError as error:
        # For example a full disk or a folder without permission; the file is named where the system names it.
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", EXIT_USAGE)
    except typer.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        # The parser's own errors come from typer's private copy of click, or from click itself in older versions:
        # known by their method, not by their class.
        message = getattr(error, "format_message", None)
        if message is not None and not message():
            return EXIT_USAGE  # no arguments at all: the help has been printed
        if message is not None:
            return _fail(f"{message()} (tercet --help lists the commands and options)", EXIT_USAGE)
        traceback.print_exc()
        return _fail("this is a defect of tercet, please report it with the lines above", EXIT_DEFECT)
    return code


def _gone() -> int:
    """The reader of stdout has gone: nothing more can be told, not even by the interpreter's last flush."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE


def _fail(message: str, code: int) -> int:
    typer.echo(f"tercet: {plain(' '.join(message.split()))}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
