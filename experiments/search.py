"""Which values of flags a sweep tries: every combination of a grid, or as many as are paid for, chosen by Optuna."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffrec_jax.config import ConfigError

Combination = dict[str, str]
"""A value for each flag, as on the command line."""

RANDOM_TRIALS = 8
"""Trials drawn at random before the others are chosen by what was found."""
LOG_RATIO = 10
"""A range is searched by its logarithm if its ends are so far apart."""


@dataclass(frozen=True)
class Choices:
    """``NAME=VALUE|VALUE``: each of these values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """``NAME=LOW..HIGH``: anything between; whole numbers if both ends are."""

    name: str
    low: float
    high: float
    is_whole: bool

    @property
    def is_logarithmic(self) -> bool:
        """Whether its ends are far apart."""
        return self.low > 0 and self.high >= LOG_RATIO * self.low

    def written(self, value: float) -> str:
        """A value with three digits, or as many as tell thirty values or more of the range apart; never outside."""
        per_step = 100 * max(abs(self.low), abs(self.high)) / (self.high - self.low)
        text = f"{value:.{max(3, 1 + round(math.log10(per_step)))}g}"
        inside = min(max(float(text), self.low), self.high)
        return text if inside == float(text) else repr(inside)


Axis = Choices | Range


def parse_axis(entry: str) -> Axis:
    """``lr=1e-4|1e-3``, ``lr=1e-4..1e-2`` or ``num_layers=1..3``.

    Raises:
      ConfigError: it is none of these.
    """
    name, separator, values = entry.partition("=")
    low, is_range, high = values.partition("..")
    if name and is_range:
        for kind in (int, float):
            try:
                axis = Range(name, kind(low), kind(high), is_whole=kind is int)
            except ValueError:
                continue
            if axis.low < axis.high < float("inf"):
                return axis
    elif name and separator and all(values.split("|")):
        return Choices(name, tuple(values.split("|")))
    raise ConfigError(
        f"--grid={entry!r} is not understood: write --grid='flag=value|value' or, with --trials, 'flag=low..high'"
    )


def parse_axes(entries: Sequence[str]) -> list[Axis]:
    """The axes of a sweep.

    Raises:
      ConfigError: one is not understood, or a flag has two.
    """
    axes = [parse_axis(entry) for entry in entries]
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--grid has {name} twice: give all of its values at once")
    return axes


def grid(axes: Sequence[Axis]) -> list[Combination]:
    """Every combination.

    Raises:
      ConfigError: an axis is a range.
    """
    pairs = []
    for axis in axes:
        if isinstance(axis, Range):
            raise ConfigError(
                f"--grid={axis.name} is a range: say with --trials how many values are tried, or list them"
            )
        pairs.append([(axis.name, value) for value in axis.values])
    return [dict(combination) for combination in itertools.product(*pairs)]


def search(axes: Sequence[Axis], num_trials: int, measure: Callable[[Combination], float | None]) -> list[Combination]:
    """The combinations tried, in order: the first at random, then where Optuna's TPE expects most.

    The same axes and measurements give the same combinations, so an interrupted search goes on where it was, and one
    with more trials begins with those of one with fewer.

    Args:
      axes: what is searched.
      num_trials: how many combinations are measured, at most: one that comes up again counts as well.
      measure: of a combination, the more the better; None: it failed.

    Raises:
      ConfigError: Optuna is missing, or there is nothing to search.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--trials needs Optuna: pip install 'diffrec-jax[tune]'") from error
    if not axes:
        raise ConfigError("--trials has nothing to search: give --grid='flag=low..high' or --grid='flag=value|value'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def suggested(trial: optuna.Trial, axis: Axis) -> str:
        if isinstance(axis, Choices):
            return trial.suggest_categorical(axis.name, axis.values)
        if axis.is_whole:
            return str(trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.is_logarithmic))
        return axis.written(trial.suggest_float(axis.name, axis.low, axis.high, log=axis.is_logarithmic))

    tried: list[Combination] = []
    for _ in range(num_trials):
        trial = study.ask()
        combination = {axis.name: suggested(trial, axis) for axis in axes}
        value = measure(combination)
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        if combination not in tried:
            tried.append(combination)
    return tried
