"""A comparison as plain numbers: what tables show, plots draw and files keep."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffrec_jax.comparison import Comparison, Group, Run, compare_with
from diffrec_jax.evaluation import PairedComparison
from diffrec_jax.memory import GIB
from diffrec_jax.training.run_directory import RunDirectory

from .protocols import by_protocol

BEYOND_ACCURACY = ("coverage", "gini", "popularity", "novelty")
LAST_EPOCHS = 20


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def loss_jitter(run: Run) -> float | None:
    """How much the loss moves from epoch to epoch: deviation of its differences over its mean, of the last epochs."""
    records = RunDirectory(run.path).records()
    losses = [record["loss"] for record in records if record["event"] == "epoch"][-LAST_EPOCHS:]
    if len(losses) < 3:
        return None
    return float(np.std(np.diff(losses), ddof=1) / np.mean(losses))


def training_s(run: Run) -> float | None:
    """Seconds of training or fitting, of all processes that worked on a run; what was done twice counts once.

    None of runs of the first versions, which did not tell.
    """
    spent = run.results.get("time")
    return spent["step_s"] + spent["input_s"] if spent else None


def epoch_s(run: Run) -> float | None:
    """Those of an epoch; None of a model that has none."""
    epochs = [record["epoch"] for record in RunDirectory(run.path).records() if record["event"] == "epoch"]
    spent = training_s(run)
    return spent / max(epochs) if epochs and spent is not None else None


def peak_gib(run: Run) -> float | None:
    """The most memory that a process of a run had; None where not all of them told."""
    peak = run.results["peak_rss_bytes"]
    peak = RunDirectory(run.path).peak_bytes(peak) if peak else None
    return peak / GIB if peak else None


COSTS: dict[str, tuple[Callable[[Run], float | None], Callable[[float], str]]] = {
    "best epoch": (lambda run: run.results.get("best_epoch"), _count),
    "loss jitter": (loss_jitter, "{:.4f}".format),
    "training s": (training_s, _seconds),
    "s / epoch": (epoch_s, _seconds),
    "s / 1,000 users": (lambda run: run.results["timings"].get("eval_s_per_1000_users"), _seconds),
    "parameters": (lambda run: run.results["num_params"], _count),
    "peak GiB": (peak_gib, "{:.2f}".format),
}
"""What a run took, and how it is written; of each, less is better."""
LEAST = ("s / epoch", "s / 1,000 users", "peak GiB")
"""Of these the least of the seeds is told: the others had to share the machine, or to compile."""


@dataclass(frozen=True)
class Row:
    """The runs of one model or variant; each list has a number a seed."""

    label: str
    seeds: list[int | None]
    runs: list[str]
    data_sha256: str
    valid: dict[str, list[float]]
    test: dict[str, list[float]]
    beyond: dict[str, list[float]]
    """Coverage and the like of the test's lists."""
    costs: dict[str, list[float]]
    difference: list[float] | None
    """Mean, and ends of its interval, of the metric's difference over users; None of what others are compared with."""
    p_value: float | None
    """Of that, adjusted by Holm's method."""
    protocols: dict[str, float]
    """The metric of the first run by several protocols."""
    versions: list[str] = field(default_factory=list)
    """Packages that its runs were made with; empty, as are the next two, of figures from elsewhere."""
    devices: list[str] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    """Of its runs: what they do, on which data."""

    @property
    def num_seeds(self) -> int:
        """How many runs it is made of; 0 of figures from elsewhere."""
        return len(self.runs)

    def mean(self, metric: str) -> float:
        """A test metric averaged over seeds."""
        return statistics.mean(self.test[metric])


@dataclass(frozen=True)
class Measured:
    """Rows on the same data and users, best first."""

    metric: str
    against: str
    """Label of the row that the others are compared with."""
    versions: list[str]
    """Packages that the runs were made with."""
    devices: list[str]
    rows: list[Row]
    users: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, compare=False)
    """By label and metric: each user's test metric [U] averaged over seeds, float32, where it is known."""

    def row(self, label: str) -> Row:
        """The row of that label.

        Raises:
          KeyError: there is none.
        """
        return {row.label: row for row in self.rows}[label]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the users' metrics."""
        values = dataclasses.asdict(dataclasses.replace(self, users={}))
        del values["users"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measured":
        """The inverse of ``to_dict``."""
        parts: dict[str, Any] = values | {"rows": [Row(**row) for row in values["rows"]]}
        return cls(**parts)


def measure(compared: Comparison, metrics: Iterable[str] = ()) -> Measured:
    """The numbers of a comparison; users' metrics, those it compares and ``metrics``."""
    rows = [_row(compared, number) for number in range(len(compared.groups))]
    kept = dict.fromkeys([compared.metric, *metrics])
    users = {
        group.label: {metric: group.per_user(metric) for metric in kept if metric in group.runs[0].results["test"]}
        for group in compared.groups
    }
    return Measured(compared.metric, compared.groups[compared.against].label, *_made_with(rows), rows, users)


class NotComparableError(ValueError):
    """Rows cannot be compared over users; the message says why."""


def join(first: Measured, second: Measured, against: str) -> Measured:
    """All rows of both as one comparison with the row ``against``, or the best where it is in neither.

    Raises:
      NotComparableError: they are of different data, or users' metrics of a row are not known.
    """
    metric = first.metric
    rows = sorted([*first.rows, *second.rows], key=lambda row: -row.mean(metric))
    labels = [row.label for row in rows]
    users = {label: (first.users | second.users).get(label, {}) for label in labels}
    unknown = [label for label, own in users.items() if metric not in own]
    if len({row.data_sha256 for row in rows}) > 1:
        raise NotComparableError("the data are not those of before")
    if unknown:
        raise NotComparableError(f"users' metrics were not kept of {', '.join(unknown)}")
    place = labels.index(against) if against in labels else 0
    values = [(users[row.label][metric], row.test[metric]) for row in rows]
    differences, p_values = compare_with(values, place)
    compared = [
        dataclasses.replace(row, **_compared(differences[number], p_values[number])) for number, row in enumerate(rows)
    ]
    return Measured(metric, labels[place], *_made_with(rows), compared, users)


def _made_with(rows: list[Row]) -> tuple[list[str], list[str]]:
    """Versions and devices of all runs."""
    versions = {version for row in rows for version in row.versions}
    return sorted(versions), sorted({device for row in rows for device in row.devices})


def _compared(found: PairedComparison | None, p_value: float) -> dict[str, Any]:
    """Of a row: how it differs from the one that others are compared with."""
    if found is None:
        return {"difference": None, "p_value": None}
    return {"difference": [found.mean_difference, found.low, found.high], "p_value": p_value}


def beside(measured: Measured, published: Mapping[str, Mapping[str, float]]) -> Measured:
    """The comparison with rows of figures from elsewhere, which nothing is tested with: test metrics by label."""
    rows = [
        Row(label, [], [], "", {}, {name: [value] for name, value in test.items()}, {}, {}, None, None, {})
        for label, test in published.items()
    ]
    return dataclasses.replace(
        measured, rows=sorted([*measured.rows, *rows], key=lambda row: -row.mean(measured.metric))
    )


def _row(compared: Comparison, number: int) -> Row:
    group = compared.groups[number]
    first = group.runs[0]
    beyond = {name for run in group.runs for name in run.results.get("beyond_accuracy", {})}
    return Row(
        label=group.label,
        seeds=[run.results["seed"] for run in group.runs],
        runs=[str(run.path) for run in group.runs],
        data_sha256=first.data_sha256,
        valid=_of_all(group, "valid"),
        test=_of_all(group, "test"),
        beyond={
            name: group.values(lambda results, name=name: results.get("beyond_accuracy", {}).get(name))
            for name in sorted(beyond)
        },
        costs={name: _present(get(run) for run in group.runs) for name, (get, _) in COSTS.items()},
        protocols=by_protocol(first.path, first.results, first.per_user, compared.metric),
        versions=sorted(
            {f"{name} {version}" for run in group.runs for name, version in run.results.get("versions", {}).items()}
        ),
        devices=sorted({run.results.get("devices", "unknown") for run in group.runs}),
        **_compared(compared.differences[number], compared.p_values[number]),
    )


def _of_all(group: Group, split: str) -> dict[str, list[float]]:
    splits = [run.results.get(split, {}) for run in group.runs]
    return {name: [values[name] for values in splits] for name in splits[0] if all(name in own for own in splits)}


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
