"""One training step as a pure function of (state, batch), alone or as the per-device part of a parallel step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.recommenders.base import Clock, Recommender
from diffrec_jax.rows import row_keys
from diffrec_jax.training.state import TrainState
from diffrec_jax.typing import Array, Key

TrainStep = Callable[[TrainState, RowBatch], TrainState]


def make_train_step(
    recommender: Recommender,
    optimizer: optax.GradientTransformation,
    make_key: Callable[[], Key],
    *,
    steps_per_epoch: int,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> TrainStep:
    """A step that averages the losses of the batch's real rows over all devices and applies one optimizer update.

    Every draw comes from the seed, the step and the user's id, so it does not depend on the number of devices, and a
    resumed run repeats it.

    Args:
      recommender: gives the per-example losses.
      optimizer: an optax transformation over the parameters.
      make_key: returns the run's key; called on trace.
      steps_per_epoch: after so many steps a new epoch begins, and the running sum of losses starts anew.
      ema_decay: of the averaged parameters, where the state keeps them.
      axis_name: of the mapped device axis, None on a single device.
    """

    def total(values: Array) -> Array:
        return values if axis_name is None else jax.lax.psum(values, axis_name)

    def whole_batch(values: Array) -> Array:
        return values if axis_name is None else jax.lax.all_gather(values, axis_name, tiled=True)

    def train_step(state: TrainState, batch: RowBatch) -> TrainState:
        keys = row_keys(jax.random.fold_in(make_key(), state.step), batch)
        clock = Clock(step=state.step, epoch=state.step // steps_per_epoch)
        num_rows = total(batch.row_mask.sum().astype(jnp.float32))

        def mean_loss(params):
            losses, info = recommender.loss_fn(params, state.model_state, batch, keys, clock)
            return jnp.sum(jnp.where(batch.row_mask, losses, 0.0)) / num_rows, info

        (loss, info), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        # The shares of all devices add up to the gradient of the average over the global batch.
        gradients, loss = jax.tree.map(total, (gradients, loss))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged_params = state.averaged_params
        if ema_decay:
            averaged_params = jax.tree.map(
                lambda average, new: average + (1.0 - ema_decay) * (new - average), averaged_params, params
            )
        starts_epoch = state.step % steps_per_epoch == 0
        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            model_state=recommender.update_model_state(
                state.model_state, jax.tree.map(whole_batch, info), whole_batch(batch.row_mask)
            ),
            loss_sum=jnp.where(starts_epoch, 0.0, state.loss_sum) + loss,
            selection=state.selection,
            averaged_params=averaged_params,
        )

    return train_step
