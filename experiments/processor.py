"""The processor of this machine, as Linux tells of it."""

import os
import platform
from pathlib import Path


def told(*names: str) -> list[str]:
    """Lines of /proc/cpuinfo that begin with these names, each once; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(names)})


def describe() -> str:
    """Its name, and how many of its cores this process may use."""
    models = [line.partition(":")[2].strip() for line in told("model name")] or [platform.machine()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{' and '.join(models)}, {cores} core{'s' * (cores > 1)}"
