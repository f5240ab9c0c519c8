"""Opening a gallery, or making one: where it is, which model it belongs to, and the key that it is sealed with."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from tercet.errors import GalleryError
from tercet.gallery.gallery import Gallery
from tercet.gallery.seal import KEY_VARIABLE, Seal
from tercet.gallery.store import Place, Store

__all__ = ["open_gallery"]

FORMAT: Final = 1


def open_gallery(
    uri: str,
    *,
    model: str | None = None,
    dimension: int | None = None,
    create: bool = False,
    index: str | None = None,
    key: bytes | None = None,
) -> Gallery:
    """Open a gallery, or make one.

    Args:
        uri: A folder (`gallery.db`) or a Milvus server (`http://host:19530`); `#name` picks one of several there.
        model: The fingerprint of the model in use; must be the one that the gallery was made with. None: any.
        dimension: The model's embedding width; needed to make a gallery.
        create: Make the gallery where there is none; needs `model` and `dimension`.
        index: FLAT (exact; the default), HNSW or IVF_FLAT; of a gallery that exists it can only be confirmed.
        key: 32 secret bytes that seal records and turn vectors; see `tercet.gallery.seal`.

    Raises:
        GalleryError: It is not there, not reachable, in use, of another model or width, or sealed with another key.
        MissingExtra: The packages of the extra `gallery` are missing.
    """
    place, seal = Place(uri), Seal(key)
    store = Store(place, create=create)
    try:
        about = store.values().get("gallery")
        if about is None:
            if not create or model is None or dimension is None:
                raise GalleryError(f"{place.shown}: no such gallery; `enroll` makes one")
            store.begin()
            about = {
                "format": FORMAT,
                "model": model,
                "dimension": dimension,
                "index": index or "FLAT",
                "check": seal.check,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "collection": store.create(dimension, index or "FLAT"),
            }
            store.set_value("gallery", about)
        _check(place, about, model, dimension, index, seal)
        return Gallery(store, about, seal)
    except BaseException:
        store.close()
        raise


def _check(
    place: Place, about: Mapping[str, Any], model: str | None, dimension: int | None, index: str | None, seal: Seal
) -> None:
    if about.get("format") != FORMAT:
        raise GalleryError(f"{place.shown}: made by another version of tercet (format {about.get('format')})")
    if model is not None and about["model"] != model:
        raise GalleryError(
            f"{place.shown}: holds vectors of model {about['model']}, not of {model}, and vectors of two models cannot "
            "be compared; embed the files again into another gallery: tercet enroll RUN DATA --gallery NEW"
        )
    if dimension is not None and about["dimension"] != dimension:
        raise GalleryError(f"{place.shown}: holds vectors of width {about['dimension']}, not {dimension}")
    if index is not None and about["index"] != index:
        raise GalleryError(f"{place.shown}: has the index {about['index']}; export it and import it with {index}")
    if about["check"] != seal.check:
        open_check = Seal(None).check
        told = f"is not sealed, but {KEY_VARIABLE} is set" if about["check"] == open_check else "is sealed"
        told += "" if about["check"] == open_check else f"; set {KEY_VARIABLE} to the key it was made with"
        raise GalleryError(f"{place.shown}: {told}")
