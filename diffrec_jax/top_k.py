"""The largest values of wide rows."""

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array

BLOCK, FEWEST_BLOCKS_PER_RESULT = 32, 8
"""Neighbours that are represented by their largest value, and how many such blocks for each result make it worth it."""


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """``jax.lax.top_k`` over the last axis of scores [B, I], k <= I: the largest values and their places.

    A wide row is gone through once, for the largest value of each block of neighbours. The k results lie in the k
    blocks of the largest such values: a block that is not among them has k of them before it, each with a value that
    comes before all of its own. So only those blocks' values, and those after the last whole block, are sorted.
    """
    num_blocks = scores.shape[1] // BLOCK
    if num_blocks < FEWEST_BLOCKS_PER_RESULT * k:
        return jax.lax.top_k(scores, k)
    largest = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (1, BLOCK), (1, BLOCK), "valid")
    starts = BLOCK * jnp.sort(jax.lax.top_k(largest, k)[1], axis=1)

    def blocks_of(row: Array, starts: Array) -> Array:
        return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(row, start, BLOCK))(starts).reshape(-1)

    rest = num_blocks * BLOCK
    candidates = jnp.concatenate([jax.vmap(blocks_of)(scores, starts), scores[:, rest:]], axis=1)
    values, places = jax.lax.top_k(candidates, k)
    block = jnp.take_along_axis(starts, jnp.minimum(places // BLOCK, k - 1), axis=1)
    return values, jnp.where(places < k * BLOCK, block + places % BLOCK, rest + places - k * BLOCK)
