"""What a gallery shows to someone who copies its files; with a key: sealed records and turned vectors.

    N templates, D embedding width

Without a key, names are looked up by a plain hash and records are readable JSON. With a key (32 secret bytes that are
not kept in the gallery) names and tags are looked up by a keyed hash, records and pictures are encrypted and
authenticated (Fernet: AES-128-CBC with HMAC-SHA256), and vectors are turned by an orthogonal matrix drawn from the key.
Turning keeps every similarity, so that the gallery can be searched; two galleries with two keys cannot be linked by
their vectors. It is no encryption: D known pairs of a vector and its turned form give the matrix away.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import os
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.errors import GalleryError, InvalidInput, MissingExtra

__all__ = ["KEY_VARIABLE", "Seal", "key_from_environment"]

KEY_VARIABLE: Final = "TERCET_GALLERY_KEY"
_OPEN_KEY: Final = b"tercet: no secret"


def key_from_environment() -> bytes | None:
    """The key in the environment variable TERCET_GALLERY_KEY (64 hex digits), or None.

    Raises:
        InvalidInput: It is set to something else.
    """
    text = os.environ.get(KEY_VARIABLE, "")
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidInput(f"{KEY_VARIABLE}: must be 64 hex digits, as `openssl rand -hex 32` prints them")
    return key


@final
class Seal:
    """Hides and shows what stands in a gallery.

    Args:
        key: 32 secret bytes; None: nothing is hidden.

    Raises:
        InvalidInput: A key of another length.
        MissingExtra: A key without the package `cryptography`.
    """

    def __init__(self, key: bytes | None) -> None:
        self.sealed = key is not None
        self._key = _OPEN_KEY if key is None else key
        self._fernet: Any = None
        self._turn_DD: npt.NDArray[np.float64] | None = None
        if key is not None:
            if len(key) != 32:
                raise InvalidInput(f"key: must be 32 bytes, not {len(key)}")
            try:
                fernet: Any = importlib.import_module("cryptography.fernet")
            except ImportError as error:
                raise MissingExtra.of("a sealed gallery", "gallery") from error
            self._fernet = fernet.Fernet(base64.urlsafe_b64encode(self._derived("records")))
            self._invalid: type[Exception] = fernet.InvalidToken

    def token(self, kind: str, text: str) -> str:
        """32 hex digits that stand for a name or a tag: equal texts, equal tokens."""
        return hmac.new(self._derived(kind), text.encode(), hashlib.sha256).hexdigest()[:32]

    @property
    def check(self) -> str:
        """Tells a gallery opened with the key it was made with from one opened with another."""
        return self.token("check", "tercet")

    def hide(self, text: str) -> str:
        """The text as it is stored."""
        return self._fernet.encrypt(text.encode()).decode() if self._fernet else text

    def show(self, stored: str) -> str:
        """The text that `hide` was given.

        Raises:
            GalleryError: It was changed, or hidden with another key.
        """
        if not self._fernet:
            return stored
        try:
            return str(self._fernet.decrypt(stored.encode()).decode())
        except self._invalid as error:
            raise GalleryError("a record was changed, or sealed with another key") from error

    def turn(self, x_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors as they are stored."""
        return x_ND if not self.sealed else (x_ND @ self._matrix(x_ND.shape[-1])).astype(np.float32)

    def turn_back(self, x_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors as the model gave them."""
        return x_ND if not self.sealed else (x_ND @ self._matrix(x_ND.shape[-1]).T).astype(np.float32)

    def _matrix(self, dimension: int) -> npt.NDArray[np.float64]:
        if self._turn_DD is None or len(self._turn_DD) != dimension:
            seed = int.from_bytes(self._derived("turn"), "big")
            gauss_DD = np.random.default_rng(seed).standard_normal((dimension, dimension))
            q_DD, r_DD = np.linalg.qr(gauss_DD)
            # With the signs of R taken into Q the matrix is uniform over all rotations and reflections.
            self._turn_DD = q_DD * np.sign(np.diag(r_DD))
        return self._turn_DD

    def _derived(self, purpose: str) -> bytes:
        return hmac.new(self._key, purpose.encode(), hashlib.sha256).digest()
