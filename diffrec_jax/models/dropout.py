"""Dropout with a key per row, so that what a row loses does not depend on the rows beside it."""

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array, RowKeys

_MASK_BITS = 16


def row_bernoulli(row_keys: RowKeys, probability: float, num_columns: int) -> Array:
    """A boolean [B, num_columns] with P(True) = probability, exact to 1/65536.

    A fair coin takes one random bit, any other probability 16: drawing a float per entry costs as much as the noise.
    """
    num_bits = 1 if probability == 0.5 else _MASK_BITS
    num_words = -(-num_columns * num_bits // 32)
    words = jax.vmap(lambda key: jax.random.bits(key, (num_words,), jnp.uint32))(row_keys)
    shifts = jnp.arange(0, 32, num_bits, dtype=jnp.uint32)[None, None]
    fields = (words[:, :, None] >> shifts) & jnp.uint32(2**num_bits - 1)
    return fields.reshape(words.shape[0], -1)[:, :num_columns] < round(probability * 2**num_bits)


def row_dropout(row_keys: RowKeys, x: Array, rate: float) -> Array:
    """Zeroes entries of x [B, D] with probability ``rate`` and divides the others by 1 - rate.

    Raises:
      ValueError: rate is outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
    if rate == 0.0:
        return x
    keep = row_bernoulli(row_keys, 1.0 - rate, x.shape[1])
    return jnp.where(keep, x / (1.0 - rate), 0.0)
