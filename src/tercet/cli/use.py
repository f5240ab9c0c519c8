"""`embed`, `verify` and `search`: a trained model at work on files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.output import JsonOption, Screen, program
from tercet.cli.progress import Counting
from tercet.errors import InvalidOption, TooLittle

if TYPE_CHECKING:
    from tercet.data import Manifest, SampleStore
    from tercet.run import Decision, Hit, Model, Vectors

__all__ = ["LayoutOption", "RunArgument", "embed", "read_store", "search", "verify", "verify_in_words"]

EXIT_NO_MATCH = 1
EXIT_UNDECIDED = 3

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model.", show_default=False)]
LayoutOption = Annotated[
    str, typer.Option(help="How DATA is laid out: folders (one per identity), manifest (a CSV), or auto.")
]


def embed(
    run: RunArgument,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE... | DATA", help="Files, or one folder of identities, or one manifest CSV."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where the vectors go.", show_default=False)],
    layout: LayoutOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Turn files into unit vectors: arrays vectors [N, D] float32, paths [N], identities [N], fingerprint.

    Files of a folder or manifest that cannot be read are skipped and counted.
    """
    from tercet.run import Vectors, load

    if out.suffix.lower() != ".npz":
        raise InvalidOption(f"--out {out}: must end in .npz (or is it one of the files to embed?)")
    screen = Screen(as_json=as_json)
    model = load(run)
    skipped: list[dict[str, str]] = []
    if len(files) == 1 and (files[0].is_dir() or files[0].suffix.lower() == ".csv"):
        vectors, skipped = _embed_data(model, files[0], layout, screen)
    else:
        with Counting(screen.notes, "embedding") as progress:
            x_ND = model.embed(files, progress=progress)
        vectors = Vectors(x_ND, tuple(map(str, files)), ("",) * len(files), model.fingerprint)
    vectors.write(out)
    screen.skipped(skipped)
    screen.say(f"{len(vectors)} vectors of width {vectors.vectors.shape[1]} written to {out}")
    screen.emit(
        {
            "out": str(out),
            "vectors": len(vectors),
            "width": vectors.vectors.shape[1],
            "model": model.fingerprint,
            "skipped": skipped,
        }
    )


def verify(
    run: RunArgument,
    a: Annotated[Path, typer.Argument(metavar="A", help="A file.", show_default=False)],
    b: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Another file; none with --claim.", show_default=False)
    ] = None,
    claim: Annotated[str, typer.Option(metavar="NAME", help="Compare A with this enrolled identity instead.")] = "",
    gallery: Annotated[
        str, typer.Option(metavar="URI", help="Where NAME is enrolled.", show_default="gallery.db")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Do two files show the same identity? Exit code 0: match; 1: no match; 3: undecided.

    Undecided are files that hold too little, such as silence, and all where the run has no threshold to decide by.
    """
    from tercet.run import load

    screen = Screen(as_json=as_json)
    if (b is None) != bool(claim) or (gallery and not claim):
        raise InvalidOption("verify: give two files, or one file with --claim NAME and --gallery URI")
    model = load(run)
    if b is not None:
        decision, answer = (decided := model.verify(a, b)), decided.to_json()
    else:
        decision, answer = _verify_claim(model, gallery or "gallery.db", claim, a)
    screen.say(verify_in_words(decision))
    if decision.calibration is None:
        screen.note(f"choose a threshold with: {program()} calibrate {run} DATA --fmr 0.01")
    screen.emit(answer)
    raise typer.Exit({"match": 0, "no-match": EXIT_NO_MATCH, "undecided": EXIT_UNDECIDED}[decision.decision])


def search(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to look for.", show_default=False)],
    gallery: Annotated[
        str,
        typer.Option(
            metavar="URI|DATA|FILE.npz",
            help="What to look in: a gallery, a folder of identities, a manifest CSV, or a file of `tercet embed`.",
            show_default=False,
        ),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    layout: LayoutOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """The files of a gallery that are most like a file, best first; exact."""
    from tercet.gallery import is_gallery_folder
    from tercet.run import Vectors, load

    screen = Screen(as_json=as_json)
    model = load(run)
    place = Path(gallery)
    skipped: list[dict[str, str]] = []
    vectors: Vectors
    hits: list[Hit]
    if "://" in gallery or place.name.partition("#")[0].endswith(".db") or is_gallery_folder(place):
        hits, size = _search_gallery(model, gallery, file, k)
    else:
        if place.suffix.lower() == ".npz":
            vectors = Vectors.read(place)
            vectors.require_model(model.fingerprint, gallery)
        else:
            vectors, skipped = _embed_data(model, place, layout, screen, gallery=True)
        hits, size = model.search(file, vectors, k), len(vectors)
    probe = file.resolve()
    rows = []
    for rank, hit in enumerate(hits, start=1):
        same = "  (the file itself)" if Path(hit.path).resolve() == probe else ""
        rows.append((str(rank), hit.identity or "-", f"{hit.score:.3f}", f"{hit.path}{same}"))
    screen.skipped(skipped)
    screen.table(("rank", "identity", "score", "path"), rows, right=(0, 2))
    screen.emit(
        {
            "query": str(file),
            "results": [{"identity": hit.identity, "path": hit.path, "score": hit.score} for hit in hits],
            "gallery": size,
            "model": model.fingerprint,
            "skipped": skipped,
        }
    )


def _verify_claim(model: Model, gallery: str, claim: str, file: Path) -> tuple[Decision, dict[str, Any]]:
    """The decision about a claimed identity, and its JSON; undecided where the file holds too little."""
    from tercet.cli.enroll import open_for
    from tercet.gallery import Claim, verify_claim

    probe_D, reason = None, ""
    try:
        probe_D = model.embed([file])[0]
    except TooLittle as error:
        reason = str(error)
    with open_for(model, gallery) as opened:
        if probe_D is None:
            found = Claim(model.undecided(reason), claim, len(opened.of(claim)))
        else:
            found = verify_claim(opened, model.calibration, probe_D, claim)
    return found.decision, found.to_json()


def _search_gallery(model: Model, gallery: str, file: Path, k: int) -> tuple[list[Hit], int]:
    """The templates of a gallery most like a file, and how many there are."""
    from tercet.cli.enroll import open_for
    from tercet.run import Hit

    probe_D = model.embed([file])[0]
    with open_for(model, gallery) as opened:
        hits = [Hit(match.identity, match.path, match.score) for match in opened.search(probe_D, k)]
        return hits, len(opened)


def verify_in_words(decision: Decision) -> str:
    """A decision as one sentence."""
    if decision.score is None:
        return f"undecided: {decision.reason}"
    if decision.decision == "undecided" or decision.calibration is None:
        return f"undecided: score {decision.score:.3f}, and {decision.reason}"
    word = {"match": "match: the same identity", "no-match": "no match: different identities"}[decision.decision]
    side = "at or above" if decision.decision == "match" else "below"
    return (
        f"{word} (score {decision.score:.3f}, {side} the threshold {decision.threshold:.3f}, which "
        f"{100 * decision.calibration.achieved_fmr:.2g} % of {decision.calibration.impostor_pairs} pairs of different "
        "identities reached in calibration)"
    )


def read_store(manifest: Manifest, model: Model, screen: Screen) -> SampleStore:
    """The decoded samples of a manifest by the model's own front end, with progress."""
    from tercet.data import SampleStore

    with Counting(screen.notes, "reading samples") as progress:
        return SampleStore.read(manifest, model.front_end, progress=progress)


def _embed_data(
    model: Model, data: Path, layout: str, screen: Screen, *, gallery: bool = False
) -> tuple[Vectors, list[dict[str, str]]]:
    """The vectors of a folder or manifest, with paths as the caller may open them, and what was skipped.

    A forgery is no sample of the identity that it pretends to be: it has none, and does not stand in a gallery.
    """
    from tercet.data import GENUINE
    from tercet.run import Vectors
    from tercet.tasks import load_task

    found = load_task(model.task).read(data, layout=layout)
    found = found.enrolled() if gallery else found
    with read_store(found, model, screen) as store:
        with Counting(screen.notes, "embedding") as progress:
            x_ND = model.embed(store, progress=progress)
        manifest = store.manifest
    base = data if data.is_dir() else data.parent
    paths = tuple(str(base / manifest.relative(row)) for row in manifest.rows)
    identities = tuple(row.identity if row.kind == GENUINE else "" for row in manifest.rows)
    skipped: list[dict[str, Any]] = [{"path": item.path, "reason": item.reason} for item in manifest.skipped]
    return Vectors(x_ND, paths, identities, model.fingerprint), skipped
