"""A discrete flow from what anyone may have done to what a user did. Time is 0 to 1: 0 the prior, 1 the row.

Reference: arXiv:2502.07303, section 4.
"""

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array, DenoiseFn


def flow_sample(x: Array, from_prior: Array, time: Array, uniform: Array) -> Array:
    """A point of the path: each item is the row's with probability ``time``, or else what was drawn from the prior.

    Args:
      x: rows [B, I].
      from_prior: draws [B, I] of 0 and 1.
      time: [B], from 0 to 1.
      uniform: draws [B, I] from [0, 1).
    """
    return jnp.where(uniform < time[:, None], x, from_prior)


def follow_flow(denoise_fn: DenoiseFn, x: Array, *, num_steps: int, num_steps_followed: int) -> Array:
    """The prediction at the end of the last steps of the flow, which start from the rows x [B, I] themselves.

    Args:
      denoise_fn: predicts the row [B, I] from a point of the path and the step's number, here N - S to N - 1.
      x: rows [B, I].
      num_steps: N.
      num_steps_followed: S, from 1 to N.

    Returns:
      [B, I], any real numbers.

    After a step an item is there if it is more likely than not, or in the row: the flow only adds items.
    """
    steps = jnp.arange(num_steps - num_steps_followed, num_steps, dtype=jnp.int32)

    def step(x_t: Array, number: Array) -> tuple[Array, None]:
        x_hat = denoise_fn(x_t, jnp.full(x.shape[0], number, jnp.int32))
        probability = x_t + (x_hat - x_t) / (num_steps - number)  # a step of 1/N of what 1 - t is left for
        return jnp.maximum(x, (probability > 0.5).astype(x.dtype)), None

    x_t, _ = jax.lax.scan(step, x, steps[:-1])
    return denoise_fn(x_t, jnp.full(x.shape[0], num_steps - 1, jnp.int32))
