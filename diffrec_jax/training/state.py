"""Everything a run needs to go on, in one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.recommenders.base import Recommender
from diffrec_jax.training.selection import NOTHING_SELECTED, Selection
from diffrec_jax.typing import Array, Key, Params


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
