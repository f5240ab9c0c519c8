"""Every error that tercet raises on purpose; catch `TercetError` to catch them all.

    TercetError
    ├── InvalidOption (ValueError)      an option string or a combination of options that has no meaning
    ├── InvalidInput (ValueError)       an argument of the wrong shape, dtype, device or range
    ├── DataError                       a file or folder that cannot be used: "path: reason"
    │   └── TooLittle                   a sound file that holds too little to decide by: a blank page, silence
    ├── RunError                        a run folder that is damaged, foreign, newer, or in the way
    ├── GalleryError                    a gallery that cannot be reached, written or used with this model
    └── MissingExtra (ImportError)      a part that an extra installs: names the extra

The command line prints the message on one line and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "DataError",
    "GalleryError",
    "InvalidInput",
    "InvalidOption",
    "MissingExtra",
    "RunError",
    "TercetError",
    "TooLittle",
]


class TercetError(Exception):
    """Base of all errors that tercet raises on purpose."""


class InvalidOption(TercetError, ValueError):
    """An option that is unknown, or that has no meaning beside another one."""

    @classmethod
    def unknown(cls, option: str, value: object, allowed: Iterable[object]) -> InvalidOption:
        """Name the option, what was given and what is allowed."""
        return cls(f"{option}={value!r} is not known; allowed: {', '.join(repr(a) for a in allowed)}")


class InvalidInput(TercetError, ValueError):
    """An argument of the wrong shape, dtype, device or range; the message begins with its name."""


class DataError(TercetError):
    """A file or folder that cannot be used; the message is "path: reason"."""


class TooLittle(DataError):
    """A file that can be read and holds too little to decide by: a page without ink, silence."""


class RunError(TercetError):
    """A run folder that is damaged, foreign, made by a newer version, or in the way."""


class GalleryError(TercetError):
    """A gallery that cannot be reached, written, or used with this model; the message is "gallery: reason"."""


class MissingExtra(TercetError, ImportError):
    """A feature whose packages come with an extra that is not installed."""

    @classmethod
    def of(cls, feature: str, extra: str) -> MissingExtra:
        """Name the feature and the command that installs what it needs."""
        return cls(f"{feature} needs an extra: pip install 'tercet[{extra}]'")
