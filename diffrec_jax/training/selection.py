"""Which evaluation of a run is the best, and when no better one is waited for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Selection(NamedTuple):
    """The best evaluation so far; scalars."""

    best_value: Any
    """float32, -inf before the first evaluation."""
    best_step: Any
    """int32, training steps done at that time."""
    best_epoch: Any
    """float32, the same in epochs."""


NOTHING_SELECTED = Selection(np.float32(-np.inf), np.int32(0), np.float32(0))


def best_of(selection: Selection, last_selection: Selection) -> Selection:
    """The better of a state's two selections, on the host; of equal ones the earlier."""
    return last_selection if last_selection.best_value > selection.best_value else selection


def select(selection: Selection, value: float, step: int, epoch: float) -> Selection:
    """The selection after an evaluation: ``value`` becomes the best if it is finite and larger."""
    if np.isfinite(value) and np.float32(value) > np.float32(selection.best_value):
        return Selection(np.float32(value), np.int32(step), np.float32(epoch))
    return selection


def comes_back_from_a_dip(values: Sequence[float]) -> bool:
    """Whether evaluations, the larger the better, fell by over a tenth after the best and regained a fifth of the fall.

    Such a run may find a better state yet: the first epochs teach a network what is popular, and some lose that before
    they have learnt more.
    """
    if len(values) < 2:
        return False
    best = int(np.argmax(values))
    low = min(values[best:])
    fall, regained = values[best] - low, values[-1] - low
    return fall > 0.1 * abs(values[best]) and regained > 0.2 * fall


def describe_early_stop(epoch: float, patience: int, metric: str, values: Sequence[float]) -> str:
    """What is said when a run ends for want of a better evaluation; ``values``: all so far, the larger the better."""
    text = f"stopped after epoch {epoch:g}: no new best for {patience} epochs (--patience={patience})"
    if not comes_back_from_a_dip(values):
        return text
    return f"{text}; but {metric} fell far below its best and was coming back: more --patience may find a better epoch"
