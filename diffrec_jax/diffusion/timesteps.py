"""Which timestep a training example gets: uniform, or in proportion to the losses seen lately.

Reference: arXiv:2304.04971, section 3.2 (importance sampling); arXiv:2102.09672, section 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array, Key

HISTORY_LENGTH = 10
UNIFORM_MIX = 0.001


class LossHistory(NamedTuple):
    """The last losses of every timestep: a first-in-first-out list each, filled from the right."""

    losses: Array
    """[T, history length] float32, newest last; entries left of the filled part are 0."""
    counts: Array
    """[T] int32, how many entries are filled."""


def init_loss_history(num_timesteps: int, *, history_length: int = HISTORY_LENGTH) -> LossHistory:
    """An empty history."""
    return LossHistory(
        losses=jnp.zeros((num_timesteps, history_length), jnp.float32),
        counts=jnp.zeros(num_timesteps, jnp.int32),
    )


def update_loss_history(history: LossHistory, t: Array, losses: Array, mask: Array | None = None) -> LossHistory:
    """Appends the losses [B] of a batch to their timesteps' lists t [B], in row order; masked-out rows do not count.

    Raises:
      ValueError: t, losses and mask differ in shape.
    """
    mask = jnp.ones(t.shape, bool) if mask is None else mask
    if not t.shape == losses.shape == mask.shape:
        raise ValueError(f"t, losses and mask must have one shape, got {t.shape}, {losses.shape} and {mask.shape}")
    num_timesteps, length = history.losses.shape
    member = (t[:, None] == jnp.arange(num_timesteps)[None]) & mask[:, None]  # [B, T]
    num_new = member.sum(0, dtype=jnp.int32)  # [T]
    # How many of the same timestep come after each row: the row lands that many places from the right end.
    rank_from_newest = (num_new[None] - jnp.cumsum(member, 0, dtype=jnp.int32))[jnp.arange(t.shape[0]), t]
    shifted_from = jnp.arange(length)[None] + jnp.minimum(num_new, length)[:, None]  # [T, length]
    shifted = jnp.take_along_axis(history.losses, jnp.minimum(shifted_from, length - 1), axis=1)
    shifted = jnp.where(shifted_from < length, shifted, 0.0)
    place = jnp.where(mask & (rank_from_newest < length), length - 1 - rank_from_newest, length)
    return LossHistory(
        losses=shifted.at[t, place].set(losses, mode="drop"),
        counts=jnp.minimum(history.counts + num_new, length),
    )


def timestep_probabilities(history: LossHistory) -> Array:
    """p_t, [T]: uniform until every list is full, then (1 - 0.001) * sqrt(mean(L_t^2)) normalised + 0.001 * uniform.

    Losses that are all zero leave it uniform.
    """
    num_timesteps, length = history.losses.shape
    uniform = jnp.full(num_timesteps, 1.0 / num_timesteps)
    largest = jnp.max(jnp.abs(history.losses))  # taken out before squaring, which could overflow
    weights = jnp.sqrt(jnp.mean(jnp.square(history.losses / jnp.where(largest > 0, largest, 1.0)), axis=1))
    total = weights.sum()
    mixed = (1.0 - UNIFORM_MIX) * weights / jnp.where(total > 0, total, 1.0) + UNIFORM_MIX * uniform
    return jnp.where(jnp.all(history.counts == length) & (total > 0), mixed, uniform)


def sample_timesteps(key: Key, probabilities: Array, shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
    """Draws t ~ p, and the importance weight 1 / (T p_t) that *multiplies* the loss; both of the given shape.

    Uniform sampling is the same call with uniform probabilities: the weights are then 1.
    """
    t = jax.random.categorical(key, jnp.log(probabilities), shape=shape).astype(jnp.int32)
    return t, 1.0 / (probabilities.shape[0] * probabilities[t])
