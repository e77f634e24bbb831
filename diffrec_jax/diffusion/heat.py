"""A diffusion without noise: rows are smoothed over a graph of the items, and sharpened again. Time is 0 to T.

Reference: arXiv:2311.08744, section 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array, DenoiseFn

SmoothFn = Callable[[Array], Array]
"""Rows [B, I] -> the rows smoothed, A x: linear, with no eigenvalue of A above 1."""


def smoothed(x: Array, smooth_x: Array, t: Array, *, num_timesteps: int, strength: float) -> Array:
    """z_t = x + strength t / T (A x - x), the forward process, for x and A x [B, I] and t [B] or a scalar."""
    share = strength * jnp.asarray(t, jnp.float32) / num_timesteps
    return x + (share[:, None] if share.ndim else share) * (smooth_x - x)


def sharpen_loop(
    denoise_fn: DenoiseFn, smooth_fn: SmoothFn, x: Array, *, num_timesteps: int, strength: float, residual_decay: float
) -> Array:
    """Smooths rows x [B, I] to z_T, and goes back through all T steps as one ``lax.scan``.

    A step from t to s predicts x_hat, and takes z_s of x_hat plus ``residual_decay`` times what z_t holds beside z_t of
    x_hat. ``denoise_fn`` is called with t from T down to 1.

    Returns:
      z_0 [B, I].
    """

    def at(row: Array, smooth_row: Array, t: Array) -> Array:
        return smoothed(row, smooth_row, t, num_timesteps=num_timesteps, strength=strength)

    def step(z_t: Array, t: Array) -> tuple[Array, None]:
        x_hat = denoise_fn(z_t, jnp.full(x.shape[0], t, jnp.int32))
        smooth_x_hat = smooth_fn(x_hat)
        return at(x_hat, smooth_x_hat, t - 1) + residual_decay * (z_t - at(x_hat, smooth_x_hat, t)), None

    z_T = at(x, smooth_fn(x), jnp.int32(num_timesteps))
    return jax.lax.scan(step, z_T, jnp.arange(num_timesteps, 0, -1, dtype=jnp.int32))[0]
