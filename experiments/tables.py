"""The table of a comparison: its columns, and how it looks in Markdown, LaTeX, CSV and the terminal."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from diffrec_jax.evaluation import RATING_METRICS, goodness

from .measured import BEYOND_ACCURACY, COSTS, LEAST, Measured, Row
from .runs import summarise

NOTHING, CAPPED = "-", "capped_recall"
ALL_COSTS = ("training s", "s / 1,000 users", "parameters", "peak GiB")


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, the text of a row, and the numbers behind it."""

    heading: str
    text: Callable[[Row], str]
    numbers: dict[str, Callable[[Row], float | int | str | None]]
    """For the CSV file, by name."""
    best: str | None = None
    """Label of the row that is shown in bold."""
    in_files_alone: bool = False
    """Capped recall, beyond accuracy, cost: not in the terminal."""

    def marked(self, row: Row, mark: Callable[[str], str]) -> str:
        """The text of a row, marked if it is the best."""
        return mark(self.text(row)) if self.best == row.label else self.text(row)


def accuracy_metrics(ks: Sequence[int]) -> tuple[str, ...]:
    """Of the table: recall, capped recall and NDCG at 10 and 20, or at the two largest K where the runs have others."""
    shown = (10, 20) if {10, 20} <= set(ks) else sorted(ks)[-2:]
    return tuple(f"{name}@{k}" for name in ("recall", CAPPED, "ndcg") for k in shown)


def make_columns(measured: Measured, costs: Sequence[str] = ALL_COSTS) -> list[Column]:
    """The columns of the table."""
    rows = measured.rows
    own = [row for row in rows if row.num_seeds]
    ks = sorted({int(name.partition("@")[2]) for name in own[0].test if "@" in name})
    shared = [name for name in accuracy_metrics(ks) if all(name in row.test for row in own)]
    errors = [name for name in RATING_METRICS if any(name in row.test for row in rows)]
    beyond = [name for kind in BEYOND_ACCURACY for name in own[0].beyond if name.startswith(f"{kind}@")]
    return [
        Column(
            "model",
            lambda row: row.label,
            {
                "model": lambda row: row.label,
                "runs": lambda row: " ".join(row.runs),
                "data_sha256": lambda row: row.data_sha256,
            },
        ),
        Column("seeds", lambda row: str(row.num_seeds or NOTHING), {"seeds": lambda row: row.num_seeds}),
        *(_accuracy(rows, name) for name in (*shared, *errors)),
        *_significance(measured),
        *(_mean_of(name, lambda row, name=name: row.beyond.get(name, []), "{:.3f}".format) for name in beyond),
        *(_mean_of(name, lambda row, name=name: told_costs(row, name), COSTS[name][1], spread=True) for name in costs),
    ]


def _accuracy(rows: list[Row], name: str) -> Column:
    return Column(
        name,
        lambda row: summarise(row.test[name]) if name in row.test else NOTHING,
        {
            name: lambda row: row.mean(name) if name in row.test else None,
            f"{name} std": lambda row: statistics.stdev(row.test[name]) if len(row.test.get(name, ())) > 1 else None,
        },
        best=max(
            (row for row in rows if name in row.test and row.num_seeds), key=lambda row: goodness(name, row.mean(name))
        ).label,
        in_files_alone=name.startswith(CAPPED),
    )


def _significance(measured: Measured) -> list[Column]:
    def difference(row: Row) -> str:
        return NOTHING if row.difference is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row.difference)

    def part(place: int) -> Callable[[Row], float | None]:
        return lambda row: None if row.difference is None else row.difference[place]

    return [
        Column(
            f"{measured.metric} - {measured.against} [95%]",
            difference,
            {"difference": part(0), "low": part(1), "high": part(2)},
        ),
        Column(
            "p (Holm)",
            lambda row: shown_p(row.p_value),
            {"p Holm": lambda row: row.p_value},
        ),
    ]


def shown_p(p: float | None) -> str:
    """How a p-value is written: never as 0, which float64 makes of the smallest."""
    if p is None:
        return NOTHING
    return f"{p:.2g}" if p >= 1e-300 else "<1e-300"


def told_costs(row: Row, name: str) -> list[float]:
    """A cost of each seed, or the least of them alone where that is the method's own."""
    values = row.costs.get(name, [])
    return [min(values)] if values and name in LEAST else values


def _mean_of(
    heading: str, values: Callable[[Row], list[float]], show: Callable[[float], str], *, spread: bool = False
) -> Column:
    """Of each row the mean, and of what differs between runs the standard deviation where it is asked for."""

    def mean(row: Row) -> float | None:
        return statistics.mean(values(row)) if values(row) else None

    def text(row: Row) -> str:
        value, own = mean(row), values(row)
        if value is None:
            return NOTHING
        shown = show(value)
        decimals = len(shown.partition(".")[2])
        return shown + (f" ± {statistics.stdev(own):,.{decimals}f}" if spread and len(set(own)) > 1 else "")

    return Column(heading, text, {heading: mean}, in_files_alone=True)


def to_markdown(columns: list[Column], rows: list[Row], title: str) -> str:
    """The table in Markdown."""

    def escaped(text: str) -> str:
        return text.replace("|", r"\|")

    lines = [f"**{title}**", "", "| " + " | ".join(escaped(column.heading) for column in columns) + " |"]
    lines.append("|" + "|".join("---" if number == 0 else "---:" for number in range(len(columns))) + "|")
    for row in rows:
        cells = (escaped(column.marked(row, "**{}**".format)) for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


LATEX = {character: f"\\{character}" for character in "%&_#${}"} | {
    "±": r"$\pm$",
    "<": "$<$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_latex(columns: list[Column], rows: list[Row]) -> str:
    """The table as a LaTeX tabular that needs no package."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in text)

    lines = [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\hline"]
    lines += [" & ".join(escaped(column.heading) for column in columns) + r" \\", r"\hline"]
    for row in rows:
        cells = (
            rf"\textbf{{{escaped(column.text(row))}}}" if column.best == row.label else escaped(column.text(row))
            for column in columns
        )
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def to_csv(columns: list[Column], rows: list[Row]) -> str:
    """The numbers in full precision."""
    numbers = {name: get for column in columns for name, get in column.numbers.items()}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(numbers)
    writer.writerows([["" if (value := get(row)) is None else value for get in numbers.values()] for row in rows])
    return file.getvalue()


def to_terminal(columns: list[Column], rows: list[Row], title: str) -> Table:
    """Accuracy and significance, for the terminal: the files have the rest."""
    shown = [column for column in columns if not column.in_files_alone]
    table = Table(title=title)
    for number, column in enumerate(shown):
        table.add_column(column.heading, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(Text(column.text(row), "bold" if column.best == row.label else "") for column in shown))
    return table
