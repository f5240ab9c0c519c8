"""Writes the parts of the documentation that the code itself says: the tree and the command line.

python docs/build.py            write docs/architecture.md (between its marks) and docs/cli.md
python docs/build.py --check    write nothing; exit with 1 if what is there is stale
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tree: begin (make docs) -->", "<!-- tree: end -->"


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def tree() -> str:
    """Every module of the package with what it says of itself."""
    package = ROOT / "src" / "tercet"
    lines = ["src/tercet/"]
    for path in sorted(package.rglob("*.py"), key=lambda p: (len(p.relative_to(package).parts) > 1, p.parts)):
        inside = path.relative_to(package)
        if len(inside.parts) > 1 and path.name == "__init__.py":
            lines.append(f"  {inside.parent.as_posix() + '/':<28}{first_line(path)}")
        else:
            lines.append(f"  {'  ' * (len(inside.parts) - 1) + path.name:<28}{first_line(path)}")
    return "\n".join(["```", *lines, "```"])


def architecture() -> str:
    """docs/architecture.md with its tree as it is now."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{tree()}\n{END}{after}"


def help_of(*verb: str) -> str:
    """What `tercet VERB --help` prints, at a width of 100, without trailing blanks."""
    command = [sys.executable, "-m", "tercet.cli.main", *verb, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in printed.strip().splitlines())


def command_line() -> str:
    """docs/cli.md: every `--help`."""
    verbs = (
        "demo",
        "train",
        "evaluate",
        "calibrate",
        "embed",
        "verify",
        "search",
        "report",
        "serve",
        "export",
        "enroll",
        "identify",
        "forget",
        "gallery list",
        "gallery stats",
        "gallery duplicates",
        "gallery export",
        "gallery import",
        "gallery purge",
        "gallery calibrate",
        "bench losses",
        "bench evaluation",
        "bench gallery",
    )
    pages = [f"## tercet {verb}\n\n```\n{help_of(*verb.split())}\n```" for verb in verbs]
    head = "# Command line\n\nMade by `make docs` from the commands' own `--help`.\n\n"
    return f"{head}```\n{help_of()}\n```\n\n" + "\n\n".join(pages) + "\n"


def main() -> int:
    """Write, or check."""
    made = {ROOT / "docs" / "architecture.md": architecture(), ROOT / "docs" / "cli.md": command_line()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in sys.argv:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run `make docs`\n")
        else:
            path.write_text(made[path], "utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
