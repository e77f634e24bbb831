"""Runs of experiments.train made by other scripts, each in a process of its own."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

from diffrec_jax.training.run_log import RunDirectory
from experiments.cli import ConfigError


def cut_train_flags() -> list[str]:
    """Takes what follows -- off the command line: flags for experiments.train."""
    if "--" not in sys.argv:
        return []
    cut = sys.argv.index("--")
    train_flags = sys.argv[cut + 1 :]
    del sys.argv[cut:]
    return train_flags


def run_all(runs: dict[Path, list[str]]) -> None:
    """Runs what is not finished, one after the other, each with a log beside its run directory.

    What one has compiled is kept beside them too, for those that differ in no more than the seed.

    Raises:
      ConfigError: a run failed; the message ends with its last line.
    """
    for path, train_flags in runs.items():
        if RunDirectory(path).results() is not None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": str(path.parent.absolute() / ".compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "experiments.train", *train_flags, f"--run_dir={path}", "--resume"]
        print(f"running {path}", flush=True)
        with path.with_name(path.name + ".log").open("w") as log:
            finished = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, check=False, env=compiled | os.environ
            )
        if finished.returncode:
            lines = Path(log.name).read_text().splitlines() or [""]
            raise ConfigError(
                f"{path} failed with exit code {finished.returncode}: {lines[-1]} (all of it in {log.name})"
            )


def summarise(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
