"""Peak memory of this process and its children."""

import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB.

    On Linux, `ru_maxrss` of a new process starts at the size of its parent, while `VmHWM` covers
    the process alone; see proc(5) and getrusage(2).
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
    """Convert `ru_maxrss`, which is in bytes on macOS and in KiB on Linux."""
    return ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
