"""How much memory there is, how much a run took, and what becomes of what it frees."""

import ctypes
import resource
from pathlib import Path

GIB = 2**30
_GLIBC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
"""Number and value of what ``keep_freed_memory`` sets, from malloc.h: no block is given back, and all are one heap."""


def available_bytes() -> int | None:
    """Memory that can be taken without swapping: the machine's or, if less, the container's; None where unknown."""
    limits = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit reads "max"
        pass
    return max(min(limits), 0)


def peak_rss_bytes() -> int:
    """Most memory this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> bool:
    """Lets the blocks that a training step frees serve the next one, where the C library is glibc; says whether it is.

    Otherwise they go back to the system, which clears every page of the next step's blocks: a tenth of a step on a CPU.
    To be called before there are other threads, whose heaps it does not change.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _GLIBC_OPTIONS.values())
