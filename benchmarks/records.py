"""What benchmarks keep, a line of JSON for each row, and what they measure in processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffrec_jax.config import ConfigError
from experiments.versions import versions


def make_folder_of(path: str | None) -> None:
    """Makes the folder of a file for ``keep``, so that a wrong path shows before anything is measured."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)


def keep(
    path: str | None, records: Iterable[Mapping[str, Any]], *, packages: dict[str, str] | None = None, **about: Any
) -> None:
    """Adds a line for each record to a file, each with ``about``, versions (of ``packages`` too) and the time.

    Nothing where there is no path.
    """
    if not path:
        return
    about |= {"versions": versions() | (packages or {}), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    make_folder_of(path)
    with Path(path).open("a") as file:
        file.writelines(json.dumps(about | dict(record)) + "\n" for record in records)


def measured_apart(
    benchmark: str, flags: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``python -m benchmarks.NAME`` with these flags prints in its last line, an object of JSON.

    Raises:
      ConfigError: it fails.
    """
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        raise ConfigError(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def status_bytes(name: str) -> int:
    """What the kernel says of this process: VmRSS, what is resident; VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ConfigError(f"/proc/self/status has no {name}: memory is measured on Linux alone (--nomemory leaves it out)")


def clear_peak() -> None:
    """VmHWM starts anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
