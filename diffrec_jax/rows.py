"""A RowBatch on the device: scattered to a dense block, summed over embedding rows, or used as a mask."""

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import CAPACITY_UNIT, RowBatch
from diffrec_jax.typing import Array, Key, RowKeys


def to_dense(batch: RowBatch, num_items: int) -> Array:
    """The rows as a dense block [B, I] float32 of their weights, 0 where nothing is stored."""
    dense = jnp.zeros((batch.user_ids.shape[0], num_items), jnp.float32)
    return dense.at[batch.rows, batch.item_ids].set(batch.weights, mode="drop")


def to_mask(batch: RowBatch, num_items: int) -> Array:
    """Which items are stored, [B, I] bool: never derived from the weights, which may be 0."""
    mask = jnp.zeros((batch.user_ids.shape[0], num_items), bool)
    return mask.at[batch.rows, batch.item_ids].set(True, mode="drop")


def mask_scores(scores: Array, batch: RowBatch) -> Array:
    """Scores [B, I] with -inf at the stored items."""
    return scores.at[batch.rows, batch.item_ids].set(-jnp.inf, mode="drop")


def embed(batch: RowBatch, table: Array) -> Array:
    """``to_dense(batch) @ table`` for a table [I, H], without the dense block: a weighted sum of table rows, [B, H]."""
    # In chunks that stay in the cache: a [N, H] block of all gathered rows is written and read back from memory.
    num_places = batch.item_ids.shape[0]
    chunk_size = CAPACITY_UNIT if num_places % CAPACITY_UNIT == 0 else num_places

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        rows, item_ids, weights = chunk
        entries = table.at[item_ids].get(mode="clip") * weights[:, None]
        return total.at[rows].add(entries, indices_are_sorted=True), None

    rows, item_ids, weights = (
        jnp.reshape(field, (-1, chunk_size)) for field in (batch.rows, batch.item_ids, batch.weights)
    )
    total = jnp.zeros((batch.user_ids.shape[0], table.shape[1]), table.dtype)
    return jax.lax.scan(add, total, (rows, item_ids, weights))[0]


def num_entries(batch: RowBatch, num_items: int) -> Array:
    """How many items each row stores, [B] int32."""
    stored = (batch.item_ids < num_items).astype(jnp.int32)
    return jnp.zeros(batch.user_ids.shape[0], jnp.int32).at[batch.rows].add(stored)


def row_keys(key: Key, batch: RowBatch) -> RowKeys:
    """A key per row, [B], from the user's id alone: the same on any number of devices and in any order of rows."""
    return jax.vmap(lambda user_id: jax.random.fold_in(key, user_id))(batch.user_ids)
