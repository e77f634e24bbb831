"""Compares models over seeds on the same data: accuracy with significance, beyond accuracy, and cost, in one table.

  python -m experiments.compare --runs=runs/a,runs/b --against=EASE
  python -m experiments.compare --models=diffrec,ease,multivae --seeds=1,2,3 --compare_dir=runs/compare \\
      -- --dataset=ml-1m --data_dir=data

--models makes the runs first, below --compare_dir; what follows -- goes to experiments.train. Runs that are finished
are not run again, interrupted ones go on; a run of another configuration, of other data or of another version of the
project is refused. The table is printed and written as Markdown, CSV, LaTeX and PNG.
"""

import csv
import io
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from diffrec_jax.assembly import HOW, how_measured, per_user_path
from diffrec_jax.config import ConfigError, RunConfig, default_k
from diffrec_jax.evaluation import PairedComparison, compare_users, holm, parse_metric
from diffrec_jax.files import write_atomically
from diffrec_jax.memory import GIB
from diffrec_jax.registry import MODELS
from diffrec_jax.training.run_directory import CONFIG_DIGEST, RunDirectory, differences

from . import flags
from .cli import command, start
from .flags import FLAGS
from .report import make_console, plot_comparison, table_title
from .runs import cut_train_flags, run_all, summarise

BEYOND_ACCURACY = ("coverage", "gini", "popularity", "novelty")
NOTHING = "-"


@dataclass(frozen=True)
class Run:
    """A finished run with each user's test metrics."""

    path: Path
    config: RunConfig
    results: dict[str, Any]
    data_sha256: str
    per_user: dict[str, np.ndarray]


@dataclass(frozen=True)
class Group:
    """The runs of one model, one a seed."""

    label: str
    runs: list[Run]

    def values(self, get: Callable[[dict[str, Any]], float | None]) -> list[float]:
        """What ``get`` finds in the results of the runs, where it finds anything."""
        found = (get(run.results) for run in self.runs)
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float:
        """A test metric averaged over seeds."""
        return statistics.mean(run.results["test"][metric] for run in self.runs)

    def per_user(self, metric: str) -> np.ndarray:
        """Each user's test metric, averaged over seeds."""
        return np.stack([run.per_user[metric] for run in self.runs]).mean(axis=0, dtype=np.float64)


def load_run(path: Path) -> Run:
    """Reads a run directory.

    Raises:
      ConfigError: the run is not finished, or its users' metrics were not kept, or are not those of its results.
      RunDirectoryError: it is no run directory.
    """
    directory = RunDirectory(path)
    stored, results = directory.config(), directory.results()
    if results is None:
        raise ConfigError(f"{path} is not finished: {command('train')} --run_dir={path} --resume")
    config, remedy = RunConfig.from_dict(stored), f"{command('evaluate')} --run_dir={path} --per_user"
    how = how_measured(config, results[CONFIG_DIGEST])
    file = per_user_path(path, "test", how, how)
    if not file.exists():
        raise ConfigError(f"{file} does not exist: {remedy}")
    with np.load(file, allow_pickle=False) as archive:
        per_user = dict(archive)
    check_belongs(per_user, how, results, f"{file} is not of the results beside it: {remedy} writes it anew")
    return Run(path, config, results, stored["data_sha256"], per_user)


def check_belongs(per_user: dict[str, np.ndarray], how: dict[str, Any], results: dict[str, Any], message: str) -> None:
    """Raises ConfigError unless users' metrics were measured as ``how`` says and have the results' means."""
    found = json.loads(str(per_user.pop(HOW, "{}")))
    if found != how:
        raise ConfigError(f"{message} ({differences(how, found)})")
    chosen = per_user["num_relevant"] > (-1 if results["mode"] == "official" else 0)
    for metric, expected in results["test"].items():
        mean = float(np.mean(per_user[metric][chosen], dtype=np.float64))
        if not np.isclose(mean, expected, rtol=1e-5, atol=1e-7):
            raise ConfigError(f"{message} ({metric} is {mean:.6f} there and {expected:.6f} in results.json)")


def find_runs(paths: list[str]) -> list[Path]:
    """Run directories, and those in folders of run directories.

    Raises:
      ConfigError: there is none in a path.
    """
    found = []
    for path in (Path(path).expanduser() for path in paths):
        inside = [path] if (path / "config.json").exists() else [file.parent for file in path.glob("*/config.json")]
        if not inside:
            raise ConfigError(f"{path} is no run directory and holds none: give those of experiments.train")
        found += sorted(inside)
    return found


def check_comparable(runs: list[Run], metrics: tuple[str, ...]) -> None:
    """Raises ConfigError unless all runs were measured on the same data, users and metrics in the same way."""
    first = runs[0]
    for run in runs[1:]:
        for what, ours, theirs in (
            ("data", first.data_sha256, run.data_sha256),
            ("mode", first.results["mode"], run.results["mode"]),
            ("test input", *(r.config.evaluation.test_with_valid_input for r in (first, run))),
            ("users", *(r.per_user["user_ids"].tobytes() for r in (first, run))),
        ):
            if ours != theirs:
                raise ConfigError(f"{first.path} and {run.path} differ in their {what}: only like can be compared")
    for run in runs:
        missing = [metric for metric in metrics if metric not in run.per_user]
        if missing:
            raise ConfigError(f"{run.path} was not evaluated for {missing[0]}: its --ks are {run.config.evaluation.ks}")


def group_runs(runs: list[Run]) -> list[Group]:
    """Runs that differ in their seed alone, together; labelled by the model, and by what else differs where needed.

    Raises:
      ConfigError: two runs are of the same seed.
    """
    by_setting: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        config = run.config
        by_setting.setdefault((config.model, config.preset, config.recency, _seedless(config)), []).append(run)
    titles = [MODELS[model].title for model, *_ in by_setting]
    groups = []
    for number, (_setting, members) in enumerate(by_setting.items()):
        seeds = [run.results["seed"] for run in members]
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"{members[0].path} and {members[1].path} are the same model with the same seed")
        title = titles[number]
        groups.append(Group(title if titles.count(title) == 1 else f"{title} ({members[0].path.name})", members))
    return groups


def _seedless(config: RunConfig) -> str:
    """Everything else that decides what a run does, as text."""
    values = [dict(vars(part)) for part in (config.recommender, config.training, config.groups) if part is not None]
    for part in values[:2]:
        part.pop("seed", None)
    return repr((values, config.matmul_precision))


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, each row's text, and the numbers behind it."""

    heading: str
    text: Callable[[int], str]
    numbers: dict[str, Callable[[int], float | int | str | None]]
    """For the CSV file, by name."""
    best: int | None = None
    """The row that is shown in bold."""
    of_cost: bool = False
    """Beyond accuracy, or cost: in the files alone."""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def accuracy_metrics(ks: tuple[int, ...]) -> tuple[str, ...]:
    """Those of the table: recall and NDCG at 10 and 20, or at the two largest K where the runs have others."""
    shown = (10, 20) if {10, 20} <= set(ks) else sorted(ks)[-2:]
    return tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in shown)


def beyond_accuracy_names(groups: list[Group]) -> list[str]:
    """Names of what the first run measured beyond accuracy, in the table's order."""
    measured = groups[0].runs[0].results.get("beyond_accuracy", {})
    return [found for name in BEYOND_ACCURACY for found in measured if found.startswith(f"{name}@")]


def make_columns(
    groups: list[Group], metric: str, against: int, comparisons: list[PairedComparison | None], p_values: list[float]
) -> list[Column]:
    """The columns of the table, a row for each group."""
    columns = [
        Column(
            "model",
            lambda row: groups[row].label,
            {
                "model": lambda row: groups[row].label,
                "runs": lambda row: " ".join(str(run.path) for run in groups[row].runs),
                "data_sha256": lambda row: groups[row].runs[0].data_sha256,
            },
        ),
        Column("seeds", lambda row: str(len(groups[row].runs)), {"seeds": lambda row: len(groups[row].runs)}),
    ]

    def add(heading: str, get: Callable[[dict[str, Any]], float | None], show: Callable[[float], str]) -> None:
        def mean(row: int) -> float | None:
            values = groups[row].values(get)
            return statistics.mean(values) if values else None

        def text(row: int) -> str:
            value = mean(row)
            return NOTHING if value is None else show(value)

        columns.append(Column(heading, text, {heading: mean}, of_cost=True))

    for name in accuracy_metrics(groups[0].runs[0].config.evaluation.ks):

        def values(row: int, name: str = name) -> list[float]:
            return [run.results["test"][name] for run in groups[row].runs]

        columns.append(
            Column(
                name,
                lambda row, values=values: summarise(values(row)),
                {
                    name: lambda row, values=values: statistics.mean(values(row)),
                    f"{name} std": lambda row, values=values: (
                        statistics.stdev(values(row)) if len(values(row)) > 1 else None
                    ),
                },
                best=max(range(len(groups)), key=lambda row, values=values: statistics.mean(values(row))),
            )
        )

    def difference(row: int) -> str:
        found = comparisons[row]
        return NOTHING if found is None else f"{found.mean_difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

    def part(name: str) -> Callable[[int], float | None]:
        return lambda row: getattr(comparisons[row], name, None)

    columns += [
        Column(
            f"{metric} - {groups[against].label} [95%]",
            difference,
            {"difference": part("mean_difference"), "low": part("low"), "high": part("high")},
        ),
        Column(
            "p (Holm)",
            lambda row: NOTHING if row == against else f"{p_values[row]:.2g}",
            {"p Holm": lambda row: None if row == against else p_values[row]},
        ),
    ]
    for name in beyond_accuracy_names(groups):
        add(name, lambda results, name=name: results.get("beyond_accuracy", {}).get(name), "{:.3f}".format)
    add("training s", lambda results: results["timings"].get("train_s", results["timings"].get("fit_s")), _seconds)
    add("s / 1,000 users", lambda results: results["timings"].get("eval_s_per_1000_users"), _seconds)
    add("parameters", lambda results: results["num_params"], _count)
    add("peak GiB", lambda results: results["peak_rss_bytes"] / GIB, "{:.2f}".format)
    return columns


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def to_markdown(columns: list[Column], num_rows: int, title: str) -> str:
    """The table in Markdown."""

    def escaped(text: str) -> str:
        return text.replace("|", r"\|")

    lines = [f"**{title}**", "", "| " + " | ".join(escaped(column.heading) for column in columns) + " |"]
    lines.append("|" + "|".join("---" if number == 0 else "---:" for number in range(len(columns))) + "|")
    for row in range(num_rows):
        texts = (f"**{column.text(row)}**" if column.best == row else column.text(row) for column in columns)
        cells = map(escaped, texts)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


LATEX = {character: f"\\{character}" for character in "%&_#${}"} | {
    "±": r"$\pm$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_latex(columns: list[Column], num_rows: int) -> str:
    """The table as a LaTeX tabular that needs no package."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in text)

    lines = [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\hline"]
    lines += [" & ".join(escaped(column.heading) for column in columns) + r" \\", r"\hline"]
    for row in range(num_rows):
        cells = (
            rf"\textbf{{{escaped(column.text(row))}}}" if column.best == row else escaped(column.text(row))
            for column in columns
        )
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def to_csv(columns: list[Column], num_rows: int) -> str:
    """The numbers in full precision."""
    numbers = {name: get for column in columns for name, get in column.numbers.items()}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(numbers)
    writer.writerows(
        [["" if (value := get(row)) is None else value for get in numbers.values()] for row in range(num_rows)]
    )
    return file.getvalue()


def to_terminal(columns: list[Column], num_rows: int, title: str) -> Table:
    """Accuracy and significance, for the terminal: the files have the rest."""
    shown = [column for column in columns if not column.of_cost]
    table = Table(title=title)
    for number, column in enumerate(shown):
        table.add_column(column.heading, justify="left" if number == 0 else "right")
    for row in range(num_rows):
        table.add_row(*(Text(column.text(row), "bold" if column.best == row else "") for column in shown))
    return table


def make_runs(models: list[str], seeds: tuple[int, ...], folder: Path, train_flags: list[str]) -> list[Path]:
    """The run directories of these models, run where they are not finished; models that draw nothing run once.

    Raises:
      ConfigError: a model is unknown, or a run failed.
    """
    runs = {}
    for model in models:
        if model not in MODELS:
            raise ConfigError(f"--models: {model} is unknown: choose among {', '.join(MODELS)}")
        for seed in seeds if MODELS[model].is_seeded else seeds[:1]:
            runs[folder / f"{model}_seed={seed}"] = [
                *train_flags,
                f"--model={model}",
                f"--seed={seed}",
                "--per_user",
                "--nobaseline",
            ]
    run_all(runs)
    return list(runs)


def provenance(runs: list[Run]) -> str:
    """What the table is made of."""
    listed = ", ".join(str(run.path) for run in runs)
    versions = ", ".join(sorted({run.results["versions"]["diffrec-jax"] for run in runs}))
    return f"Data {runs[0].data_sha256}; diffrec-jax {versions}; runs {listed}."


def main() -> None:
    """Flags to a table."""
    folder, console = Path(FLAGS.compare_dir), make_console()
    if not FLAGS.runs and not FLAGS.models:
        raise ConfigError("nothing to compare: give --runs=DIR,... or --models=NAME,...")
    paths = find_runs(FLAGS.runs) + make_runs(FLAGS.models, FLAGS.seeds, folder, train_flags)
    runs = [load_run(path) for path in dict.fromkeys(paths)]
    ks = runs[0].config.evaluation.ks
    metric = FLAGS.metric or f"recall@{default_k(ks)}"
    try:
        parse_metric(metric, ks)
    except ValueError as error:
        raise ConfigError(error) from error
    check_comparable(runs, (*accuracy_metrics(ks), metric))
    groups = sorted(group_runs(runs), key=lambda group: -group.mean(metric))
    labels = [group.label for group in groups]
    if FLAGS.against and FLAGS.against not in labels:
        raise ConfigError(f"--against={FLAGS.against} is not compared: choose one of {', '.join(labels)}")
    against = labels.index(FLAGS.against) if FLAGS.against else 0
    reference = groups[against].per_user(metric)
    comparisons = [
        None if row == against else compare_users(group.per_user(metric), reference) for row, group in enumerate(groups)
    ]
    adjusted = iter(holm([found.p_value for found in comparisons if found]))
    p_values = [1.0 if found is None else next(adjusted) for found in comparisons]

    columns = make_columns(groups, metric, against, comparisons, p_values)
    title, made_of = table_title(runs[0].results), provenance(runs)
    console.print(to_terminal(columns, len(groups), title))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "comparison.md", to_markdown(columns, len(groups), title) + f"\n{made_of}\n")
    write_atomically(folder / "comparison.tex", f"% {made_of}\n{to_latex(columns, len(groups))}")
    write_atomically(folder / "comparison.csv", to_csv(columns, len(groups)))
    bars = {group.label: [run.results["test"][metric] for run in group.runs] for group in groups}
    if not plot_comparison(bars, metric, title, folder / "comparison.png", made_of):
        console.print("no comparison.png: matplotlib is missing (pip install 'diffrec-jax[plot]')")
    console.print(f"the whole table: {folder / 'comparison.md'}, .csv, .tex")


if __name__ == "__main__":
    flags.define_compare_flags()
    train_flags = cut_train_flags()
    start(main, __doc__ or "")
