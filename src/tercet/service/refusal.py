"""Why a request is not served: a status, one line of text, and when to come again."""

from __future__ import annotations

from typing import final

from tercet.errors import DataError, GalleryError, InvalidInput, InvalidOption, TercetError

__all__ = ["Refusal", "refusal_of"]


@final
class Refusal(Exception):
    """Raised anywhere in the service, answered as JSON.

    Args:
        status: Of HTTP: 400 wrong use, 401 key, 403 foreign page, 404 not there, 408 too slow, 413 too large,
            415 no form, 422 a file that cannot be used, 429 too often, 503 too busy.
        reason: One line for whoever sent it.
        retry_s: Whole seconds after which it may do.
        kind: What it is counted as.
    """

    def __init__(self, status: int, reason: str, *, retry_s: int | None = None, kind: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_s = retry_s
        self.kind = kind or {413: "too_large", 422: "unusable"}.get(status, "wrong_use")

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        found = {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def refusal_of(error: TercetError) -> Refusal:
    """What an error of the library means to a client."""
    if isinstance(error, DataError):
        return Refusal(422, str(error))
    if isinstance(error, InvalidInput | InvalidOption):
        return Refusal(400, str(error))
    if isinstance(error, GalleryError):
        # Its text names folders and hosts of this machine.
        return Refusal(503, "the gallery cannot be used at the moment", retry_s=10, kind="gallery")
    return Refusal(503, "the service cannot answer at the moment", retry_s=10, kind="fault")
