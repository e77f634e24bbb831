"""How long does it take to start: the help, the library, the first training step, with and without compiled programs?

Each is a process of its own, from its start to its end. The first step is that of the default run (DiffRec on synthetic
data), done; "cold" finds no compiled programs, "warm" those of the run before.

python -m benchmarks.start --repeats=5
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags
from rich.table import Table

from benchmarks.records import keep, make_folder_of
from diffrec_jax.config import ConfigError
from experiments.cli import start
from experiments.console import make_console

FLAGS = flags.FLAGS
FIRST_STEP = """
import os, runpy, sys
import jax
from experiments.console import ConsoleProgress

def end(progress, step, total_steps):
    jax.block_until_ready(jax.live_arrays())
    os._exit(0)

ConsoleProgress.batch = end
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""
HELP, LIBRARY, COLD, WARM = "--help of a script", "import diffrec_jax", "first step, cold", "first step, warm"


def seconds_of(command: list[str], cache: Path) -> float:
    """From the start of a process to its end.

    Raises:
      ConfigError: it fails.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise ConfigError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return taken


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each start, in turn."""
    found: dict[str, list[float]] = {name: [] for name in (HELP, LIBRARY, COLD, WARM)}
    for turn in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            step = [sys.executable, "-c", FIRST_STEP]
            commands = {
                HELP: [sys.executable, "-m", "experiments.train", "--help"],
                LIBRARY: [sys.executable, "-c", "import diffrec_jax"],
                COLD: [*step, f"--run_dir={cache / 'cold'}"],
                WARM: [*step, f"--run_dir={cache / 'warm'}"],
            }
            for name, command in commands.items():
                found[name].append(seconds_of(command, cache / f"cache-{turn}"))
    return found


def main() -> None:
    """Measures, shows and keeps."""
    make_folder_of(FLAGS.out)
    found = measure(FLAGS.repeats)
    table = Table(title=f"start: seconds, median (minimum) of {FLAGS.repeats}")
    for heading in ("", "s"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, seconds in found.items():
        table.add_row(name, f"{statistics.median(seconds):.2f} ({min(seconds):.2f})")
    make_console().print(table)
    rows = [{"row": name, "ours_s": seconds, "peer_s": []} for name, seconds in found.items()]
    keep(FLAGS.out, rows, benchmark="start", shape="default")


if __name__ == "__main__":
    flags.DEFINE_integer("repeats", 5, "How often each is started.", lower_bound=1)
    flags.DEFINE_string("out", None, "A line of JSON for each row is added to this file.")
    start(main, __doc__ or "")
