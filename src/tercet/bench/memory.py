"""How much memory a measured piece takes at its peak, and a lid on what it may take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import torch

__all__ = ["mark", "peak"]

# What threads and allocators may take beside the memory that is allowed.
_ROOM: Final = 256 * 2**20
# Linux tells a process what it has taken; elsewhere the peak since its start has to do.
_STATUS: Final = Path("/proc/self/status")


def mark(device: str, memory: int) -> int:
    """The memory in use now, from which peaks are counted; with a lid on what may be taken, so that nothing swaps."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if _STATUS.exists():
        import resource

        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        used = _kilobytes("VmData") * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory + _ROOM, hard))
    return peak(device)


def peak(device: str) -> int:
    """The most that has been in use since the mark."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        return _kilobytes("VmHWM") * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kilobytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])
