"""The table of a comparison: its columns, and how it looks in Markdown, LaTeX, CSV and the terminal."""

import csv
import io
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from diffrec_jax.comparison import Comparison, Group
from diffrec_jax.memory import GIB

from .runs import summarise

BEYOND_ACCURACY = ("coverage", "gini", "popularity", "novelty")
NOTHING, CAPPED = "-", "capped_recall"


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, each row's text, and the numbers behind it."""

    heading: str
    text: Callable[[int], str]
    numbers: dict[str, Callable[[int], float | int | str | None]]
    """For the CSV file, by name."""
    best: int | None = None
    """The row that is shown in bold."""
    in_files_alone: bool = False
    """Capped recall, beyond accuracy, cost: not in the terminal."""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def accuracy_metrics(ks: tuple[int, ...]) -> tuple[str, ...]:
    """Of the table: recall, capped recall and NDCG at 10 and 20, or at the two largest K where the runs have others."""
    shown = (10, 20) if {10, 20} <= set(ks) else sorted(ks)[-2:]
    return tuple(f"{name}@{k}" for name in ("recall", CAPPED, "ndcg") for k in shown)


def beyond_accuracy_names(groups: list[Group]) -> list[str]:
    """Names of what the first run measured beyond accuracy, in the table's order."""
    measured = groups[0].runs[0].results.get("beyond_accuracy", {})
    return [found for name in BEYOND_ACCURACY for found in measured if found.startswith(f"{name}@")]


def make_columns(compared: Comparison) -> list[Column]:
    """The columns of the table, a row for each group."""
    groups = compared.groups
    return [*_names(groups), *_accuracy(groups), *_significance(compared), *_costs(groups)]


def _names(groups: list[Group]) -> list[Column]:
    return [
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


def _accuracy(groups: list[Group]) -> list[Column]:
    columns = []
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
                in_files_alone=name.startswith(CAPPED),
            )
        )
    return columns


def _significance(compared: Comparison) -> list[Column]:
    def difference(row: int) -> str:
        found = compared.differences[row]
        return NOTHING if found is None else f"{found.mean_difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

    def part(name: str) -> Callable[[int], float | None]:
        return lambda row: getattr(compared.differences[row], name, None)

    def p_value(row: int) -> float | None:
        return None if row == compared.against else compared.p_values[row]

    return [
        Column(
            f"{compared.metric} - {compared.groups[compared.against].label} [95%]",
            difference,
            {"difference": part("mean_difference"), "low": part("low"), "high": part("high")},
        ),
        Column(
            "p (Holm)",
            lambda row: NOTHING if row == compared.against else f"{compared.p_values[row]:.2g}",
            {"p Holm": p_value},
        ),
    ]


def _costs(groups: list[Group]) -> list[Column]:
    columns = []

    def add(heading: str, get: Callable[[dict[str, Any]], float | None], show: Callable[[float], str]) -> None:
        def mean(row: int) -> float | None:
            values = groups[row].values(get)
            return statistics.mean(values) if values else None

        def text(row: int) -> str:
            value = mean(row)
            return NOTHING if value is None else show(value)

        columns.append(Column(heading, text, {heading: mean}, in_files_alone=True))

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
    shown = [column for column in columns if not column.in_files_alone]
    table = Table(title=title)
    for number, column in enumerate(shown):
        table.add_column(column.heading, justify="left" if number == 0 else "right")
    for row in range(num_rows):
        table.add_row(*(Text(column.text(row), "bold" if column.best == row else "") for column in shown))
    return table
