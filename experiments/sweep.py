"""Trains combinations of some flags' values over seeds, and ranks the combinations by the validation metric.

  python -m experiments.sweep --sweep_dir=runs/tune --seeds=1,2 --grid='lr=1e-4|3e-4' --grid='dims=1000|200,600' \\
      -- --model=diffrec --dataset=ml-1m --data_dir=data
  python -m experiments.sweep --sweep_dir=runs/tune --trials=20 --grid='lr=1e-4..1e-2' --grid='dropout=0.1..0.7' \\
      -- --model=multivae --dataset=ml-1m

Without --trials, every combination is trained; with it so many of them, chosen by Optuna: give several models the same
number, and they are tuned with an equal budget. A combination whose training fails is told and left out then.
What follows -- goes to experiments.train as it is. Runs that are finished are not run again, interrupted ones go on;
a run of another configuration, of other data or of another version of the project is refused.
The test is shown only with --show_test, so that nothing is chosen by it.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl.flags import FlagValues
from rich.table import Table

from diffrec_jax.config import ConfigError, default_k
from diffrec_jax.evaluation import RATING_METRICS, goodness, parse_metric
from diffrec_jax.files import safe_name
from diffrec_jax.training.run_directory import RunDirectory

from . import flags
from .cli import start
from .console import make_console
from .flags import FLAGS
from .runs import RunFailed, check_own, cut_train_flags, parse_train_flags, run_all, summarise
from .search import Axis, Combination, Range, grid, parse_axes, search


def run_name(combination: Combination, seed: int) -> str:
    """A directory name that tells the combination and the seed."""
    return safe_name("_".join([*(f"{name}={value}" for name, value in combination.items()), f"seed={seed}"]))


def default_metrics(config: dict[str, Any]) -> list[str]:
    """Recall and NDCG at the default K."""
    k = default_k(config["evaluation"]["ks"])
    return [f"recall@{k}", f"ndcg@{k}"]


OWN_FLAGS = ("seed", "run_dir", "resume")
"""Of experiments.train, set for each run here."""


def checked_axes(axes: list[Axis], values: FlagValues) -> list[Axis]:
    """The axes, a range of whole numbers of a flag that takes others as one of those.

    Raises:
      ConfigError: an axis is no flag of experiments.train, or one that the sweep sets itself.
    """
    for axis in axes:
        if axis.name not in values:
            raise ConfigError(f"--grid={axis.name}: experiments.train has no such flag (its --help lists them)")
        if axis.name in OWN_FLAGS:
            raise ConfigError(f"--grid={axis.name} is set by the sweep: give --seeds and --sweep_dir")
    return [
        replace(axis, is_whole=False) if isinstance(axis, Range) and values[axis.name].flag_type() == "float" else axis
        for axis in axes
    ]


def check_shown(names: list[str], values: FlagValues) -> None:
    """Raises ConfigError for a metric that runs with these flags do not measure."""
    for name in names:
        if name in RATING_METRICS:
            if not values["ratings"].value:
                raise ConfigError(f"--show_metrics: {name} is of ratings: give --ratings after --")
            continue
        try:
            parse_metric(name, tuple(values["ks"].value or ()))
        except ValueError as error:
            raise ConfigError(f"--show_metrics: {error} (--ks after --)") from error


def main() -> None:
    """Runs the combinations and prints the ranking."""
    given_flags, folder, console = parse_train_flags(train_flags), Path(FLAGS.sweep_dir), make_console()
    check_own(given_flags, OWN_FLAGS, "give --seeds and --sweep_dir before it")
    axes = checked_axes(parse_axes(FLAGS.grid), given_flags)
    if not {"ks", "ratings"} & {axis.name for axis in axes}:
        check_shown(FLAGS.show_metrics, given_flags)

    def runs_of(combination: Combination) -> dict[Path, list[str]]:
        given = [f"--{name}={value}" for name, value in combination.items()]
        return {folder / run_name(combination, seed): [*train_flags, *given, f"--seed={seed}"] for seed in FLAGS.seeds}

    def results_of(combination: Combination) -> list[dict[str, Any]]:
        found = [RunDirectory(path).results() for path in runs_of(combination)]
        return [results for results in found if results]

    def metrics(combination: Combination) -> list[str]:
        shown = FLAGS.show_metrics or default_metrics(RunDirectory(next(iter(runs_of(combination)))).config())
        for name in shown:
            if any(name not in results.get("valid", {}) for results in results_of(combination)):
                raise ConfigError(f"there is no {name} of a valid split: split the data in three, with that K in --ks")
        return shown

    def values(combination: Combination, split: str, name: str) -> list[float]:
        return [results[split][name] for results in results_of(combination)]

    def rank_value(combination: Combination, name: str) -> float:
        return goodness(name, statistics.mean(values(combination, "valid", name)))

    def measure(combination: Combination) -> float | None:
        try:
            run_all(runs_of(combination))
        except RunFailed as error:
            console.print(f"left out: {error}", markup=False, highlight=False)
            return None
        return rank_value(combination, metrics(combination)[0])

    if FLAGS.trials:
        tried = search(axes, FLAGS.trials, measure)
        combinations = [one for one in tried if len(results_of(one)) == len(FLAGS.seeds)]
        if not combinations:
            raise ConfigError(f"none of {len(tried)} combinations could be trained: the logs are in {folder}")
    else:
        combinations = grid(axes)
        run_all({path: flags for one in combinations for path, flags in runs_of(one).items()})
    shown = metrics(combinations[0])
    splits = ("valid", "test") if FLAGS.show_test else ("valid",)
    columns = [(split, name) for split in splits for name in shown]
    combinations.sort(key=lambda one: -rank_value(one, shown[0]))
    table = Table(title=f"{len(FLAGS.seeds)} seeds each, best {shown[0]} on valid first")
    for heading in (*combinations[0], *(f"{split} {name}" for split, name in columns), "best epoch"):
        table.add_column(heading)
    for combination in combinations:
        cells = [summarise(values(combination, *column)) for column in columns]
        epochs = [results["best_epoch"] for results in results_of(combination) if results["best_epoch"] is not None]
        table.add_row(*combination.values(), *cells, f"{statistics.mean(epochs):.0f}" if epochs else "-")
    console.print(table)


if __name__ == "__main__":
    flags.define_sweep_flags()
    train_flags = cut_train_flags()
    start(main, __doc__ or "")
