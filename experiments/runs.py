"""Runs of experiments.train made by other scripts, each in its own process."""

import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import IO

from absl.flags import Error, FlagValues

from diffrec_jax.config import ConfigError, with_later_settings
from diffrec_jax.data import Dataset
from diffrec_jax.training.run_directory import LOCATION, RunDirectory, differences

from . import flags
from .config import new_run_config


class RunFailed(ConfigError):
    """A run of experiments.train ended with an error."""


def cut_train_flags() -> list[str]:
    """Takes what follows -- off the command line: flags for experiments.train."""
    if "--" not in sys.argv:
        return []
    cut = sys.argv.index("--")
    train_flags = sys.argv[cut + 1 :]
    del sys.argv[cut:]
    return train_flags


def parse_train_flags(train_flags: list[str]) -> FlagValues:
    """What flags of experiments.train say, beside this script's own.

    Raises:
      ConfigError: they are none.
    """
    values = FlagValues()
    flags.define_train_flags(values)
    try:
        rest = values(["experiments.train", *train_flags])
    except Error as error:
        raise ConfigError(f"{' '.join(str(error).split())} (after --: flags of experiments.train)") from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r} after --: flags are written --name=value")
    return values


def check_existing(runs: dict[Path, list[str]]) -> None:
    """Raises ConfigError unless what is in the directories, finished or not, is what the flags ask for."""
    datasets: dict[str, Dataset] = {}
    for path, train_flags in runs.items():
        config = new_run_config(parse_train_flags(train_flags))  # wrong flags are an error before any run
        directory = RunDirectory(path)
        if not directory.exists():
            continue
        data = config.data
        if repr(data) not in datasets:
            datasets[repr(data)] = data.load()
        asked = config.to_dict(datasets[repr(data)])
        found = differences(
            {key: value for key, value in with_later_settings(directory.config()).items() if key != LOCATION},
            {key: value for key, value in asked.items() if key != LOCATION},
        )
        if found:
            raise ConfigError(
                f"{path} holds a run of another configuration: {found}; choose another directory, or remove that run"
            )


def _run(command: list[str], log: IO[str]) -> int:
    """Runs it to its end: its exit code. If this process is told to end, so is that one, which saves what it has."""
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def run_all(runs: dict[Path, list[str]]) -> None:
    """Runs what is not finished, one after the other, each with a log beside its run directory.

    A finished run is used only if its whole configuration, its data's fingerprint and the version of the
    project are those that the flags ask for now.

    Raises:
      ConfigError: there is a run of another configuration.
      RunFailed: a run failed; the message ends with its last line.
    """
    check_existing(runs)
    for path, train_flags in runs.items():
        if RunDirectory(path).results() is not None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"{__package__}.train", *train_flags, f"--run_dir={path}", "--resume"]
        print(f"running {path}", flush=True)
        with path.with_name(path.name + ".log").open("w") as log:
            code = _run(command, log)
        if code:
            lines = Path(log.name).read_text().splitlines() or [""]
            raise RunFailed(
                f"{path} failed with exit code {code}: {re.sub('^error: ', '', lines[-1])} (all of it in {log.name})"
            )


def summarise(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
