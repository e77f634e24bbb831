"""Does a run survive what happens to runs? Real runs are killed, stopped, damaged and starved at random moments.

Each fault strikes a run of its own. Then the run is resumed, and its end compared, bit for bit, with that of a run
which nothing happened to; or it is refused, with a message. A wrong result, a lost checkpoint, a process that hangs or
a traceback is a failure, and the exit code is 2.

python -m benchmarks.chaos --minutes=10
python -m benchmarks.chaos --faults=200 --seed=1 --out=chaos.jsonl
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.table import Table

from benchmarks.faults import FAULTS, MODELS, FailedError, Scene
from diffrec_jax.config import ConfigError
from experiments.cli import start
from experiments.console import make_console

FLAGS = flags.FLAGS


def undisturbed(model: str, folder: Path) -> tuple[dict[str, Any], float]:
    """What a run gives that nothing happens to, and its seconds; the second one, which finds everything compiled."""
    for number in (1, 2):
        scene = Scene(model, folder / f"{model}-{number}", np.random.default_rng(0), {}, 0.0)
        started = time.perf_counter()
        scene.resume()
    seconds = time.perf_counter() - started
    results = json.loads((scene.path / "results.json").read_text())
    return {key: results[key] for key in ("valid", "test", "best_epoch", "num_params")}, seconds


@dataclass(frozen=True)
class Outcome:
    """What came of one fault."""

    number: int
    model: str
    fault: str
    outcome: str
    failed: bool
    said: list[str]


def try_fault(number: int, names: list[str], runs: dict[str, tuple[dict[str, Any], float]], folder: Path) -> Outcome:
    """The fault of this number, with its own seed; models take turns."""
    name, model = names[number % len(names)], list(MODELS)[(number // len(names)) % len(MODELS)]
    folder.mkdir()
    scene = Scene(model, folder / "run", np.random.default_rng([FLAGS.seed, number]), *runs[model])
    try:
        outcome, failed = FAULTS[name](scene), False
    except FailedError as error:
        outcome, failed = f"FAILED: {error}", True
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(number, model, name, outcome, failed, [line.replace(str(folder), "...") for line in scene.said])


def done_before(path: Path | None, names: list[str]) -> list[Outcome]:
    """What a former call with the same seed has left in --out."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    records = [json.loads(line) for line in lines]
    found = [Outcome(**record) for record in records if record.pop("seed") == FLAGS.seed]
    return [own for own in found if own.number < FLAGS.faults and own.fault == names[own.number % len(names)]]


def main() -> None:
    """Strikes until the time is over or all faults are done."""
    console = make_console()
    names = [name for name in FAULTS if not FLAGS.only or any(part in name for part in FLAGS.only)]
    if not names:
        raise ConfigError(f"--only={','.join(FLAGS.only)} names no fault: {', '.join(FAULTS)}")
    out = Path(FLAGS.out) if FLAGS.out else None
    before = done_before(out, names)
    done = {name: [found for found in before if found.fault == name] for name in names}
    left = sorted(set(range(FLAGS.faults)) - {found.number for found in before})
    if before:
        console.print(f"{len(before)} faults are done already: {out}")
    ends = time.monotonic() + 60 * FLAGS.minutes
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary, ThreadPoolExecutor(FLAGS.jobs) as workers:
        runs = {model: undisturbed(model, Path(temporary)) for model in MODELS}

        def one(number: int) -> Outcome | None:
            return try_fault(number, names, runs, Path(temporary) / str(number)) if time.monotonic() < ends else None

        for found in filter(None, workers.map(one, left)):
            done[found.fault].append(found)
            console.print(f"{found.number + 1:>4} {found.model:<10} {found.fault}: {found.outcome}")
            if out:
                with out.open("a") as file:
                    file.write(json.dumps({"seed": FLAGS.seed} | asdict(found)) + "\n")
    failures = sum(found.failed for own in done.values() for found in own)
    table = Table(title=f"{sum(map(len, done.values()))} faults, seed {FLAGS.seed}, {failures} did harm")
    for heading in ("fault", "times", "harm", "outcome", "what was said"):
        table.add_column(heading)
    for name, own in done.items():
        outcomes = Counter(found.outcome for found in own if not found.failed)
        told = "; ".join(f"{outcome} ({times})" for outcome, times in outcomes.items())
        said = next((line for found in own for line in found.said if line), "")
        table.add_row(name, str(len(own)), str(sum(found.failed for found in own)), told, said)
    console.print(table)
    if failures:
        raise ConfigError(f"{failures} faults did harm: see above")


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 60.0, "End after so long.", lower_bound=0.0)
    flags.DEFINE_integer("faults", 200, "At most so many faults.", lower_bound=1)
    flags.DEFINE_integer("jobs", 1, "Faults at once.", lower_bound=1)
    flags.DEFINE_integer("seed", 1, "Of the moments and places.", lower_bound=0)
    flags.DEFINE_list("only", [], "Faults whose names hold one of these words.")
    flags.DEFINE_string(
        "out", None, "A line of JSON for each fault is added to this file; those that are there are not done again."
    )
    start(main, __doc__ or "")
