"""Runs of experiments.train made by other scripts, each in its own process."""

import contextlib
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from absl.flags import Error, FlagValues

from diffrec_jax.config import ConfigError, with_later_settings
from diffrec_jax.data import Dataset
from diffrec_jax.training.run_directory import LOCATION, RunDirectory, differences

from . import flags
from .config import new_run_config
from .signals import environment_to_end_with_this

SECONDS_BETWEEN_LOOKS = 0.02
MINUTES_TO_SAVE = 5
"""A process that is told to end may compile, and saves then: so long its run directory is waited for."""
STARTED = "--- started: "
"""In a log, before each command: a run that goes on has several."""


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


def check_own(values: FlagValues, names: Sequence[str], remedy: str) -> None:
    """Raises ConfigError where flags after -- set what the script sets itself."""
    for name in names:
        if values[name].present:
            raise ConfigError(f"--{name} after -- is set by this script: {remedy}")


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


def shares_of_cores(jobs: int) -> list[set[int] | None]:
    """The cores of each of so many processes; None, any of them, where there is nothing to share out.

    Processes that all take all cores wait for each other.
    """
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[job::jobs]) or None for job in range(jobs)]


def execute(
    commands: Mapping[Path, list[str]], *, jobs: int = 1, ends_at: float = float("inf")
) -> Generator[tuple[Path, int]]:
    """Does commands, so many at once, each with a log beside the path that it is known by.

    If this process is told to end, or the time is over, so are the commands: a training saves what it has. On Linux
    they are told even where this process is killed.

    Args:
      commands: in the order they are started in.
      jobs: processes at once, each with its share of the cores.
      ends_at: of ``time.monotonic``.

    Yields:
      The path of a command that ended, and its exit code; those stopped by the time are left out.
    """
    waiting, active = list(commands.items()), dict[Path, subprocess.Popen]()
    free, taken = shares_of_cores(jobs), dict[Path, set[int] | None]()
    try:
        while (waiting or active) and time.monotonic() < ends_at:
            while waiting and len(active) < jobs:
                path, command = waiting.pop(0)
                print(f"running {path}", flush=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                with log_of(path).open("a") as log:
                    print(f"{STARTED}{shlex.join(command)}", file=log, flush=True)
                    active[path] = subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, env=environment_to_end_with_this()
                    )
                taken[path] = cores = free.pop(0)
                if cores:
                    with contextlib.suppress(ProcessLookupError):  # it has ended already
                        os.sched_setaffinity(active[path].pid, cores)
            for path, process in list(active.items()):
                if process.poll() is not None:
                    del active[path]
                    free.append(taken.pop(path))
                    yield path, process.returncode
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for process in active.values():
            process.terminate()
        for process in active.values():
            process.wait()


def train_command(path: Path, train_flags: list[str]) -> list[str]:
    """Starts a run, or goes on with it, perhaps after a process that still saves it."""
    own = [f"--wait_minutes={MINUTES_TO_SAVE}", *train_flags, f"--run_dir={path}", "--resume"]
    return [sys.executable, "-m", f"{__package__}.train", *own]


def log_of(path: Path) -> Path:
    """What a command printed."""
    return path.with_name(path.name + ".log")


def failure(path: Path, code: int) -> RunFailed:
    """The error of a command that failed, with the last error, or line, that it printed."""
    lines = log_of(path).read_text(errors="replace").rpartition(STARTED)[2].splitlines()[1:]
    told = [line for line in lines if line.startswith("error: ")] or lines or [""]
    reason = re.sub("^error: ", "", told[-1])
    return RunFailed(f"{path} failed with exit code {code}: {reason} (all of it in {log_of(path)})")


def run_all(runs: dict[Path, list[str]]) -> None:
    """Runs what is not finished, one after the other.

    A finished run is used only if its whole configuration, its data's fingerprint and the version of the
    project are those that the flags ask for now.

    Raises:
      ConfigError: there is a run of another configuration.
      RunFailed: a run failed.
    """
    check_existing(runs)
    unfinished = {path: own for path, own in runs.items() if RunDirectory(path).results() is None}
    commands = {path: train_command(path, own) for path, own in unfinished.items()}
    with contextlib.closing(execute(commands)) as ended:
        for path, code in ended:
            if code:
                raise failure(path, code)


def summarise(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
