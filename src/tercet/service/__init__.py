"""The HTTP service: enroll, verify, identify, search and forget for many callers, within limits, and its web page."""

from __future__ import annotations

from tercet.service.app import make_app
from tercet.service.journal import Journal
from tercet.service.server import listen, run
from tercet.service.settings import LOOPBACK, Settings, check_key, is_loopback, read_keys

__all__ = ["LOOPBACK", "Journal", "Settings", "check_key", "is_loopback", "listen", "make_app", "read_keys", "run"]
