"""Trains every combination of some flags' values and seeds, and ranks the combinations by the validation metric.

  python -m experiments.sweep --sweep_dir=runs/tune --seeds=1,2 --grid='lr=1e-4|3e-4' --grid='dims=1000|200,600' \\
      -- --model=diffrec --dataset=ml-1m --data_dir=data

What follows -- goes to experiments.train as it is. Runs that are finished are not run again, interrupted ones go on;
a run of another configuration, of other data or of another version of the project is refused.
The test is shown only with --show_test, so that nothing is chosen by it.
"""

import itertools
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from diffrec_jax.config import ConfigError, default_k
from diffrec_jax.files import safe_name
from diffrec_jax.training.run_directory import RunDirectory

from . import flags
from .cli import start
from .flags import FLAGS
from .report import make_console
from .runs import cut_train_flags, run_all, summarise


def parse_grid(entries: list[str]) -> list[dict[str, str]]:
    """``["lr=1e-4|1e-3", "dims=1000"]`` as every combination of flag values.

    Raises:
      ConfigError: an entry is not NAME=VALUE|VALUE.
    """
    axes = []
    for entry in entries:
        name, separator, values = entry.partition("=")
        if not separator or not name or not all(values.split("|")):
            raise ConfigError(f"--grid={entry!r} is not understood: write --grid='flag=value|value'")
        axes.append([(name, value) for value in values.split("|")])
    return [dict(combination) for combination in itertools.product(*axes)]


def run_name(combination: dict[str, str], seed: int) -> str:
    """A directory name that tells the combination and the seed."""
    return safe_name("_".join([*(f"{name}={value}" for name, value in combination.items()), f"seed={seed}"]))


def default_metrics(config: dict[str, Any]) -> list[str]:
    """Recall and NDCG at the default K."""
    k = default_k(config["evaluation"]["ks"])
    return [f"recall@{k}", f"ndcg@{k}"]


def main() -> None:
    """Runs the grid and prints the ranking."""
    combinations, folder = parse_grid(FLAGS.grid), Path(FLAGS.sweep_dir)
    runs: dict[Path, list[str]] = {}
    for combination in combinations:
        given = [f"--{name}={value}" for name, value in combination.items()]
        for seed in FLAGS.seeds:
            runs[folder / run_name(combination, seed)] = [*train_flags, *given, f"--seed={seed}"]
    run_all(runs)
    splits = ("valid", "test") if FLAGS.show_test else ("valid",)
    rows, shown = [], FLAGS.show_metrics or default_metrics(RunDirectory(next(iter(runs))).config())
    for combination in combinations:
        results = [RunDirectory(folder / run_name(combination, seed)).results() for seed in FLAGS.seeds]
        columns = {
            (split, metric): [result[split][metric] for result in results if result and split in result]
            for split in splits
            for metric in shown
        }
        epochs = [result["best_epoch"] for result in results if result and result["best_epoch"] is not None]
        rows.append((combination, columns, epochs))
    if any(not values for _, columns, _ in rows for values in columns.values()):
        raise ConfigError("the data have no valid split to rank combinations by: split them in three")
    rows.sort(key=lambda row: -statistics.mean(row[1]["valid", shown[0]]))
    table = Table(title=f"{len(FLAGS.seeds)} seeds each, best {shown[0]} on valid first")
    for heading in (*combinations[0], *(f"{split} {metric}" for split in splits for metric in shown)):
        table.add_column(heading)
    table.add_column("best epoch")
    for combination, columns, epochs in rows:
        cells = [summarise(values) for values in columns.values()]
        table.add_row(*combination.values(), *cells, f"{statistics.mean(epochs):.0f}" if epochs else "-")
    make_console().print(table)


if __name__ == "__main__":
    flags.define_sweep_flags()
    train_flags = cut_train_flags()
    start(main, __doc__ or "")
