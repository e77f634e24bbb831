"""Finished runs compared on the same data and users: one model against others, averaged over seeds, with significance.

Everything is read from run directories. A metric that a run did not measure is measured again from its model.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax import api
from diffrec_jax.assembly import HOW, how_measured, per_user_path
from diffrec_jax.config import ConfigError, RunConfig
from diffrec_jax.evaluation import (
    METRICS,
    RATING_METRICS,
    PairedComparison,
    RatingErrors,
    compare_users,
    holm,
    parse_metric,
)
from diffrec_jax.files import UNREADABLE
from diffrec_jax.registry import MODELS
from diffrec_jax.training.run_directory import CONFIG_DIGEST, RunDirectory, differences


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
        """Each user's test metric, averaged over seeds, float32: of the users that its mean is over.

        Those are all, in mode ``relevant_users`` those with relevant items, and of errors those who gave ratings.
        """
        values = np.stack([_of_users(run, metric) for run in self.runs])
        return values.mean(axis=0, dtype=np.float64).astype(np.float32)


def _of_users(run: Run, metric: str) -> np.ndarray:
    per_user = run.per_user
    if metric not in RATING_METRICS:
        return per_user[metric][_are_averaged(per_user, run.results["mode"])]
    sums = RatingErrors(*(per_user[name][per_user["num_ratings"] > 0] for name in RatingErrors._fields))
    return sums.of_users()[metric]


def _are_averaged(per_user: dict[str, np.ndarray], mode: str) -> np.ndarray:
    """Which users a mean over users counts, [U] bool."""
    return per_user["num_relevant"] > (-1 if mode == "official" else 0)


def load_run(path: Path) -> Run:
    """Reads a run directory.

    Raises:
      ConfigError: the run is not finished, or its users' metrics were not kept, or are not those of its results.
      RunDirectoryError: it is no run directory.
    """
    directory = RunDirectory(path)
    stored, results = directory.config(), directory.results()
    if results is None:
        raise ConfigError(f"{path} is not finished: diffrec train --run_dir={path} --resume")
    config, remedy = RunConfig.from_dict(stored), f"diffrec evaluate --run_dir={path} --per_user makes it"
    how = how_measured(config, results[CONFIG_DIGEST])
    file = per_user_path(path, "test", how, how)
    if not file.exists():
        raise ConfigError(f"{file} does not exist: {remedy}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            per_user = dict(archive)
    except UNREADABLE as error:
        raise ConfigError(f"{file} cannot be read ({error}): {remedy}") from None
    check_belongs(per_user, how, results, f"{file} is not of the results beside it: {remedy}")
    return Run(path, config, results, stored["data_sha256"], per_user)


def check_belongs(per_user: dict[str, np.ndarray], how: dict[str, Any], results: dict[str, Any], message: str) -> None:
    """Raises ConfigError unless users' metrics were measured as ``how`` says and have the results' means."""
    found = json.loads(str(per_user.pop(HOW, "{}")))
    if found != how:
        raise ConfigError(f"{message} ({differences(how, found)})")
    chosen = _are_averaged(per_user, results["mode"])
    for metric, expected in results["test"].items():
        if metric in RATING_METRICS:
            mean = RatingErrors(*(per_user[name] for name in RatingErrors._fields)).mean()[metric]
        else:
            mean = float(np.mean(per_user[metric][chosen], dtype=np.float64))
        if not np.isclose(mean, expected, rtol=1e-5, atol=1e-7):
            raise ConfigError(f"{message} ({metric} is {mean:.6f} there and {expected:.6f} in results.json)")


def check_comparable(runs: list[Run], metrics: tuple[str, ...]) -> None:
    """Raises ConfigError unless all runs were measured on the same data and users, in the same way, for the metrics."""
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


def check_metric(metric: str) -> None:
    """Raises ConfigError unless this is a metric at some K."""
    k = metric.partition("@")[2]
    try:
        parse_metric(metric, (int(k),) if k.isdigit() and int(k) else (20,))
    except ValueError as error:
        raise ConfigError(
            f"metric {metric!r} is unknown: choose {', '.join(METRICS)} at any K, such as recall@20"
        ) from error


def with_metric(run: Run, metric: str) -> Run:
    """The run with a metric at any K; what it did not measure itself is measured from its selected model.

    Raises:
      ConfigError: there is no such metric, or the run's data are not where they were.
    """
    check_metric(metric)
    if metric in run.per_user:
        return run
    model, evaluation = api.load_run(run.path), run.config.evaluation
    found = api.evaluate(
        model,
        model.dataset,
        ks=(int(metric.partition("@")[2]),),
        mode=evaluation.mode,
        test_with_valid_input=evaluation.test_with_valid_input,
    ).splits["test"]
    numbers = model.numbers["user"]
    values = found.per_user[metric][[numbers[user] for user in run.per_user["user_ids"].tolist()]]
    chosen = run.per_user["num_relevant"] > (-1 if evaluation.mode == "official" else 0)
    test = run.results["test"] | {metric: float(np.mean(values[chosen], dtype=np.float64))}
    return dataclasses.replace(run, per_user=run.per_user | {metric: values}, results=run.results | {"test": test})


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
    labels = _labels(titles, [members[0].path for members in by_setting.values()])
    groups = []
    for label, members in zip(labels, by_setting.values(), strict=True):
        seeds = [run.results["seed"] for run in members]
        for place, seed in enumerate(seeds):
            if seed in seeds[:place]:
                twice = f"{members[seeds.index(seed)].path} and {members[place].path}"
                raise ConfigError(f"{twice} are the same model with the same seed")
        groups.append(Group(label, members))
    return groups


def _labels(titles: list[str], paths: list[Path]) -> list[str]:
    """Each title; where two are equal, with the shortest ends of their paths that tell all apart."""
    shared = [titles.count(title) > 1 for title in titles]
    ends = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, ends)) + 1):
        labels = [
            f"{title} ({'/'.join(end[-length:])})" if is_shared else title
            for title, end, is_shared in zip(titles, ends, shared, strict=True)
        ]
        if len(set(labels)) == len(labels):
            break
    return labels


def _seedless(config: RunConfig) -> str:
    """Everything else that decides what a run does, as text."""
    values = [dict(vars(part)) for part in (config.recommender, config.training, config.groups) if part is not None]
    for part in values[:2]:
        part.pop("seed", None)
    return repr((values, config.matmul_precision))


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, best first, and how each differs from one of them."""

    groups: list[Group]
    metric: str
    against: int
    """Place of the group that the others are compared with."""
    differences: list[PairedComparison | None]
    """Of each group, None of the one that it is."""
    p_values: list[float]
    """Adjusted by Holm's method."""


def compare_runs(runs: list[Run], metric: str, against: str | None = None) -> Comparison:
    """Compares models over seeds and users by a test metric at any K.

    Args:
      runs: of ``load_run``, on the same data and users.
      metric: such as recall@20.
      against: label of the model that the others are compared with; the best by default.

    Raises:
      ConfigError: the runs cannot be compared, or no model has that label.
    """
    return compare_groups(group_runs([with_metric(run, metric) for run in runs]), metric, against)


def compare_groups(groups: list[Group], metric: str, against: str | None = None) -> Comparison:
    """``compare_runs`` of runs that are grouped already, and were measured by the metric.

    Raises:
      ConfigError: the runs cannot be compared, or no group has that label.
    """
    check_comparable([run for group in groups for run in group.runs], (metric,))
    groups = sorted(groups, key=lambda group: -group.mean(metric))
    labels = [group.label for group in groups]
    if against and against not in labels:
        raise ConfigError(f"against {against!r}: not compared; choose one of {', '.join(labels)}")
    place = labels.index(against) if against else 0
    values = [(group.per_user(metric), group.values(lambda results: results["test"][metric])) for group in groups]
    return Comparison(groups, metric, place, *compare_with(values, place))


def compare_with(
    values: list[tuple[np.ndarray, list[float]]], place: int
) -> tuple[list[PairedComparison | None], list[float]]:
    """Compares models with the one at a place of the list, each by its users' metrics [U] and its runs' means.

    Returns:
      Of each its difference, None of the one at the place; and its p-value, adjusted by Holm's method, there 1.
    """
    others, their_seeds = values[place]
    found = [
        None if row == place else compare_users(own, others, seeds, their_seeds)
        for row, (own, seeds) in enumerate(values)
    ]
    adjusted = iter(holm([own.p_value for own in found if own]))
    return found, [1.0 if own is None else next(adjusted) for own in found]
