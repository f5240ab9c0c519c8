"""The documentation tells the truth: its code runs, its made parts are fresh, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from portraits import write_portraits
from published import SIDE, write_timm
from tercet.cli.main import main
from voices import write_speakers
from writers import write_writers

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
APPLICATIONS = ("faces.md", "images.md", "signatures.md", "speakers.md")
SECTIONS = (
    "Prepare the data", "Train", "Evaluate", "Choose a threshold", "Use", "What it reaches", "What it cannot do",
)  # fmt: skip


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every fenced block of a language."""
    found = []
    for page in PAGES:
        for code in re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            found.append((page.name, code))
    return found


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `tercet demo --out demo-run` has run, for a moment only."""
    folder = tmp_path_factory.mktemp("docs")
    assert main(["demo", "--out", str(folder / "demo-run"), "--epochs", "0.3"]) == 0
    return folder


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_runs(page: str, code: str, demo_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block; one that begins with `# needs: PACKAGE, ...` only where these are installed, with their warnings."""
    monkeypatch.chdir(demo_run)
    needs = re.match(r"# needs: (.+)", code)
    for package in needs[1].split(", ") if needs else ():
        pytest.importorskip(package, reason=f"{package} is not installed")
    if "demo.onnx" in code:
        assert main(["export", "demo-run", "--onnx", "demo.onnx"]) == 0
    with warnings.catch_warnings():
        if needs:
            warnings.simplefilter("ignore")
        exec(compile(code, page, "exec"), {})


def shell_pages() -> list[object]:
    # Those of benchmarks.md, which take long, are run by tests/cli/test_bench.py too.
    pages = sorted({page for page, _ in blocks("sh")})
    return [pytest.param(page, marks=[pytest.mark.long] if page == "benchmarks.md" else []) for page in pages]


@pytest.mark.parametrize("page", shell_pages())
def test_the_shell_blocks_of_a_page_run_on_small_data(
    page: str, demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `tercet` line of a page, in order, on the demo's pictures or made-up data, for a moment only.

    A block that begins with `# needs: PACKAGE, ...` runs only where these are installed; where they are not, the page
    is skipped once its other blocks have run.
    """
    shutil.copytree(demo_run / "demo-run", tmp_path / "demo-run")
    monkeypatch.chdir(tmp_path)
    codes = [code for name, code in blocks("sh") if name == page]
    if any("speakers/" in code for code in codes):
        write_speakers(Path("speakers"), speakers=10, utterances=3)
        write_speakers(Path("other-speakers"), speakers=20, utterances=4, first=20)
    if any("writers/" in code for code in codes):
        write_writers(Path("writers"), writers=30, genuine=8, forged=5)
    if any("faces/" in code for code in codes):
        write_portraits(Path("faces"), people=7, pictures=3)
        write_portraits(Path("other-faces"), people=15, pictures=3, first=20)
    if any("things/" in code for code in codes):
        write_things(Path("things"), things=8, pictures=3)
        write_things(Path("other-things"), things=20, pictures=4, first=20)
    if any("lfw/" in code for code in codes):
        write_lfw(Path("lfw"))
    if importlib.util.find_spec("timm") and any("timm:" in code for code in codes):
        write_timm(Path("network"))  # a small one in place of the one that the page names
    missing: set[str] = set()
    for code in codes:
        needs = re.match(r"# needs: (.+)", code)
        absent = {package for package in needs[1].split(", ") if not importlib.util.find_spec(package)} if needs else ()
        if absent:
            missing.update(absent)
            continue
        lines = [line.split("#")[0].strip() for line in code.splitlines()]
        commands = [shlex.split(line)[1:] for line in lines if line.startswith("tercet ")]
        assert commands or "make " in code or "pip " in code, f"{page}: a shell block that shows nothing of tercet"
        for command in commands:
            small = [re.sub(r"^people/(.*)", r"demo-run/data/digits/\1", word) for word in command]
            small = ["demo-run/data/digits" if word in ("people", "people/") else word for word in small]
            small = ["timm:network" if word.startswith("timm:") else word for word in small]
            if "--minutes" in small:
                at = small.index("--minutes")
                small[at : at + 2] = ["--epochs", "1"] if "timm:network" in small else ["--minutes", "0.02"]
            assert main(small) in (0, 1, 3), f"{page}: {shlex.join(small)}"
    if missing:
        pytest.skip(f"{page}: only the blocks that do not need {', '.join(sorted(missing))} have run")


def write_things(folder: Path, *, things: int, pictures: int, first: int = 0) -> None:
    """A folder of one folder per made-up thing of coloured patches, each picture of it in its own light and grain."""
    for thing in range(first, first + things):
        random = np.random.default_rng(thing)
        patches = random.uniform(40, 215, size=(4, 4, 3)).repeat(SIDE // 4, axis=0).repeat(SIDE // 4, axis=1)
        place = folder / f"p{thing:02d}"
        place.mkdir(parents=True)
        for picture in range(pictures):
            seen = patches + random.normal(size=patches.shape) * 15 + random.normal() * 20
            Image.fromarray(seen.clip(0, 255).astype(np.uint8)).save(place / f"{picture}.png")


def write_lfw(folder: Path) -> None:
    """Eight people with two pictures each, named as LFW names them, and a list of two folds over four of them."""
    names = sorted(place.name for place in write_portraits(folder, people=8, pictures=2, first=40).iterdir())
    for name in names:
        for number in (0, 1):
            (folder / name / f"{number}.jpg").rename(folder / name / f"{name}_{number + 1:04d}.jpg")
    lines = ["2\t2"]
    for one, other in (names[:2], names[2:4]):
        lines += [f"{one}\t1\t2", f"{other}\t1\t2", f"{one}\t1\t{other}\t1", f"{one}\t2\t{other}\t2"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("page", APPLICATIONS)
def test_the_pages_of_the_applications_have_the_same_sections_in_the_same_order(page: str) -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("page", APPLICATIONS)
def test_a_command_of_an_application_stands_where_it_is_run(page: str) -> None:
    """In a block of `sh`; only names of commands, without what they are given, may stand in the text."""
    text = re.sub(r"^```sh\n.*?^```", "", (ROOT / "docs" / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^tercet .+|`tercet [a-z]+ [^`]+`", text, re.MULTILINE)


def test_made_parts_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_first_screen_of_the_readme_shows_the_two_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:30])
    assert "make demo" in first
    assert "make test" in first


def test_every_public_name_of_the_losses_is_explained_in_the_mathematics() -> None:
    from tercet.functional.options import DISTANCES, MINING

    text = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
    for option in (*DISTANCES, *MINING):
        assert f'"{option}"' in text, option
