"""`enroll` and `identify`: people into a gallery, and who of them a file shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli.output import JsonOption, Screen, plain, program
from tercet.cli.progress import Counting
from tercet.cli.use import LayoutOption, RunArgument, read_store
from tercet.errors import DataError, InvalidOption, TooLittle

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tercet.data import Manifest, SampleStore
    from tercet.gallery import Doubt, Gallery, Identification, Prepared
    from tercet.run import Model

__all__ = ["GalleryOption", "enroll", "identify", "margin_in_words", "open_for", "refresh_margin"]

EXIT_UNKNOWN = 1
EXIT_UNDECIDED = 3
MOST_MEASURED = 20_000

GalleryOption = Annotated[
    str,
    typer.Option(metavar="URI", help="A local folder, or a Milvus server (http://host:19530); #NAME picks one there."),
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", metavar="WORD", help="May be given several times.")]


def enroll(
    run: RunArgument,
    who: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME FILE... | DATA",
            help="A name and files that show its bearer, or one folder of identities, or one manifest CSV.",
            show_default=False,
        ),
    ],
    gallery: GalleryOption = "gallery.db",
    tag: TagOption = None,
    retain: Annotated[
        str, typer.Option(metavar="TIME", help="Found for so long, then to be purged: 12h, 365d, 8w, 3y.")
    ] = "",
    store_pictures: Annotated[
        bool, typer.Option("--store-pictures", help="Keep a small copy of each picture, without its EXIF data.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Enroll also what shows nothing or is somebody else's sample.")
    ] = False,
    index: Annotated[
        str, typer.Option(help="Of a gallery that is made now: FLAT (exact), HNSW or IVF_FLAT.", show_default="FLAT")
    ] = "",
    layout: LayoutOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Store what a model sees of people, to recognise them by. The same file again replaces; nothing is learned later.

    When it returns, all is on the disk. Files that cannot be read or show nothing are left out and named.
    """
    from tercet.gallery import are_pictures, prepare, retention_s
    from tercet.gallery.store import INDEXES
    from tercet.run import load

    screen = Screen(as_json=as_json)
    retain_s = retention_s(retain, "--retain")
    if index and index not in INDEXES:  # said before an hour of embedding, not after it
        raise InvalidOption.unknown("--index", index, INDEXES)
    model = load(run)
    if store_pictures and not are_pictures(model.front_end):
        raise InvalidOption(f"--store-pictures: the samples of {run} are not pictures (task {model.task})")
    found = _manifest(model, who, layout)
    with (
        read_store(found, model, screen) as store,
        open_for(model, gallery, create=True, index=index or None) as opened,
    ):
        with Counting(screen.notes, "embedding") as progress:
            x_ND = model.embed(store, progress=progress)
        prepared = prepare(
            opened,
            x_ND,
            [row.identity for row in store.manifest.rows],
            store.hashes,
            paths=[str(row.path.absolute()) for row in store.manifest.rows],
            picture=_picture_of(store),
            calibration=model.calibration,
            tags=tuple(tag or ()),
            keep_pictures=store_pictures,
            force=force,
        )
        if not prepared.templates:
            first = prepared.refused[0]
            raise DataError(f"{first.path}: {first.reason}" + _and_more(len(prepared.refused) - 1))
        with Counting(screen.notes, "enrolling") as progress:
            done = opened.enroll(
                prepared.templates,
                retain_s=retain_s,
                calibration=model.calibration and model.calibration.id,
                by_path=True,
                progress=progress,
            )
        margin = refresh_margin(opened, model, None) if len(who) == 1 and len(opened) <= MOST_MEASURED else None
    skipped = [{"path": item.path, "reason": item.reason} for item in store.manifest.skipped]
    screen.skipped(skipped)
    _show_doubts(screen, prepared)
    screen.say(
        f"enrolled {done.templates} {'template' if done.templates == 1 else 'templates'} of {done.identities} "
        f"{'identity' if done.identities == 1 else 'identities'} in {opened.name}"
        + (f"; {done.replaced} replaced what was there" if done.replaced else "")
    )
    if margin is not None:
        screen.say(margin_in_words(margin))
    if model.calibration is None:
        screen.note(f"no threshold to decide by yet; choose one with: {program()} calibrate {run} DATA --fmr 0.01")
    screen.emit(
        {
            "gallery": opened.name,
            "model": model.fingerprint,
            "enrolled": done.templates,
            "identities": done.identities,
            "replaced": done.replaced,
            "refused": _as_json(prepared.refused),
            "warnings": _as_json(prepared.warnings),
            "skipped": skipped,
            "calibration": model.calibration and model.calibration.id,
            "runner_up": margin,
        }
    )


def identify(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Who is it?", show_default=False)],
    gallery: GalleryOption = "gallery.db",
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many candidates to show.")] = 5,
    tag: TagOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who of those enrolled does a file show, or nobody? Exit code 0: identified; 1: unknown; 3: undecided.

    Undecided is a file that holds too little, such as silence, and all where the run has no threshold to decide by.
    """
    from tercet.gallery import identify as identify_vector
    from tercet.gallery import identify_nothing
    from tercet.run import load

    screen = Screen(as_json=as_json)
    model = load(run)
    probe_D, reason = None, ""
    try:
        probe_D = model.embed([file])[0]
    except TooLittle as error:
        reason = str(error)
    with open_for(model, gallery) as opened:
        if probe_D is None:
            found = identify_nothing(opened, model.calibration, reason)
        else:
            found = identify_vector(opened, model.calibration, probe_D, candidates=k, tags=tuple(tag or ()))
    screen.say(_in_words(found))
    rows = [(str(rank), c.identity, f"{c.score:.3f}", c.path) for rank, c in enumerate(found.candidates, start=1)]
    if rows:
        screen.table(("rank", "identity", "score", "most similar template"), rows, right=(0, 2))
    if found.comparisons and found.expected_fpir is not None:
        screen.say(
            f"somebody who is not enrolled reaches the threshold with one of {found.comparisons} templates in about "
            f"{100 * found.expected_fpir:.3g} % of searches (1 - (1 - FMR)^N; it grows with the gallery)"
        )
    if found.calibration is None:
        screen.note(f"choose a threshold with: {program()} calibrate {run} DATA --fmr 0.01")
    screen.emit(found.to_json())
    raise typer.Exit({"identified": 0, "unknown": EXIT_UNKNOWN, "undecided": EXIT_UNDECIDED}[found.decision])


def open_for(model: Model | None, uri: str, *, create: bool = False, index: str | None = None) -> Gallery:
    """The gallery at an address, checked against a model where there is one."""
    from tercet.gallery import key_from_environment, open_gallery

    if model is None:
        return open_gallery(uri, key=key_from_environment())
    width = int(model.config["encoder"]["embedding_dim"])
    return open_gallery(
        uri, model=model.fingerprint, dimension=width, create=create, index=index, key=key_from_environment()
    )


def refresh_margin(gallery: Gallery, model: Model, target_fpir: float | None) -> dict[str, Any] | None:
    """Measure the lead to ask of the best identity on what is enrolled, and keep it with the gallery."""
    import numpy as np

    from tercet.gallery import runner_up_margin

    if model.calibration is None:
        return None
    names, vectors = [], []
    for entry, vector_D, _ in gallery.entries():
        names.append(entry.identity)
        vectors.append(vector_D)
    if not names:
        return None
    found = runner_up_margin(np.stack(vectors), tuple(names), model.calibration, target_fpir=target_fpir)
    if found is None:
        return None
    gallery.set_value("margin", found.to_json())
    return found.to_json()


def margin_in_words(margin: Mapping[str, Any]) -> str:
    """A measured margin as one sentence."""
    missed = (
        "" if margin["fnir"] is None else f", and {100 * margin['fnir']:.3g} % of those enrolled are not recognised"
    )
    balance = "" if margin["balance"] is None else f", at {margin['balance']:.2g} as many are missed as are let in"
    return (
        f"identify asks for a lead of {margin['margin']:.3f}: then {100 * margin['achieved_fpir']:.3g} % of strangers "
        f"are taken for somebody{missed} (each of {margin['probes']} templates searched among {margin['identities']} "
        "identities, without its own for the one, without itself for the other; "
        f"another balance: gallery calibrate --fpir{balance})"
    )


def _manifest(model: Model, who: list[str], layout: str) -> Manifest:
    """What to enroll: the rows of DATA, or the files after a name."""
    from tercet.data import Manifest, Row
    from tercet.tasks import load_task

    if len(who) == 1:
        data = Path(who[0])
        if not data.exists():
            raise InvalidOption(f"{who[0]}: no such folder or manifest (and as a name it needs files after it)")
        return load_task(model.task).read(data, layout=layout).enrolled()
    files = [Path(word).absolute() for word in who[1:]]
    for file in files:
        if file.is_dir():
            raise DataError(f"{file}: is not a file")
    return Manifest(Path.cwd(), tuple(Row(file, who[0]) for file in files))


def _picture_of(store: SampleStore) -> Callable[[int], npt.NDArray[np.uint8]] | None:
    """Gives the decoded picture of a row, where the samples are pictures."""
    import numpy as np

    from tercet.gallery import are_pictures

    if not are_pictures(store.front_end):
        return None
    return lambda row: store.take(np.array([row]))[0].numpy()


def _in_words(found: Identification) -> str:
    if found.decision == "identified":
        lead = "" if found.margin_to_runner_up is None else f", {found.margin_to_runner_up:.3f} before the next"
        return f"identified: {found.identity} (score {found.score:.3f}{lead}; threshold {found.threshold:.3f})"
    return f"{found.decision}: {found.reason}"


def _show_doubts(screen: Screen, prepared: Prepared) -> None:
    for title, doubts in (("refused", prepared.refused), ("warning for", prepared.warnings)):
        if doubts:
            screen.note(f"{title} {len(doubts)} {'file' if len(doubts) == 1 else 'files'}:")
            for doubt in doubts[:5]:
                screen.note(plain(f"  {doubt.path} ({doubt.identity}): {doubt.reason}"))
            if len(doubts) > 5:
                screen.note(f"  and {len(doubts) - 5} more")


def _as_json(doubts: tuple[Doubt, ...]) -> list[dict[str, str]]:
    return [{"identity": d.identity, "path": d.path, "reason": d.reason} for d in doubts]


def _and_more(count: int) -> str:
    return f" (and {count} more files)" if count else ""
