"""The forward process and what follows from it in closed form. x is [B, D], t is [B] or a scalar, int32, 0-based."""

import jax.numpy as jnp

from diffrec_jax.diffusion.schedules import NoiseSchedule
from diffrec_jax.typing import Array


def at_timestep(table: Array, t: Array) -> Array:
    """Entries of a [T] table at t: [B, 1] for t of shape [B], a scalar for a scalar t, ready to multiply [B, D]."""
    values = jnp.asarray(table)[t]
    return values[:, None] if values.ndim else values


def q_sample(schedule: NoiseSchedule, x_0: Array, t: Array, noise: Array) -> Array:
    """x_t ~ q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), given standard normal ``noise`` of x_0's shape.

    Raises:
      ValueError: noise and x_0 differ in shape.

    Reference: arXiv:2304.04971, eq. 2.
    """
    if noise.shape != x_0.shape:
        raise ValueError(f"noise has shape {noise.shape}, x_0 has {x_0.shape}: they must be equal")
    return at_timestep(schedule.sqrt_alphas_cumprod, t) * x_0 + at_timestep(schedule.sqrt_variances, t) * noise


def q_posterior(schedule: NoiseSchedule, x_0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """Mean [B, D] and variance [B, 1] of q(x_{t-1} | x_t, x_0); at t = 0 they are x_0 and 0.

    Reference: arXiv:2304.04971, eq. 7 and 8.
    """
    mean = at_timestep(schedule.posterior_coef_x0, t) * x_0 + at_timestep(schedule.posterior_coef_xt, t) * x_t
    return mean, at_timestep(schedule.posterior_variances, t)


def p_sample(schedule: NoiseSchedule, x_0_hat: Array, x_t: Array, t: Array, noise: Array | None) -> Array:
    """A reverse step: the mean of q(x_{t-1} | x_t, x_0_hat), and noise of its variance where ``noise`` is given."""
    mean, variance = q_posterior(schedule, x_0_hat, x_t, t)
    return mean if noise is None else mean + jnp.sqrt(variance) * noise


def predict_x0(schedule: NoiseSchedule, x_t: Array, t: Array, epsilon: Array) -> Array:
    """The x_0 that ``q_sample`` turned into x_t with noise epsilon.

    Reference: arXiv:2006.11239, eq. 15.
    """
    noise = at_timestep(schedule.sqrt_variances, t) * epsilon
    return (x_t - noise) / at_timestep(schedule.sqrt_alphas_cumprod, t)


def predict_epsilon(schedule: NoiseSchedule, x_t: Array, t: Array, x_0: Array) -> Array:
    """The noise with which ``q_sample`` turned x_0 into x_t; inverse of ``predict_x0``."""
    signal = at_timestep(schedule.sqrt_alphas_cumprod, t) * x_0
    return (x_t - signal) / at_timestep(schedule.sqrt_variances, t)
