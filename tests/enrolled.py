"""Made-up people for tests of the gallery, and places to enroll them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tercet.errors import GalleryError
from tercet.gallery import Gallery, Template, open_gallery

D = 16


def unit_rows(count: int, seed: int = 0, d: int = D) -> np.ndarray:
    x_ND = np.random.default_rng(seed).standard_normal((count, d)).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def people(count: int, each: int, seed: int = 0, d: int = D) -> list[Template]:
    """`count` identities p0, p1, ... with `each` templates, from paths /p0/0.png on."""
    x_ND = unit_rows(count * each, seed, d)
    return [
        Template(f"p{n // each}", x_ND[n], f"content-{seed}-{n}", path=f"/p{n // each}/{n % each}.png")
        for n in range(count * each)
    ]


@dataclass
class Backend:
    """One place for galleries: `open()` opens the same one again and again."""

    uri: str
    remote: bool
    opened: list[Gallery] = field(default_factory=list)

    def open(self, **options: object) -> Gallery:
        """Open it anew, as another process would."""
        self.close()
        self.opened.append(open_gallery(self.uri, **{"model": "m", "dimension": D, "create": True} | options))
        return self.opened[-1]

    def close(self) -> None:
        """Close what is open."""
        while self.opened:
            self.opened.pop().close()


def write_until_killed(uri: str, said: Path, first: int, settle: bool) -> None:
    """Enroll one person of five templates after the other, forget some again, and say so before and after."""
    log = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(*words: str) -> None:
        os.write(log, " ".join(words).encode() + b"\n")

    say("opening")
    gallery = open_gallery(uri, model="m", dimension=D, create=True)
    say("open")
    for number in range(first, 10**6):
        name = f"p{number}"
        person = people(1, 5, seed=number)
        gallery.enroll([Template(name, t.vector, t.content, path=t.path) for t in person])
        say("enrolled", name)
        if number % 7 == 3:
            gone = f"p{number - 2}"
            if gallery.has(gone):
                say("forgetting", gone)
                gallery.forget(gone)
                say("forgotten", gone)
        if settle and number % 3 == 0:
            gallery._store.settle(gallery._collection)


def open_and_tell(uri: str, said: Path) -> None:
    """Open a gallery, and write down the error."""
    try:
        open_gallery(uri, model="m", dimension=D, create=True).close()
    except GalleryError as error:
        said.write_text(str(error))
