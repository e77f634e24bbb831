"""What do the checks that let a run survive cost, as a share of its time?

Of a real training, in one process: the steps, a checkpoint, and apart from them what is there for survival alone:
asking for signals, looking at every loss, the clock, the log, the sums of arrays and files.

python -m benchmarks.survival_cost --shape=amazon-book
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from rich.table import Table

from diffrec_jax.assembly import prepare_trainer
from diffrec_jax.config import DataConfig, make_run_config
from diffrec_jax.devices import any_stops, make_strategy
from diffrec_jax.training.checkpoints import ARRAYS, _sums
from diffrec_jax.training.losses import LossWatch
from diffrec_jax.training.run_directory import RunDirectory
from experiments.cli import start
from experiments.console import make_console

FLAGS = flags.FLAGS
REPEATS = 200


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of some calls."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def main() -> None:
    """A few steps and a checkpoint, and the checks over and over."""
    console = make_console()
    data = DataConfig("synthetic" if FLAGS.shape == "small" else f"synthetic-{FLAGS.shape}", "clean", None, {"seed": 0})
    config = make_run_config("diffrec", data, preset=None if FLAGS.shape == "small" else "released")
    dataset = data.load()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "run")
        run.create({})
        trainer, _ = prepare_trainer(config, dataset, run, make_strategy(num_items=dataset.num_items), None, None)
        assert trainer.clock is not None
        state, clock = trainer.init_state(), trainer.clock

        def step() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(trainer._train_steps(state, trainer.batches.after(0), trainer._key))

        step()
        step_s = seconds(step, FLAGS.steps)
        watch = LossWatch(10, run, lambda step: {}, list)

        def checks_of_a_step() -> None:
            with clock.measuring("input"), clock.measuring("step"):
                pass
            any_stops(1, trainer.should_stop())
            watch.look(1, 1.0, skipped=False)

        checks_s = seconds(checks_of_a_step, REPEATS)
        log_s = seconds(lambda: trainer._log_clock(1), REPEATS)
        jax.block_until_ready(trainer._inspect(state))
        save_s = seconds(lambda: trainer._save(state, 1, evaluated=True), 1)
        arrays_s = seconds(lambda: jax.block_until_ready(trainer._bit_sums(state)), 3)
        files = trainer.checkpoints.folder / "1" / ARRAYS
        files_s = seconds(lambda: _sums(files), 3)
        size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    assert config.training is not None
    steps = trainer.steps_per_epoch * config.training.eval_every
    rows = [
        ("steps", steps, step_s, False),
        ("checkpoint, written", 1, max(save_s - arrays_s - files_s, 0.0), False),
        ("signals, losses, clock", steps, checks_s, True),
        ("log", config.training.eval_every + 1, log_s, True),
        ("sums of the arrays' bits", 1, arrays_s, True),
        (f"SHA-256 of the files, {size / 2**20:,.0f} MiB", 1, files_s, True),
    ]
    total = sum(times * one for _, times, one, _ in rows)
    table = Table(
        title=f"{FLAGS.shape}, {config.training.eval_every} epochs to a checkpoint, {jax.devices()[0].device_kind}"
    )
    for heading in ("what", "times", "each", "in all", "share"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what, times, one, _ in rows:
        table.add_row(what, f"{times:,}", f"{one * 1e3:,.3f} ms", f"{times * one:,.2f} s", f"{times * one / total:.3%}")
    survival = sum(times * one for _, times, one, for_survival in rows if for_survival) / total
    table.add_row("for survival alone", "", "", "", f"{survival:.3%}", style="bold")
    console.print(table)


if __name__ == "__main__":
    flags.DEFINE_enum("shape", "ml-1m", ["small", "ml-1m", "yelp", "amazon-book"], "Size of the data and the model.")
    flags.DEFINE_integer("steps", 5, "Steps that are timed.", lower_bound=1)
    start(main, __doc__ or "")
