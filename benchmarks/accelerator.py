"""Does the project work on the accelerator that is here, and how fast? Tests, throughput, a training run; one table.

Takes under 6 minutes, no network and no installation: it runs from the repository's folder on what is there (JAX with
its accelerator, PyTorch, pytest, hypothesis). Each step is a process of its own with a limit of time; one that fails or
takes too long is recorded as such, and the next one starts. Without an accelerator it says so and runs small forms of
the same steps on the CPU.

python -m benchmarks.accelerator --out=benchmarks/results/h100
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from diffrec_jax.config import ConfigError
from diffrec_jax.files import write_atomically
from experiments.cli import start
from experiments.console import make_console
from experiments.flags import FLAGS
from experiments.versions import versions

ROOT = Path(__file__).parents[1]
DEVICE_TESTS = (
    "tests/diffusion", "tests/models", "tests/recommenders", "tests/evaluation/test_ranking.py", "tests/test_rows.py",
    "tests/test_top_k.py", "tests/test_prng.py", "tests/training/test_step.py", "tests/training/test_checkpoints.py",
)  # fmt: skip
QUICK_TESTS = ("tests/test_top_k.py", "tests/diffusion/test_forward.py")
OF_TESTS = (
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
"""What the tests set for the processes that they start, and would be measured here."""


class Machine(NamedTuple):
    """What JAX computes on."""

    platform: str
    device: str
    count: int

    @property
    def is_accelerator(self) -> bool:
        """Whether it is anything but a CPU."""
        return self.platform != "cpu"


class Step(NamedTuple):
    """A process to run, with a limit of time."""

    name: str
    command: list[str]
    limit_s: float


def environment(*, measures: bool = True) -> dict[str, str]:
    """Of the steps: as a user has it where it measures, with memory of the device taken as needed, for two share it."""
    left_out = OF_TESTS if measures else ()
    kept = {name: value for name, value in os.environ.items() if name not in left_out and "PYTEST" not in name}
    return kept | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}


def find_machine() -> Machine:
    """Asked of JAX in a process of its own: this one must not hold the device.

    Raises:
      ConfigError: JAX does not start.
    """
    code = "import jax; found = jax.devices(); print(found[0].platform, len(found), found[0].device_kind)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise ConfigError(f"JAX does not start: {(done.stderr.strip().splitlines() or [''])[-1]}")
    platform, count, device = done.stdout.strip().splitlines()[-1].split(maxsplit=2)
    return Machine(platform, device, int(count))


def make_steps(machine: Machine, folder: Path) -> list[Step]:
    """What is run; records and the run directory go below ``folder``."""
    python, whole = sys.executable, machine.is_accelerator
    paths = FLAGS.test_paths or (DEVICE_TESTS if whole else QUICK_TESTS)
    workers = min(8, (os.cpu_count() or 2) // 2) if whole else 0
    tests = [python, "-m", "pytest", "-q", "-o", "addopts=", "--import-mode=importlib", "-n", str(workers), *paths]
    throughput = [python, "-m", "benchmarks.throughput", f"--out={folder / 'throughput.jsonl'}"]
    together = [*throughput, "--steps_at_once=8", "--nopeer"]
    training = [python, "-m", "experiments.train", "--model=diffrec", f"--run_dir={folder / 'run'}"]
    if whole:
        throughput += ["--shapes=ml-1m,yelp,amazon-book", "--repeats=5"]
        together += ["--shapes=ml-1m", "--repeats=5"]
        data_dir = FLAGS.data_dir or os.environ.get("DIFFREC_DATA_DIR") or "data"
        is_there = (Path(data_dir) / "ml-1m_clean" / "train_list.npy").exists()
        training += ["--dataset=ml-1m", f"--data_dir={data_dir}"] if is_there else ["--dataset=synthetic-ml-1m"]
    else:
        throughput += ["--shapes=small", "--repeats=2", "--batch_sizes=100"]
        together += ["--shapes=small", "--repeats=2", "--batch_sizes=100"]
        training += ["--epochs=2", "--eval_every=1", "--dims=100", "--synthetic_users=600", "--synthetic_items=500"]
        training += ["--synthetic_interactions=20000"]
    slack = 1 if whole else 10  # only a lent machine has to be given back in time
    return [
        Step("tests", tests, 130 * slack),
        Step("throughput", throughput, 110 * slack),
        Step("steps at once", together, 35 * slack),
        Step("training", training, 80 * slack),
    ]


def run_step(step: Step, log: Path, *, measures: bool = True) -> dict[str, Any]:
    """Runs it: its record."""
    started, exit_code = time.perf_counter(), None
    with log.open("w") as file:
        try:
            exit_code = subprocess.run(
                step.command, cwd=ROOT, env=environment(measures=measures), stdout=file, stderr=subprocess.STDOUT,
                timeout=step.limit_s, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            file.write(f"\nstopped after {step.limit_s} s\n")
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return {
        "kind": "step",
        "name": step.name,
        "command": " ".join(["python", *step.command[1:]]),
        "seconds": time.perf_counter() - started,
        "exit": exit_code,
        "last_line": lines[-1] if lines else "",
    }


def read_throughput(path: Path) -> list[dict[str, Any]]:
    """What the throughput step got to."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outcome(record: dict[str, Any]) -> str:
    """Of a step, for people."""
    if record["exit"] is None:
        return "too slow"
    return "passed" if record["exit"] == 0 else f"failed ({record['exit']})"


def markdown(machine: Machine, records: list[dict[str, Any]]) -> str:
    """The whole report."""
    steps = [record for record in records if record["kind"] == "step"]
    cases = [record for record in records if record["kind"] == "throughput"]
    runs = [record for record in records if record["kind"] == "run"]
    form = "" if machine.is_accelerator else " (no accelerator: small forms of the steps)"
    lines = [f"# {machine.count} x {machine.device}{form}", ""]
    lines += [", ".join(f"{name} {version}" for name, version in versions().items()), ""]
    lines += ["| step | outcome | seconds | last line | command |", "|---|---|---|---|---|"]
    lines += [
        f"| {step['name']} | {outcome(step)} | {step['seconds']:.0f} | {step['last_line'].replace('|', '/')} | "
        f"`{step['command']}` |"
        for step in steps
    ]
    if cases:
        from benchmarks import throughput  # needs PyTorch, as those records do

        lines += ["", throughput.markdown(cases)]
    for found in runs:
        metrics = ", ".join(f"{name} {found['test'][name]:.4f}" for name in ("recall@20", "ndcg@20"))
        lines += [
            "",
            f"DiffRec on {found['dataset']} ({found['setting']}), preset {found['preset']}, "
            f"--matmul_precision={found['matmul_precision']}: test {metrics}; best epoch {found['best_epoch']:g}; "
            f"{found['timings']['total_s']:.0f} s in all, of them {found['timings']['compile_s']:.0f} s compilation.",
        ]
    return "\n".join(lines) + "\n"


def measure(machine: Machine, out: Path, console: Console) -> list[dict[str, Any]]:
    """Runs every step: all records."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [
        {"kind": "machine", **machine._asdict(), "versions": versions(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for step in make_steps(machine, folder):
            log = out / "logs" / f"{step.name}.log"
            record = run_step(step, log, measures=machine.is_accelerator)  # the small form is to see that all goes
            records.append(record)
            why = "" if record["exit"] == 0 else f": {record['last_line']}"
            console.print(f"{step.name}: {outcome(record)} in {record['seconds']:.0f} s{why}")
        records += [{"kind": "throughput", **record} for record in read_throughput(folder / "throughput.jsonl")]
        results = folder / "run" / "results.json"
        if results.exists():
            records.append({"kind": "run", **json.loads(results.read_text())})
    return records


def main() -> None:
    """Flags to a report."""
    out, console, machine = Path(FLAGS.out), make_console(), find_machine()
    if not machine.is_accelerator:
        console.print("no accelerator here: small forms of the steps, on the CPU")
    records = measure(machine, out, console)
    write_atomically(out / "accelerator.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write_atomically(out / "accelerator.md", markdown(machine, records))
    console.print(f"the report: {out / 'accelerator.md'}, .jsonl, logs/")
    failed = [record["name"] for record in records if record["kind"] == "step" and record["exit"] != 0]
    if failed:
        raise ConfigError(f"not passed: {', '.join(failed)}; see {out / 'logs'}")


def define_flags() -> None:
    """Where the report goes, and what is tested."""
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_string("data_dir", None, "Folder of the datasets, for the run on ML-1M (default: $DIFFREC_DATA_DIR).")
    flags.DEFINE_list("test_paths", [], "Tests to run (default: those that touch devices).")


if __name__ == "__main__":
    define_flags()
    start(main, __doc__ or "")
