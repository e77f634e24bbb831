"""What a report says, apart from how it looks: text, tables and pictures made from findings alone."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from . import figures
from .blocks import NOWHERE, Block, Cell, Command, Heading, Paragraph, Picture, TableBlock
from .claims import RULE, claims_table, measured_studies, summary, verdicts_table
from .findings import METRIC, Findings
from .measured import BEYOND_ACCURACY, LEAST, Measured, Row, beside
from .plan import flags_of, variants_of
from .protocols import SWITCHES
from .studies import NOT_TESTABLE, PUBLISHED_METRICS
from .study import DATA, QUICK, Study
from .tables import Column, make_columns, told_costs

COMMAND = "python -m experiments.reproduce --studies={}"
BARS = "Means, with the standard deviation over seeds; places along the axis are evenly spaced"
DOTS = "Large points: means, with the standard deviation over seeds. Small points: single seeds"
"""What pictures show: told below them."""
PARETO = {
    "training s": ("training seconds", 1.0),
    "parameters": ("MiB of parameters", 4 / 2**20),
    "s / 1,000 users": ("milliseconds a user", 1.0),
}
"""Of costs: what pictures show, and how much of it is one."""


def sections(found: Mapping[str, Findings], *, plots: bool = True) -> Iterator[Block]:
    """The whole report."""
    of_paper, of_open = (claims_table(found, is_open=is_open) for is_open in (False, True))
    if of_paper.rows:
        yield Heading("Do the paper's claims hold?")
        yield Paragraph(summary(of_paper))
        yield verdicts_table(of_paper)
        yield Paragraph(RULE)
        yield of_paper
        yield Paragraph("What cannot be tested with the data here:")
        yield TableBlock(["claim", "why not"], [[Cell(text, text) for text in both] for both in NOT_TESTABLE])
    if of_open.rows:
        yield Heading("What the paper leaves open")
        yield Paragraph(
            f"These claims are ours. {summary(of_open)} They are tested in the same way, apart from the paper's."
        )
        yield of_open
    for study in measured_studies(found):
        yield from of_study(study, found[study.name], plots=plots)
    yield from methods(found)


def of_study(study: Study, found: Findings, *, plots: bool) -> Iterator[Block]:
    """One study: its question, and a table and a picture for each dataset."""
    yield Heading(study.title)
    yield Paragraph(study.question)
    yield command_of(study, found.by_data)
    yield flags_table(study, found.by_data)
    if plots and study.data_axis:
        yield data_picture(study, found)
    for data, measured in found.by_data.items():
        if len(found.by_data) > 1:
            yield Heading(f"{study.title}: {data}", 3)
        yield from study_tables(study, data, measured)
        if plots and not study.data_axis:
            yield from study_pictures(study, data, measured)
        if study.protocols:
            yield from protocols_of(study, data, measured)
            if plots:
                yield from pareto_of(study, data, measured)


def command_of(study: Study, data: Collection[str]) -> Command:
    """What makes the runs of a study on these datasets."""
    return Command(COMMAND.format(study.name) + (" --quick" if set(data) == {QUICK} else ""))


def flags_table(study: Study, by_data: Mapping[str, Measured]) -> TableBlock:
    """What each of its datasets and variants is, as flags of experiments.train."""
    labels = {row.label for measured in by_data.values() for row in measured.rows}
    given = {data: DATA[data].flags for data in by_data if data in DATA} | {
        label: flags_of(study, label, quick=set(by_data) == {QUICK}) for label in study.variants if label in labels
    }
    rows = [[Cell(name, name), Cell(flags, flags)] for name, flags in zip(given, map(" ".join, given.values()))]
    return TableBlock(["data or variant", "flags"], rows, folded_below="The flags of experiments.train")


def ordered(study: Study, measured: Measured) -> list[Row]:
    """Along the axis where there is one, else best first."""
    if study.axis is None:
        return measured.rows
    return [measured.row(label) for label in study.variants if label in {row.label for row in measured.rows}]


def with_published(study: Study, data: str, measured: Measured) -> Measured:
    """A comparison with the figures from elsewhere that belong beside it."""
    published = study.published.get(data, {})
    return beside(measured, {label: dict(zip(PUBLISHED_METRICS, values)) for label, values in published.items()})


def study_tables(study: Study, data: str, measured: Measured) -> Iterator[TableBlock]:
    """Accuracy and significance, with the costs; of all models, which have many columns, in two tables."""
    measured = with_published(study, data, measured)
    columns, rows = make_columns(measured, study.costs), ordered(study, measured)
    if not study.protocols:
        hidden = (*BEYOND_ACCURACY, "capped")
        yield _table([own for own in columns if not own.heading.startswith(hidden)], rows, study.axis or "variant")
        return
    others = [own for own in columns if own.heading.startswith(BEYOND_ACCURACY) or own.heading in study.costs]
    yield _table([own for own in columns if own not in others], rows, "model")
    yield _table([columns[0], *others], [row for row in rows if row.num_seeds], "model")


def _table(columns: list[Column], rows: list[Row], first: str) -> TableBlock:
    """Its first heading is what the rows are."""
    headings = [first, *(column.heading for column in columns[1:])]
    return TableBlock(headings, [[cell_of(column, row) for column in columns] for row in rows])


def cell_of(column: Column, row: Row) -> Cell:
    """Of a row in a column; where there is no number it counts as the smallest."""
    number = next(iter(column.numbers.values()))(row)
    return Cell(column.marked(row, "**{}**".format), number if number is not None else NOWHERE)


def study_pictures(study: Study, data: str, measured: Measured) -> Iterator[Picture]:
    """Accuracy, and errors where there are any, along the axis or of each variant."""
    rows = ordered(study, with_published(study, data, measured))
    for metric in (METRIC, "rmse"):
        values = {row.label: row.test[metric] for row in rows if metric in row.test}
        if not values:
            continue
        name = file_name(f"{study.name}-{data}{'' if metric == METRIC else f' {metric}'}")
        description = f"{metric} on {data}, test: {study.title}. "
        if study.axis is None:
            yield Picture(name, figures.dots(name, values, metric), description + DOTS)
        else:
            places = variants_of(study, quick=data == QUICK)
            yield Picture(name, figures.lines(name, {data: values}, places, study.axis, metric), description + BARS)


def data_picture(study: Study, found: Findings) -> Picture:
    """Accuracy of each variant along the datasets."""
    series = {
        variant: {
            data: row.test[METRIC]
            for data, measured in found.by_data.items()
            for row in measured.rows
            if row.label == variant
        }
        for variant in study.variants
    }
    shown = {label: own for label, own in series.items() if own}
    places = [data for data in dict.fromkeys([*study.data, *found.by_data]) if data in found.by_data]
    drawn = figures.lines(study.name, shown, places, study.data_axis, METRIC)
    return Picture(study.name, drawn, f"{METRIC}, test: {study.title}. {BARS}")


def protocols_of(study: Study, data: str, measured: Measured) -> Iterator[Block]:
    """One seed of each model by several protocols, and the place that each gives it."""
    rows = [row for row in measured.rows if set(SWITCHES) <= set(row.protocols)]
    if len(rows) < 2:
        return
    yield Heading(f"The same models by other protocols: {data}", 3)
    listed = "; ".join(f"{name}: {what}" for name, what in SWITCHES.items())
    yield Paragraph(f"{METRIC} of the first seed, and the place among the models, by protocol. {listed}.")
    yield command_of(study, [data])
    places = {
        name: {row.label: place for place, row in enumerate(sorted(rows, key=lambda own: -own.protocols[name]), 1)}
        for name in SWITCHES
    }
    table = [
        [
            Cell(row.label, row.label),
            *(Cell(f"{row.protocols[name]:.4f} ({places[name][row.label]})", row.protocols[name]) for name in SWITCHES),
        ]
        for row in sorted(rows, key=lambda own: places["official"][own.label])
    ]
    yield TableBlock(["model", *SWITCHES], table)
    agreement = {name: kendall(places["official"], places[name]) for name in SWITCHES if name != "official"}
    told = ", ".join(f"{name} {value:.2f}" for name, value in agreement.items())
    same = [name for name in agreement if all(row.protocols[name] == row.protocols["official"] for row in rows)]
    of_same = f" Here {' and '.join(same)} change nothing: every user has test items." if same else ""
    yield Paragraph(f"Kendall's tau of each order with the official one: {told}.{of_same}")


def file_name(text: str) -> str:
    """A name that every file system takes: "beauty 8:1:1" is beauty-811."""
    return re.sub(r"[^\w.-]", "", text.replace(" ", "-"))


def kendall(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """Agreement of two orders of the same labels: 1 the same, -1 reversed."""
    labels, agree = list(first), 0
    for place, a in enumerate(labels):
        agree += sum(1 if (first[a] - first[b]) * (second[a] - second[b]) > 0 else -1 for b in labels[:place])
    return 2 * agree / (len(labels) * (len(labels) - 1))


def pareto_of(study: Study, data: str, measured: Measured) -> Iterator[Block]:
    """Accuracy against each cost."""
    metric = METRIC.replace("recall", "ndcg")
    yield Heading(f"Accuracy against cost: {data}", 3)
    yield Paragraph("In orange, with larger names: the models for which no other is both more accurate and cheaper.")
    yield command_of(study, [data])
    for cost, (told, unit) in PARETO.items():
        costs = {row.label: [unit * value for value in told_costs(row, cost)] for row in measured.rows}
        points = {
            row.label: (costs[row.label], row.test[metric])
            for row in measured.rows
            if costs[row.label] and min(costs[row.label]) > 0
        }
        if len(points) > 1:
            name = file_name(f"pareto-{cost}-{data}")
            svg = figures.pareto(name, points, f"{told} (log)", metric)
            yield Picture(
                name, svg, f"{metric} against {told} on {data}. Means; bars: from the least to the most of the seeds"
            )


def methods(found: Mapping[str, Findings]) -> Iterator[Block]:
    """What all of it was measured with."""
    measured = [own for findings in found.values() for own in findings.by_data.values()]
    versions = sorted({version for own in measured for version in own.versions}, key=str.lower)
    fingerprints = {
        data: own.rows[0].data_sha256 for findings in found.values() for data, own in findings.by_data.items()
    }
    yield Heading("How it was measured")
    yield Paragraph(
        "Full ranking of all items that a user has not seen, averaged over all users; the training row is the input of "
        f"validation and test{_of_test(found)}. Of each run the epoch with the best validation {METRIC}"
        f"{_selected_otherwise(found)} is taken; most runs stop when it no longer rises (`--patience`). Tables show "
        "mean ± standard deviation over seeds. Differences are of users' metrics averaged over seeds. Their 95% "
        "intervals are for other users and other seeds (Student's t, with the variances of both added up; of a model "
        "that was trained once, for other users alone). The p-values of Wilcoxon's signed-rank test are for other "
        "users, adjusted by Holm's method within a table. Training seconds are those of the steps and their input, "
        "without compiling, and of all processes of a run; runs that shared a machine show it. Peak memory is that of "
        f"the whole process, with its libraries and the compiler. Of {', '.join(LEAST)} tables and pictures show the "
        "least of the seeds: some runs had to compile, and others found it done."
    )
    rows = [row for own in measured for row in own.rows]
    old_versions = any(len(row.versions) == 1 for row in rows)
    only = " Of older runs only the version of diffrec-jax was kept." if old_versions else ""
    devices = Counter(device for row in rows for device in row.devices)
    listed = ", ".join(f"{device} ({count} rows of the tables)" for device, count in sorted(devices.items()))
    unnamed = any("(" not in device for device in devices)
    of_names = " Older runs did not keep the name of the processor." if unnamed else ""
    yield Paragraph(f"Packages: {', '.join(versions)}.{only} Devices: {listed}.{of_names}")
    made_by = {data: f"experiments.prepare {own.prepared_by}" for data, own in DATA.items() if own.prepared_by}
    rows = [[Cell(text, text) for text in (data, sha, made_by.get(data, "-"))] for data, sha in fingerprints.items()]
    yield TableBlock(["data", "fingerprint (SHA-256)", "made by"], rows)


def _of_test(found: Mapping[str, Findings]) -> str:
    """Datasets whose test has another input."""
    data = dict.fromkeys(data for own in found.values() for data in own.by_data)
    longer = [name for name in data if name in DATA and "--test_with_valid_input" in DATA[name].flags]
    return f" (of the test on {', '.join(longer)}: training and validation items)" if longer else ""


def _selected_otherwise(found: Mapping[str, Findings]) -> str:
    """Runs that are selected by another metric."""
    told = [
        f"{study.title}, {label}: {flag.partition('=')[2]}"
        for study in measured_studies(found)
        for label, flags in study.variants.items()
        for flag in flags
        if flag.startswith("--metric=")
        and label in {row.label for own in found[study.name].by_data.values() for row in own.rows}
    ]
    return f" ({'; '.join(told)})" if told else ""
