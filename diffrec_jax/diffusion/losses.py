"""Per-example losses of the diffusion, [B]; the caller reduces (and masks, and weights by importance)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from diffrec_jax.diffusion.forward import predict_x0
from diffrec_jax.diffusion.schedules import NoiseSchedule
from diffrec_jax.typing import Array

PredictionType = Literal["x0", "epsilon"]
ErrorFn = Callable[[Array, Array, Array | None], Array]
"""(prediction, target, weights or None), each [B, I] -> the mean error of each row, [B]."""


def _mean(errors: Array, weights: Array | None) -> Array:
    return jnp.mean(errors if weights is None else weights * errors, axis=-1)


def _check_shapes(prediction: Array, target: Array) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction and target differ in shape: {prediction.shape} and {target.shape}")


def mean_squared_error(prediction: Array, target: Array, weights: Array | None = None) -> Array:
    """Mean over items of (prediction - target)^2, [B], each weighed where there are weights."""
    _check_shapes(prediction, target)
    return _mean(jnp.square(prediction - target), weights)


def mean_cross_entropy(logits: Array, target: Array, weights: Array | None = None) -> Array:
    """Mean over items of -target log p - (1 - target) log(1 - p) with p = sigmoid(logits), [B]."""
    _check_shapes(logits, target)
    return _mean(jax.nn.softplus(logits) - target * logits, weights)


def x0_loss(
    schedule: NoiseSchedule,
    x_0: Array,
    x_0_hat: Array,
    t: Array,
    *,
    reweight: bool = True,
    item_weights: Array | None = None,
    error_fn: ErrorFn = mean_squared_error,
) -> Array:
    """w_t * mean over items of (x_0_hat - x_0)^2, [B], with w_t = SNR(t-1) - SNR(t), 1 at t = 0 or without reweight.

    ``item_weights`` [B, I] weigh the squares; the mean stays one over all items. The factor 1/2 of the paper is left
    out, as in its released code. ``error_fn`` may put ``mean_cross_entropy`` of logits in place of the squared error.

    Reference: arXiv:2304.04971, eq. 10 and 12.
    """
    return x0_loss_of_error(schedule, error_fn(x_0_hat, x_0, item_weights), t, reweight=reweight)


def x0_loss_of_error(schedule: NoiseSchedule, error: Array, t: Array, *, reweight: bool = True) -> Array:
    """``x0_loss`` from the mean squared error of each row, [B], for who computes that otherwise."""
    return jnp.asarray(schedule.x0_loss_weights)[t] * error if reweight else error


def epsilon_loss(
    schedule: NoiseSchedule,
    x_0: Array,
    x_t: Array,
    noise: Array,
    epsilon_hat: Array,
    t: Array,
    *,
    reweight: bool = True,
) -> Array:
    """Loss of a noise prediction, [B].

    With reweight: (1-abar_t) / ((1-abar_{t-1})^2 (1-beta_t)) times the mean squared error of the noise, and at t = 0
    the Gaussian likelihood of x_0, mean (x_0 - x_0_hat)^2 / 2. Without: the plain mean squared error.

    Reference: arXiv:2304.04971, eq. 11; arXiv:2006.11239, eq. 12.
    """
    error = mean_squared_error(epsilon_hat, noise)
    if not reweight:
        return error
    likelihood = mean_squared_error(predict_x0(schedule, x_t, t, epsilon_hat), x_0) / 2
    return jnp.where(t == 0, likelihood, jnp.asarray(schedule.epsilon_loss_weights)[t] * error)


def diffusion_loss(
    schedule: NoiseSchedule,
    prediction: Array,
    x_0: Array,
    x_t: Array,
    noise: Array,
    t: Array,
    *,
    prediction_type: PredictionType = "x0",
    reweight: bool = True,
    item_weights: Array | None = None,
    error_fn: ErrorFn = mean_squared_error,
) -> Array:
    """``x0_loss`` or ``epsilon_loss`` of a network's output, [B].

    Raises:
      ValueError: an unknown prediction type, shapes that differ, or item weights of a noise prediction.
    """
    if prediction_type == "x0":
        return x0_loss(schedule, x_0, prediction, t, reweight=reweight, item_weights=item_weights, error_fn=error_fn)
    if item_weights is not None:
        raise ValueError("item_weights need x_0 prediction: the noise does not tell of them")
    if prediction_type == "epsilon":
        return epsilon_loss(schedule, x_0, x_t, noise, prediction, t, reweight=reweight)
    raise ValueError(f"prediction_type {prediction_type!r} is unknown: choose x0 or epsilon")
