"""How much memory there is, and how much a run took."""

import resource
from pathlib import Path

GIB = 2**30


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
