"""One training step as a pure function of (state, batch), alone or as the per-device part of a parallel step."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.rows import row_keys
from diffrec_jax.training.state import TrainState
from diffrec_jax.typing import Array, Key, Params

ComputeDtype = Literal["float32", "bfloat16"]
MATMUL_PRECISION = {"float32": None, "bfloat16": "BF16_BF16_F32"}
OnNonfinite = Literal["abort", "skip"]


class StepReport(NamedTuple):
    """What a step says of itself; scalars."""

    loss: Array
    """float32: the batch's mean loss."""
    skipped: Array
    """bool: loss or gradients were not finite, and the state stayed as it was."""


TrainStep = Callable[[TrainState, RowBatch, Key], tuple[TrainState, StepReport]]
TrainSteps = Callable[[TrainState, tuple[RowBatch, ...], Key], tuple[TrainState, StepReport]]
"""Of several batches of one shape; every field of the report has a leading axis of steps."""


def make_train_step(
    recommender: Recommender,
    optimizer: optax.GradientTransformation,
    *,
    steps_per_epoch: int,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
    compute_dtype: ComputeDtype = "float32",
    axis_name: str | None = None,
    on_nonfinite: OnNonfinite = "abort",
    true_shapes: Callable[[tuple[Params, Any]], tuple[Params, Any]] = lambda kept: kept,
) -> TrainStep:
    """A step of (state, batch, the run's key): the mean loss of the real rows of all devices, one optimizer update.

    Every draw comes from the run's key, the step and the user's id, so it does not depend on the number of devices, and
    a resumed run repeats it. The key is an argument, so that runs of other seeds find the step compiled.

    Args:
      recommender: gives the per-example losses.
      optimizer: an optax transformation over the parameters.
      steps_per_epoch: after so many steps a new epoch begins, and the running sum of losses starts anew.
      ema_decay: of the averaged parameters, where the state keeps them.
      accumulate_steps: parts of the batch, its fields' leading axis where there are several, that are gone through one
        after the other.
      compute_dtype: what the factors of products are rounded to; sums, parameters and losses stay float32. bfloat16
        is for GPU and TPU: a CPU takes no notice.
      axis_name: of the mapped device axis, None on a single device.
      on_nonfinite: skip leaves the state as it was, but for the step's number, where the loss or a gradient is not
        finite; abort goes on, for the caller to see the loss and end.
      true_shapes: (parameters, model state) in the shapes that the recommender made them in, of those that the state
        keeps.
    """

    def total(values: Array) -> Array:
        return values if axis_name is None else jax.lax.psum(values, axis_name)

    def whole_batch(values: Array) -> Array:
        return values if axis_name is None else jax.lax.all_gather(values, axis_name, tiled=True)

    def train_step(state: TrainState, batch: RowBatch, key: Key) -> tuple[TrainState, StepReport]:
        # Behind a barrier, or XLA compiles its way from the run's key into every draw of the step.
        step_key = jax.lax.optimization_barrier(jax.random.fold_in(key, state.step))
        context = StepContext(step=state.step, epoch=state.step // steps_per_epoch, key=step_key)
        num_rows = total(batch.row_mask.sum().astype(jnp.float32))

        def gradients_of(part: RowBatch):
            def mean_loss(params):
                given = *true_shapes((params, state.model_state)), part, row_keys(step_key, part), context
                losses, info = recommender.loss_fn(*given)
                return jnp.sum(jnp.where(part.row_mask, losses, 0.0)) / num_rows, info

            with jax.default_matmul_precision(MATMUL_PRECISION[compute_dtype]):
                (loss, info), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
            return (gradients, loss), info

        (gradients, loss), info = _over_parts(gradients_of, batch, (state.params, state.loss_sum), accumulate_steps)
        # The shares of all devices add up to the gradient of the average over the global batch.
        gradients, loss = jax.tree.map(total, (gradients, loss))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged_params = state.averaged_params
        if ema_decay:
            averaged_params = jax.tree.map(
                lambda average, new: average + (1.0 - ema_decay) * (new - average), averaged_params, params
            )
        _, model_state = true_shapes((state.params, state.model_state))
        starts_epoch = state.step % steps_per_epoch == 0
        new = state._replace(
            params=params,
            opt_state=opt_state,
            model_state=recommender.update_model_state(
                model_state, jax.tree.map(whole_batch, info), whole_batch(batch.row_mask.reshape(-1))
            ),
            loss_sum=loss,
            averaged_params=averaged_params,
        )
        skipped = jnp.zeros((), jnp.bool_)
        if on_nonfinite == "skip":
            # Squares too: a gradient that is finite may fill the optimizer with what is not.
            skipped = ~jnp.isfinite(loss + sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)))
            kept = state._replace(model_state=model_state, loss_sum=jnp.zeros_like(loss))
            new = jax.tree.map(lambda made, before: jnp.where(skipped, before, made), new, kept)
        new = new._replace(step=state.step + 1, loss_sum=jnp.where(starts_epoch, 0.0, state.loss_sum) + new.loss_sum)
        return new, StepReport(loss, skipped)

    return train_step


def in_turn(train_step: TrainStep) -> TrainSteps:
    """The steps of some batches, one after the other, as one program: the device does not wait for the host between."""

    def train_steps(state: TrainState, batches: tuple[RowBatch, ...], key: Key) -> tuple[TrainState, StepReport]:
        if len(batches) == 1:
            state, report = train_step(state, batches[0], key)
            return state, jax.tree.map(lambda value: value[None], report)
        stacked = jax.tree.map(lambda *fields: jnp.stack(fields), *batches)
        return jax.lax.scan(lambda state, batch: train_step(state, batch, key), state, stacked)

    return train_steps


def _over_parts(
    gradients_of: Callable[[RowBatch], tuple[Any, Any]], batch: RowBatch, like: Any, num_parts: int
) -> tuple[Any, Any]:
    """The sum over the parts of a batch of what has the structure of ``like``, and the info of all rows."""
    if num_parts == 1:
        return gradients_of(batch)

    def add(sums: Any, part: RowBatch) -> tuple[Any, Any]:
        own, info = gradients_of(part)
        return jax.tree.map(jnp.add, sums, own), info

    sums, info = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), batch)
    return sums, jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:]), info)
