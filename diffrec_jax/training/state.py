"""Everything a run needs to go on, in one pytree."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffrec_jax.recommenders.base import Recommender
from diffrec_jax.typing import Array, Key, Params


class Selection(NamedTuple):
    """The best evaluation so far; scalars."""

    best_value: Any
    """float32, -inf before the first evaluation."""
    best_step: Any
    """int32, training steps done at that time."""
    best_epoch: Any
    """float32, the same in epochs."""


NOTHING_SELECTED = Selection(np.float32(-np.inf), np.int32(0), np.float32(0))


class TrainState(NamedTuple):
    """Parameters, optimizer, counters, loss history and model selection."""

    step: Array
    """int32 scalar: training steps done."""
    params: Params
    opt_state: Any
    model_state: Any
    """What the recommender keeps, such as its LossHistory."""
    loss_sum: Array
    """float32 scalar: sum of the losses of the epoch's steps so far."""
    selection: Selection
    """Of the evaluations every so many epochs."""
    last_selection: Selection
    """Of the evaluation at the end of a run, where that comes between those; forgotten when the run goes on."""
    averaged_params: Params
    """Exponential moving average of the parameters; an empty tuple where none is kept."""

    @property
    def scoring_params(self) -> Params:
        """What is evaluated: the averaged parameters where they are kept, else the parameters."""
        return self.averaged_params if self.keeps_average else self.params

    @property
    def keeps_average(self) -> bool:
        """Whether averaged parameters are kept; parameters may be any pytree with leaves, a tuple too."""
        return bool(jax.tree.leaves(self.averaged_params))


def init_train_state(
    recommender: Recommender, optimizer: optax.GradientTransformation, key: Key, *, keep_average: bool = False
) -> TrainState:
    """The state before the first step; ``keep_average`` for runs that average their parameters."""
    params = recommender.init_params(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state=recommender.init_model_state(),
        loss_sum=jnp.zeros((), jnp.float32),
        selection=jax.tree.map(jnp.asarray, NOTHING_SELECTED),
        last_selection=jax.tree.map(jnp.asarray, NOTHING_SELECTED),
        averaged_params=jax.tree.map(jnp.copy, params) if keep_average else (),
    )


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
