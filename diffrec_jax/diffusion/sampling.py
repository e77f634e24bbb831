"""Inference: some steps of forward noise, then the whole reverse chain."""

import jax
import jax.numpy as jnp

from diffrec_jax.diffusion.forward import p_sample, predict_x0, q_sample
from diffrec_jax.diffusion.process import PSample, QSample
from diffrec_jax.diffusion.schedules import NoiseSchedule
from diffrec_jax.typing import Array, DenoiseFn, Key, NoiseFn


def gaussian_noise_fn(key: Key, shape: tuple[int, ...]) -> NoiseFn:
    """Independent standard normal noise for every timestep, derived from one key."""
    return lambda t: jax.random.normal(jax.random.fold_in(key, t), shape)


def x0_denoise_fn(schedule: NoiseSchedule, epsilon_fn: DenoiseFn) -> DenoiseFn:
    """Turns a network that predicts the noise into a DenoiseFn, which predicts x_0."""
    return lambda x_t, t: predict_x0(schedule, x_t, t, epsilon_fn(x_t, t))


def noise_for_inference(
    schedule: NoiseSchedule, x_0: Array, num_noise_steps: int, noise_fn: NoiseFn, *, q_sample: QSample = q_sample
) -> Array:
    """x_T at the start of the reverse chain: x_0 after T' steps of forward noise, or x_0 itself when T' = 0.

    ``noise_fn`` is called with T, one past the last timestep, so that it shares no draw with the reverse chain.

    Raises:
      ValueError: T' is not between 0 and T.

    Reference: arXiv:2304.04971, section 3.3.
    """
    num_timesteps = schedule.num_timesteps
    if not 0 <= num_noise_steps <= num_timesteps:
        raise ValueError(f"T' (inference noise steps) must be between 0 and T = {num_timesteps}, got {num_noise_steps}")
    if num_noise_steps == 0:
        return x_0
    t = jnp.full(x_0.shape[0], num_noise_steps - 1, jnp.int32)
    return q_sample(schedule, x_0, t, noise_fn(jnp.int32(num_timesteps)))


def p_sample_loop(
    schedule: NoiseSchedule,
    denoise_fn: DenoiseFn,
    x_T: Array,
    *,
    noise_fn: NoiseFn | None = None,
    p_sample: PSample = p_sample,
    final_denoise_fn: DenoiseFn | None = None,
) -> Array:
    """All T reverse steps from x_T [B, D] as one ``lax.scan``: call it inside ``jax.jit``.

    Each step takes the posterior mean of q(x_{t-1} | x_t, x_0_hat); with ``noise_fn`` (called with the timestep, for
    t > 0) it also adds noise of the posterior variance. That is ``p_sample``; another ``Process`` has its own. The
    posterior mean of the last step is the prediction itself, so that step returns ``final_denoise_fn(x, 0)``, by
    default ``denoise_fn``'s: a chain that runs in another space (``diffrec_jax.models.folding``) decodes there.

    Returns:
      x_0 [B, D], or whatever ``final_denoise_fn`` returns.

    Raises:
      TypeError: x_T is not floating point.

    Example::

      scores = jax.jit(lambda x: p_sample_loop(schedule, denoise_fn, x))(x_T)

    Reference: arXiv:2304.04971, algorithm 2.
    """
    if not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise TypeError(f"x_T must be floating point, got {x_T.dtype}: convert the rows with astype(float32)")
    batch_size = x_T.shape[0]

    def step(x_t: Array, t: Array) -> tuple[Array, None]:
        timesteps = jnp.full(batch_size, t, jnp.int32)
        x_0_hat = denoise_fn(x_t, timesteps)
        return p_sample(schedule, x_0_hat, x_t, timesteps, None if noise_fn is None else noise_fn(t)), None

    x_1, _ = jax.lax.scan(step, x_T, jnp.arange(schedule.num_timesteps - 1, 0, -1, dtype=jnp.int32))
    return (final_denoise_fn or denoise_fn)(x_1, jnp.zeros(batch_size, jnp.int32))
