"""Peak memory of the process that asks."""

import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB.

    On Linux `ru_maxrss` of a new process starts at the size of the one that started it, while
    `VmHWM` begins at its own program; see proc(5) and getrusage(2).
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return _mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def children_peak_mib() -> float:
    """Return the largest peak of the ended children of this process in MiB."""
    return _mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _mib(ru_maxrss: int) -> float:
    """Convert `ru_maxrss`, which macOS gives in bytes and Linux in KiB."""
    return ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
