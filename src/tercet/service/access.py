"""Who may call: the key that a request names, and which pages a browser may call from."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from tercet.service.refusal import Refusal

__all__ = ["check_page", "who_calls"]

_SALT: Final = secrets.token_bytes(16)  # of this process: an address cannot be found again by trying all


def who_calls(headers: Headers, keys: Sequence[str], address: str) -> str:
    """What a caller is called in counts and logs: the number of its key; without keys a hash of its address.

    Every key is compared, in a time that does not depend on the one that was sent.

    Raises:
        Refusal: 401, no key or a wrong one.
    """
    if not keys:
        return "address-" + hmac.new(_SALT, address.encode(), hashlib.sha256).hexdigest()[:8]
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(sent.strip().encode()).digest()
    found = [
        number for number, key in enumerate(keys) if hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
    ]
    if scheme.lower() != "bearer" or not found:
        raise Refusal(401, "a key is needed: Authorization: Bearer KEY", kind="key")
    return f"key-{found[0] + 1}"


def check_page(headers: Headers, names: frozenset[str] | None) -> None:
    """Let no page of another site call through its visitor's browser; programs send none of these headers.

    Args:
        headers: Of the request.
        names: Names by which this machine may be called; None: any. A foreign page can have its own name point here.

    Raises:
        Refusal: 403.
    """
    host = headers.get("host", "")
    if names is not None and _name_of(host) not in names:
        raise Refusal(
            403, "this service does not answer to that name; call it by its own or start it with a key", kind="page"
        )
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise Refusal(403, "pages of other sites may not call this service", kind="page")
    origin = headers.get("origin")
    if origin is not None and _place_of(origin) != host.lower():
        raise Refusal(403, "pages of other sites may not call this service", kind="page")


def _place_of(origin: str) -> str:
    """Host and port of an origin, in lower case; "" where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    try:
        return (urlsplit("//" + host).hostname or "").lower()
    except ValueError:
        return ""
