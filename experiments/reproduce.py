"""Trains what the studies of the paper and of its open questions need, as a queue that may be interrupted at any time.

  python -m experiments.reproduce                                  all of it: days on two cores
  python -m experiments.reproduce --studies=noise-scale,clusters   some studies
  python -m experiments.reproduce --quick                          every study at toy size, in minutes
  python -m experiments.reproduce --budget_minutes=60 --jobs=2     so much of it, two runs at once
  python -m experiments.reproduce --launch=slurm                   a job array of what is missing

A run is what its configuration and its data are: one that is finished in --runs_dir, or in a folder of it, is used
again, and studies share runs. experiments.report makes the report of what is finished.
"""

import contextlib
import hashlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diffrec_jax.config import ConfigError
from diffrec_jax.files import write_atomically
from diffrec_jax.training.run_directory import RunDirectory

from . import flags
from .cli import start
from .command import command
from .console import make_console
from .flags import FLAGS
from .plan import Planned, plan
from .protocols import PROTOCOLS, of_protocol
from .runs import RunFailed, execute, failure, train_command
from .store import SHOWN, Store, is_trained
from .studies import STUDIES
from .study import DATA, Study


def chosen_studies(names: list[str]) -> list[Study]:
    """The studies of these names; all without any.

    Raises:
      ConfigError: one is unknown.
    """
    known = {study.name: study for study in STUDIES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--studies: {unknown[0]} is unknown: choose among {', '.join(known)}")
    return [known[name] for name in names] if names else list(STUDIES)


def show_plan(studies: list[Study], planned: list[Planned], store: Store) -> Table:
    """Runs of each study, and how many of them are finished."""
    table = Table()
    for heading in ("study", "data", "runs", "finished"):
        table.add_column(heading, justify="left" if heading in ("study", "data") else "right")
    for study in studies:
        own = [one for one in planned if one.study is study]
        data = ", ".join(dict.fromkeys(one.data for one in own))
        table.add_row(study.name, data, str(len(own)), str(sum(is_finished(one, store) for one in own)))
    return table


def is_finished(one: Planned, store: Store) -> bool:
    """Whether a run is there."""
    return store.finished(one.identity) is not None


def missing_runs(planned: list[Planned], store: Store) -> dict[Path, list[str]]:
    """The command of each run that is not finished, or lacks its users' metrics, by its directory."""
    found: dict[Path, list[str]] = {}
    for one in planned:
        if not is_finished(one, store):
            path = store.place(one.identity, one.config)
            found.setdefault(path, evaluate_command(path) if is_trained(path) else train_command(path, list(one.flags)))
    return found


def evaluate_command(path: Path, *given: str) -> list[str]:
    """Measures a finished run again, as it did itself or otherwise."""
    return [sys.executable, "-m", f"{__package__}.evaluate", f"--run_dir={path}", "--per_user", *given]


def missing_protocols(planned: list[Planned], store: Store) -> dict[Path, list[str]]:
    """The command of each measurement by another protocol that a finished run lacks."""
    found, seen = {}, set()
    for one in planned:
        path, of = store.finished(one.identity), (one.study.name, one.data, one.variant)
        if not one.study.protocols or of in seen:
            continue
        seen.add(of)  # the first seed alone is measured so, whether it is finished or not
        if path is None:
            continue
        results = RunDirectory(path).results() or {}
        for name, given in PROTOCOLS.items():
            if of_protocol(path, name, results) is None:
                found[path / name] = evaluate_command(path, *given)
    return found


def measurements_to_come(planned: list[Planned], store: Store) -> bool:
    """Whether runs are missing that other protocols are to measure."""
    return any(one.study.protocols and not is_finished(one, store) for one in planned)


def write_job_array(commands: list[str], folder: Path) -> Path:
    """The script of a Slurm array whose tasks do a command each: its path, named by what is in it.

    The commands are in the script itself, of which Slurm keeps a copy: tasks that wait do what they were handed in for,
    whatever is written here later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = str(folder.absolute()).replace("%", "%%") + "/slurm-%A_%a.log"
    lines = [
        "#!/bin/sh",
        f"#SBATCH --array=1-{len(commands)}",
        f"#SBATCH --output={shlex.quote(logs)}",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --requeue",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(f"{number}) exec {command} ;;" for number, command in enumerate(commands, start=1)),
        f"*) echo \"no job '$SLURM_ARRAY_TASK_ID' in this array: they are 1 to {len(commands)}\" >&2; exit 1 ;;",
        "esac",
    ]
    text = "\n".join(lines) + "\n"
    script = folder / f"jobs-{hashlib.sha256(text.encode()).hexdigest()[:SHOWN]}.sbatch"
    write_atomically(script, text)
    return script


def submit(script: Path) -> str:
    """Hands a job array to sbatch: what it says.

    Raises:
      ConfigError: there is no sbatch, or it fails.
    """
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, errors="replace", check=False)
        problem = f"ended with exit code {done.returncode}: {' '.join(done.stderr.split())}" if done.returncode else ""
    except OSError as error:
        problem = f"cannot be started: {error.strerror}"
    if problem:
        raise ConfigError(f"--submit: sbatch {problem}. The job array is written, to hand in by: {sbatch(script)}")
    return done.stdout.strip()


def sbatch(script: Path) -> str:
    """How a user hands in a job array."""
    return shlex.join(["sbatch", str(script)])


def check_flags() -> None:
    """Raises ConfigError for what is unknown, or would do nothing."""
    unknown = [name for name in FLAGS.data if name not in DATA]
    if unknown:
        raise ConfigError(f"--data: {unknown[0]} is unknown: choose among {', '.join(DATA)}")
    if FLAGS.quick and FLAGS.data:
        raise ConfigError("--quick is on synthetic data: leave --data out")
    if FLAGS.submit and FLAGS.launch != "slurm":
        raise ConfigError("--submit is for --launch=slurm")
    given = [name for name in ("jobs", "budget_minutes") if FLAGS[name].present]
    if given and FLAGS.launch != "here":
        raise ConfigError(f"--{given[0]} is for runs of this command itself: leave out --launch={FLAGS.launch}")


def main() -> None:
    """Flags to finished runs."""
    check_flags()
    # Of --launch=list, what a shell is to read is all that goes to the standard output.
    console = make_console(on_errors=FLAGS.launch == "list")
    studies, folder = chosen_studies(FLAGS.studies), Path(FLAGS.runs_dir)
    ends_at = time.monotonic() + 60 * FLAGS.budget_minutes if FLAGS.budget_minutes else float("inf")
    planned, missing = plan(studies, quick=FLAGS.quick, data=FLAGS.data)
    store = Store(folder)
    console.print(show_plan(studies, planned, store))
    for data, why in missing.items():
        made_by = f". To make it:\n  {command('prepare')} {DATA[data].prepared_by}" if DATA[data].prepared_by else ""
        console.print(f"left out: {data}: {why}" + ("" if "To make it" in why else made_by))
    if not planned and not missing:
        raise ConfigError(f"--data: none of these studies is done on {', '.join(FLAGS.data)}")
    if not planned:
        raise ConfigError("there is no data for these studies: make it as above, and set DIFFREC_DATA_DIR")
    commands = missing_runs(planned, store)
    if FLAGS.launch != "here":
        lines = [shlex.join(command) for command in (commands | missing_protocols(planned, store)).values()]
        if measurements_to_come(planned, store):
            console.print("measurements by other protocols need finished runs: the same command lists them then")
        if not lines:
            console.print("nothing is missing")
        elif FLAGS.launch == "list":
            print("\n".join(lines))
        else:
            script = write_job_array(lines, folder)
            console.print(f"{len(lines)} jobs: {sbatch(script)}", soft_wrap=True)  # a command to copy
            if FLAGS.submit:
                console.print(submit(script))
        return
    failed = do(commands, ends_at, console)
    failed += do(missing_protocols(planned, store), ends_at, console)
    left = len(missing_runs(planned, store) | missing_protocols(planned, store)) - len(failed)
    if failed:
        raise ConfigError("\n".join(["some failed, and the others went on:", *map(str, failed)]))
    if left:
        console.print(f"{left} are left, of training or measuring: the same command goes on with them")


def do(commands: dict[Path, list[str]], ends_at: float, console: Console) -> list[RunFailed]:
    """Does them all, whatever becomes of one: those that failed."""
    failed = []
    with contextlib.closing(execute(commands, jobs=FLAGS.jobs, ends_at=ends_at)) as ended:
        for number, (path, code) in enumerate(ended, start=1):
            console.print(f"{number} of {len(commands)}: {path.name}" + (f" failed ({code})" if code else ""))
            if code:
                failed.append(failure(path, code))
    return failed


if __name__ == "__main__":
    flags.define_reproduce_flags()
    start(main, __doc__ or "")
