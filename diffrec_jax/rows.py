"""A RowBatch on the device: scattered to a dense block, summed over embedding rows, or used as a mask."""

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import CAPACITY_UNIT, RowBatch
from diffrec_jax.typing import Array, Key, RowKeys


def to_dense(batch: RowBatch, num_items: int) -> Array:
    """The rows as a dense block [B, I] float32 of their weights, 0 where nothing is stored."""
    dense = jnp.zeros((batch.user_ids.shape[0], num_items), jnp.float32)
    return dense.at[batch.rows, batch.item_ids].set(batch.weights, mode="drop")


def targets(batch: RowBatch) -> RowBatch:
    """The rows that a model is to predict: the same entries, with the target weights where there are any."""
    return batch if batch.target_weights is None else batch._replace(weights=batch.target_weights)


def to_mask(batch: RowBatch, num_items: int) -> Array:
    """Which items are stored, [B, I] bool: never derived from the weights, which may be 0."""
    mask = jnp.zeros((batch.user_ids.shape[0], num_items), bool)
    return mask.at[batch.rows, batch.item_ids].set(True, mode="drop")


def mask_scores(scores: Array, batch: RowBatch) -> Array:
    """Scores [B, I] with -inf at the stored items."""
    return scores.at[batch.rows, batch.item_ids].set(-jnp.inf, mode="drop")


def _chunks(batch: RowBatch) -> tuple[Array, Array, Array]:
    # In chunks that stay in the cache: a [N, H] block of all gathered rows is written and read back from memory.
    num_places = batch.item_ids.shape[0]
    chunk_size = CAPACITY_UNIT if num_places % CAPACITY_UNIT == 0 else num_places
    rows, item_ids, weights = (
        jnp.reshape(field, (-1, chunk_size)) for field in (batch.rows, batch.item_ids, batch.weights)
    )
    return rows, item_ids, weights


@jax.custom_vjp
def embed(batch: RowBatch, table: Array) -> Array:
    """``to_dense(batch) @ table`` for a table [I, H], without the dense block: a weighted sum of table rows, [B, H].

    Differentiable in the table only: weights are data.
    """

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        rows, item_ids, weights = chunk
        entries = table.at[item_ids].get(mode="clip") * weights[:, None]
        return total.at[rows].add(entries, indices_are_sorted=True), None

    total = jnp.zeros((batch.user_ids.shape[0], table.shape[1]), table.dtype)
    return jax.lax.scan(add, total, _chunks(batch))[0]


def _embed_forward(batch: RowBatch, table: Array) -> tuple[Array, tuple[RowBatch, Array]]:
    return embed(batch, table), (batch, table)


def _embed_backward(saved: tuple[RowBatch, Array], gradient: Array) -> tuple[None, Array]:
    # Written out, because the derivative of a scan would add a whole table for every chunk.
    batch, table = saved

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        rows, item_ids, weights = chunk
        return total.at[item_ids].add(gradient[rows] * weights[:, None], mode="drop"), None

    return None, jax.lax.scan(add, jnp.zeros_like(table), _chunks(batch))[0]


embed.defvjp(_embed_forward, _embed_backward)


def dropout_entries(batch: RowBatch, row_keys: RowKeys, rate: float) -> RowBatch:
    """Zeroes stored weights (and targets) with probability ``rate`` and divides the others by 1 - rate.

    What a row loses depends on its key and the item alone. Only stored entries are drawn for: the others are 0.
    """
    if rate == 0.0:
        return batch

    # A key for each entry, hashed by threefry2x32: on CPU, XLA computes the words of a threefry4x32 key that is kept in
    # an array thousands of times over.
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(row_keys)
    entry_keys = jax.random.wrap_key_data(bits[batch.rows], impl="threefry2x32")

    def keeps(key: Key, item_id: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, item_id), 1.0 - rate)

    factor = jax.vmap(keeps)(entry_keys, batch.item_ids) / (1.0 - rate)
    target_weights = None if batch.target_weights is None else batch.target_weights * factor
    return batch._replace(weights=batch.weights * factor, target_weights=target_weights)


def sum_over_entries(batch: RowBatch, values: Array) -> Array:
    """Sums values [N] of the places over each row, [B]."""
    return jnp.zeros(batch.user_ids.shape[0], values.dtype).at[batch.rows].add(values, indices_are_sorted=True)


def num_entries(batch: RowBatch, num_items: int) -> Array:
    """How many items each row stores, [B] int32."""
    return sum_over_entries(batch, (batch.item_ids < num_items).astype(jnp.int32))


def row_keys(key: Key, batch: RowBatch) -> RowKeys:
    """A key per row, [B], from the user's id alone: the same on any number of devices and in any order of rows."""
    return jax.vmap(lambda user_id: jax.random.fold_in(key, user_id))(batch.user_ids)


def fold_each(row_keys: RowKeys, data: int | Array) -> RowKeys:
    """``jax.random.fold_in`` of every row's key."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(row_keys)
