"""`forget` and the verbs of `gallery`: what is enrolled, what of it is alike, what leaves and what comes back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli.enroll import GalleryOption, margin_in_words, open_for, refresh_margin
from tercet.cli.output import JsonOption, Screen, plain
from tercet.cli.progress import Counting
from tercet.cli.use import RunArgument
from tercet.errors import GalleryError, InvalidOption

if TYPE_CHECKING:
    from tercet.gallery import Removed

__all__ = ["app", "forget"]

app = typer.Typer(help="What is enrolled: list, stats, duplicates, export, import, purge, calibrate.")


def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom to forget.", show_default=False)],
    gallery: GalleryOption = "gallery.db",
    as_json: JsonOption = False,
) -> None:
    """Remove somebody from a gallery: vectors, metadata and pictures; a search never returns them again."""
    screen = Screen(as_json=as_json)
    with open_for(None, gallery) as opened:
        removed = opened.forget(name)
    _show_removed(screen, removed)
    screen.emit({"identity": name, "gallery": opened.name, "removed": _removed_json(removed), "erased": removed.erased})


@app.command("list")
def list_people(gallery: GalleryOption = "gallery.db", as_json: JsonOption = False) -> None:
    """Who is enrolled, by name."""
    screen = Screen(as_json=as_json)
    with open_for(None, gallery) as opened:
        people = opened.people()
    rows = [
        (person.identity, str(person.templates), ", ".join(person.tags), person.enrolled, person.expires or "")
        for person in people
    ]
    screen.table(("identity", "templates", "tags", "enrolled", "expires"), rows, right=(1,))
    screen.emit({"gallery": opened.name, "identities": [asdict(person) for person in people]})


@app.command()
def stats(gallery: GalleryOption = "gallery.db", as_json: JsonOption = False) -> None:
    """Figures about a gallery."""
    screen = Screen(as_json=as_json)
    with open_for(None, gallery) as opened:
        found = opened.stats()
    for key, value in found.items():
        screen.say(f"{key.replace('_', ' '):22}{'-' if value is None else value}")
    screen.emit(found)


@app.command()
def duplicates(
    threshold: Annotated[
        float,
        typer.Option(min=-1, max=1, help="Least similarity of every two templates of a group.", show_default=False),
    ],
    gallery: GalleryOption = "gallery.db",
    as_json: JsonOption = False,
) -> None:
    """Groups of templates that are all alike: copies, and people enrolled under two names. Groups do not chain."""
    import numpy as np

    from tercet.gallery import alike

    screen = Screen(as_json=as_json)
    with open_for(None, gallery) as opened:
        entries, vectors = [], []
        for entry, vector_D, _ in opened.entries():
            entries.append(entry)
            vectors.append(vector_D)
    groups = alike(np.stack(vectors), threshold) if vectors else []
    shown = []
    for group in groups:
        identities = sorted({entries[row].identity for row in group})
        shown.append({"identities": identities, "paths": [entries[row].path for row in group]})
    across = sum(len(group["identities"]) > 1 for group in shown)
    screen.say(f"{len(groups)} groups of templates alike, {across} of them with more than one identity")
    if shown:
        rows = [(str(len(group["paths"])), ", ".join(group["identities"]), group["paths"][0]) for group in shown]
        screen.table(("templates", "identities", "first"), rows, right=(0,))
    screen.emit({"gallery": opened.name, "threshold": threshold, "groups": shown, "across_identities": across})


@app.command("export")
def export_all(
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where it goes.", show_default=False)],
    gallery: GalleryOption = "gallery.db",
    as_json: JsonOption = False,
) -> None:
    """Write a gallery to one file, in clear; `gallery import` and `search --gallery FILE.npz` read it."""
    from tercet.gallery import export_gallery

    screen = Screen(as_json=as_json)
    if out.suffix.lower() != ".npz":
        raise InvalidOption(f"--out {out}: must end in .npz")
    with open_for(None, gallery) as opened:
        count = export_gallery(opened, out)
    screen.say(f"{count} templates written to {out}")
    screen.emit({"gallery": opened.name, "out": str(out), "templates": count})


@app.command("import")
def import_all(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="What `gallery export` wrote.", show_default=False)],
    gallery: GalleryOption = "gallery.db",
    index: Annotated[
        str, typer.Option(help="Of a gallery that is made now: FLAT (exact), HNSW or IVF_FLAT.", show_default="FLAT")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Enroll what a file of `gallery export` holds, in a gallery of the same model or in a new one."""
    from tercet.gallery import key_from_environment, open_gallery, read_export

    screen = Screen(as_json=as_json)
    model, templates = read_export(file)
    with (
        open_gallery(
            gallery,
            model=model,
            dimension=len(templates[0].vector),
            create=True,
            index=index or None,
            key=key_from_environment(),
        ) as opened,
        Counting(screen.notes, "enrolling") as progress,
    ):
        done = opened.enroll(templates, progress=progress)
    screen.say(f"enrolled {done.templates} templates of {done.identities} identities in {opened.name}")
    screen.emit({"gallery": opened.name, "model": model, **asdict(done)})


@app.command()
def purge(gallery: GalleryOption = "gallery.db", as_json: JsonOption = False) -> None:
    """Remove every template whose retention time (`enroll --retain`) is over."""
    screen = Screen(as_json=as_json)
    with open_for(None, gallery) as opened:
        removed = opened.purge()
    _show_removed(screen, removed)
    screen.emit({"gallery": opened.name, "removed": _removed_json(removed), "erased": removed.erased})


@app.command()
def calibrate(
    run: RunArgument,
    gallery: GalleryOption = "gallery.db",
    fpir: Annotated[
        float | None,
        typer.Option(
            help="Share of strangers who may be identified as somebody.", show_default="the calibration's target FMR"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure, on who is enrolled, by how much the best identity must lead the runner-up; `identify` asks for it.

    `enroll RUN DATA` does so by itself.
    """
    from tercet.run import load

    screen = Screen(as_json=as_json)
    model = load(run)
    if model.calibration is None:
        raise InvalidOption(f"{run}: has no threshold yet; choose one with: tercet calibrate {run} DATA --fmr 0.01")
    if model.calibration.norm is not None:
        raise InvalidOption(
            f"{run}: its calibration is for normalised scores, which a gallery does not compute; choose another with: "
            f"tercet calibrate {run} DATA --fmr 0.01"
        )
    with open_for(model, gallery) as opened:
        found = refresh_margin(opened, model, fpir)
    if found is None:
        raise GalleryError(
            f"{opened.name}: too few people and templates to measure a margin on (100 templates at least)"
        )
    screen.say(margin_in_words(found))
    screen.emit({"gallery": opened.name, **found})


def _show_removed(screen: Screen, removed: Removed) -> None:
    screen.say(
        f"removed {removed.templates} {'template' if removed.templates == 1 else 'templates'} of "
        f"{', '.join(removed.identities) or 'nobody'}, {removed.pictures} with a picture"
    )
    for path in removed.paths[:10]:
        screen.say(plain(f"  {path or '(no path was stored)'}"))
    if len(removed.paths) > 10:
        screen.say(f"  and {len(removed.paths) - 10} more")
    if not removed.erased:
        screen.note("the server finds them no more; their bytes leave its files when it next compacts them")


def _removed_json(removed: Removed) -> dict[str, object]:
    return {
        "identities": list(removed.identities),
        "templates": removed.templates,
        "pictures": removed.pictures,
        "paths": list(removed.paths),
    }
