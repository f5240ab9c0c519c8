"""What measurements were taken on: versions, cores, load and date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

from tercet import __version__

__all__ = ["machine"]


def machine(packages: Sequence[str], device: str) -> dict[str, Any]:
    """The machine as JSON values, with the versions of torch and of these distributions."""
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in ("torch", *packages)}
    return {
        "tercet": __version__,
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
