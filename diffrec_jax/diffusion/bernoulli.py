"""A diffusion of rows of 0 and 1: each entry is a Markov chain of two states, apart from the others. t is 0-based.

A step keeps an entry with probability 1 - beta_t, and otherwise draws it anew: 1 with probability ``rate``, the
stationary rate, a scalar or one for each item [1, I]. The tables are those of a ``NoiseSchedule``: abar_t
(``alphas_cumprod``) is the share of entries that no step up to t drew anew, v_t = 1 - abar_t (``variances``) that of
the others. Rows have few ones, so a rate of 1/2, as for images, would fill them up: the item's share of the users keeps
every item as frequent as it is, the mean of these shares keeps the density of the rows, 0 lets items only vanish
(absorbing).

References: arXiv:2107.03006 (D3PM), section 3; arXiv:1503.03585, binomial diffusion.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.diffusion.forward import at_timestep
from diffrec_jax.diffusion.process import Process
from diffrec_jax.diffusion.schedules import NoiseSchedule
from diffrec_jax.typing import Array

Rate = Array | np.ndarray | float


def bernoulli_marginal(schedule: NoiseSchedule, x_0: Array, t: Array, rate: Rate) -> Array:
    """q(x_t = 1 | x_0) = abar_t x_0 + v_t rate, [B, I]; for probabilities x_0, the mean over them."""
    return at_timestep(schedule.alphas_cumprod, t) * x_0 + at_timestep(schedule.variances, t) * rate


def bernoulli_q_sample(schedule: NoiseSchedule, x_0: Array, t: Array, uniform: Array, rate: Rate) -> Array:
    """x_t ~ q(x_t | x_0), 0 or 1 in x_0's type [B, I], given draws of x_0's shape that are uniform in [0, 1).

    Raises:
      ValueError: the draws and x_0 differ in shape.
    """
    if uniform.shape != x_0.shape:
        raise ValueError(f"uniform has shape {uniform.shape}, x_0 has {x_0.shape}: they must be equal")
    return (uniform < bernoulli_marginal(schedule, x_0, t, rate)).astype(x_0.dtype)


def bernoulli_q_posterior(schedule: NoiseSchedule, x_0: Array, x_t: Array, t: Array, rate: Rate) -> Array:
    """q(x_{t-1} = 1 | x_t, x_0), [B, I]; at t = 0 it is x_0, as it is without noise.

    For x_0 and x_t of 0 and 1 it is Bayes' rule. It is linear in either: with x_0 = p(x_0 = 1 | x_t) it is the mixture
    sum over x_0 of q(x_{t-1} = 1 | x_t, x_0) p(x_0 | x_t) = p(x_{t-1} = 1 | x_t), exactly; with probabilities x_t, too,
    the mean over an x_t that is independent of x_0.

    Reference: arXiv:2107.03006, eq. 3.
    """
    beta, kept, redrawn = (
        at_timestep(table, t) for table in (schedule.betas, schedule.alphas_cumprod, schedule.variances)
    )
    variances = jnp.asarray(schedule.variances)
    redrawn_before = at_timestep(jnp.concatenate([jnp.zeros_like(variances[:1]), variances[:-1]]), t)

    def changed_now(rate: Rate) -> tuple[Array, Array]:
        """How likely step t brought an entry to a state of this rate: where x_0 is that state, where it is not."""
        came_back = beta * rate * redrawn_before * (1 - rate) / (kept + redrawn * rate)
        left = beta * (1 - redrawn_before * rate) / jnp.where(redrawn > 0, redrawn, 1.0)
        return came_back, jnp.where(redrawn > 0, left, 1.0)

    to_1_from_1, to_1_from_0 = changed_now(rate)
    to_0_from_0, to_0_from_1 = changed_now(1 - rate)
    was_0 = x_0 * to_1_from_1 + (1 - x_0) * to_1_from_0
    was_1 = x_0 * to_0_from_1 + (1 - x_0) * to_0_from_0
    return x_t * (1 - was_0) + (1 - x_t) * was_1


def bernoulli_p_sample(
    schedule: NoiseSchedule, x_0_hat: Array, x_t: Array, t: Array, uniform: Array | None, rate: Rate
) -> Array:
    """A reverse step with x_0_hat, taken as a probability between 0 and 1: a draw of x_{t-1}, or p(x_{t-1} = 1 | x_t).

    With ``uniform``, draws in [0, 1), x_{t-1} is 0 or 1. Each entry has its exact law given x_t where x_0_hat is
    p(x_0 = 1 | x_t), but they are drawn apart from each other, as in every D3PM: right for small steps alone. Without,
    the chain carries probabilities: the network is given the mean of x_t in place of a state, and x_0_hat is taken as
    independent of x_t. That is an approximation, as is a chain that starts from the row itself.
    """
    mean = bernoulli_q_posterior(schedule, jnp.clip(x_0_hat, 0.0, 1.0), x_t, t, rate)
    return mean if uniform is None else (uniform < mean).astype(x_t.dtype)


def bernoulli_schedule(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule with loss weights w_t = (abar_{t-1} - abar_t) / (1 - abar_t), 1 at t = 0 or without noise.

    w_t is the share of the entries drawn anew that step t drew. For a rate of 0 and small w_t the variational bound at
    entries that are 0 in x_t is w_t times a divergence of x_0_hat from x_0, as for absorbing states; here a loss of the
    row takes the divergence's place. What else the schedule holds of a posterior is the Gaussian diffusion's.

    Reference: arXiv:2406.07524, whose weight of absorbing states it is.
    """
    betas, kept, redrawn = (jnp.asarray(t) for t in (schedule.betas, schedule.alphas_cumprod, schedule.variances))
    shares = betas * kept / ((1 - betas) * jnp.where(redrawn > 0, redrawn, 1.0))
    return schedule._replace(x0_loss_weights=jnp.where(redrawn > 0, shares, 1.0))


def bernoulli_process(rate: Rate) -> Process:
    """The process of a stationary rate; it draws uniform numbers."""

    def q_sample(schedule: NoiseSchedule, x_0: Array, t: Array, uniform: Array) -> Array:
        return bernoulli_q_sample(schedule, x_0, t, uniform, rate)

    def p_sample(schedule: NoiseSchedule, x_0_hat: Array, x_t: Array, t: Array, uniform: Array | None) -> Array:
        return bernoulli_p_sample(schedule, x_0_hat, x_t, t, uniform, rate)

    return Process(jax.random.uniform, q_sample, p_sample)
