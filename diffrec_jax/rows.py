"""A RowBatch on the device: scattered to a dense block, summed over embedding rows, or used as a mask."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import CAPACITY_UNIT, RowBatch
from diffrec_jax.typing import Array, Key, RowKeys

LARGEST_KEY = np.iinfo(np.int32).max
"""That one number can hold to sort by row and item."""


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


def scan_entries(batch: RowBatch, add: Callable[[Any, tuple[Array, Array, Array]], Any], total: Any) -> Any:
    """``total`` after ``add(total, (rows, item_ids, weights))`` of every chunk of the entries, padding included.

    On a CPU in chunks that stay in the cache: what is gathered for all entries at once is written to and read back from
    memory. Elsewhere all at once: a GPU starts every step of a loop anew.
    """
    num_places = batch.item_ids.shape[0]
    in_chunks = jax.default_backend() == "cpu" and num_places % CAPACITY_UNIT == 0
    chunk_size = CAPACITY_UNIT if in_chunks else num_places
    rows, item_ids, weights = (
        jnp.reshape(field, (-1, chunk_size)) for field in (batch.rows, batch.item_ids, batch.weights)
    )
    return jax.lax.scan(lambda carry, chunk: (add(carry, chunk), None), total, (rows, item_ids, weights))[0]


def embed(batch: RowBatch, table: Array) -> Array:
    """``to_dense(batch) @ table`` for a table [I, H], without the dense block: a weighted sum of table rows, [B, H].

    Differentiable in the table only: weights are data.
    """
    return embed_each([batch], [table])[0]


@jax.custom_vjp
def embed_each(batches: list[RowBatch], tables: list[Array]) -> list[Array]:
    """``embed`` of each batch in its table; of the tables' gradients XLA makes one after the other."""

    def embedded(batch: RowBatch, table: Array) -> Array:
        def add(total: Array, chunk: tuple[Array, Array, Array]) -> Array:
            rows, item_ids, weights = chunk
            entries = table.at[item_ids].get(mode="clip") * weights[:, None]
            return total.at[rows].add(entries, indices_are_sorted=True)

        return scan_entries(batch, add, jnp.zeros((batch.user_ids.shape[0], table.shape[1]), table.dtype))

    return [embedded(batch, table) for batch, table in zip(batches, tables)]


def after(earlier: Array, value: Array) -> Array:
    """``value`` in a form that needs the array ``earlier``: what is made of it, XLA makes later.

    Gradients of large tables that do not need each other are otherwise made, and held, side by side. Zeros that need
    nothing are held from the start of a step.
    """
    return value + 0.0 * jnp.sum(earlier[:1])


def add_outer(table: Array, batch: RowBatch, rows: Array) -> Array:
    """``table + to_dense(batch).T @ rows`` for a table [I, H] and rows [B, H], without the dense block."""

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> Array:
        places, item_ids, weights = chunk
        return total.at[item_ids].add(rows[places] * weights[:, None], mode="drop")

    return scan_entries(batch, add, table)


def _embed_forward(batches: list[RowBatch], tables: list[Array]):
    return embed_each(batches, tables), (batches, tables)


def _embed_backward(saved: tuple[list[RowBatch], list[Array]], gradients: list[Array]) -> tuple[None, list[Array]]:
    # Written out, because the derivative of a scan would add a whole table for every chunk.
    of_tables: list[Array] = []
    for batch, table, gradient in zip(*saved, gradients):
        for earlier in of_tables[-1:]:
            gradient = after(earlier, gradient)
        of_tables.append(add_outer(after(gradient, jnp.zeros_like(table)), batch, gradient))
    return None, of_tables


embed_each.defvjp(_embed_forward, _embed_backward)


def entry_keys(batch: RowBatch, row_keys: RowKeys) -> RowKeys:
    """A key for each entry, [N], from its row's key and its item alone.

    Hashed by threefry2x32: on CPU, XLA computes the words of a threefry4x32 key that is kept in an array thousands of
    times over. (With row keys behind an ``optimization_barrier`` a step compiles faster, and takes minutes or more.)
    """
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(row_keys)
    keys = jax.random.wrap_key_data(bits[batch.rows], impl="threefry2x32")
    return jax.vmap(jax.random.fold_in)(keys, batch.item_ids)


def dropout_entries(batch: RowBatch, row_keys: RowKeys, rate: float) -> RowBatch:
    """Zeroes stored weights (and targets) with probability ``rate`` and divides the others by 1 - rate.

    What a row loses depends on its key and the item alone. Only stored entries are drawn for: the others are 0.
    """
    if rate == 0.0:
        return batch

    keeps = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(entry_keys(batch, row_keys))
    factor = keeps / (1.0 - rate)
    target_weights = None if batch.target_weights is None else batch.target_weights * factor
    return batch._replace(weights=batch.weights * factor, target_weights=target_weights)


def sum_over_entries(batch: RowBatch, values: Array) -> Array:
    """Sums values [N] of the places over each row, [B]."""
    return jnp.zeros(batch.user_ids.shape[0], values.dtype).at[batch.rows].add(values, indices_are_sorted=True)


def normalise_rows(batch: RowBatch) -> RowBatch:
    """The batch with every row's weights divided by their Euclidean norm; rows of zeros stay."""
    norms = jnp.sqrt(sum_over_entries(batch, jnp.square(batch.weights)))
    return batch._replace(weights=batch.weights / jnp.maximum(norms, 1e-12)[batch.rows])


def num_entries(batch: RowBatch, num_items: int) -> Array:
    """How many items each row stores, [B] int32."""
    return sum_over_entries(batch, (batch.item_ids < num_items).astype(jnp.int32))


def row_starts(batch: RowBatch) -> Array:
    """The place of each row's first entry, [B] int32."""
    places = sum_over_entries(batch, jnp.ones_like(batch.rows))  # of each row, with its padding
    return jnp.cumsum(places) - places


def places(batch: RowBatch) -> Array:
    """The place of each entry in its row, from 0, [N] int32."""
    return jnp.arange(batch.item_ids.shape[0]) - row_starts(batch)[batch.rows]


def _sorted_within_rows(batch: RowBatch, num_items: int) -> Array:
    """Item ids, [N], in each row the lowest first."""
    stride = num_items + 1  # the padding's id is num_items
    if batch.user_ids.shape[0] * stride > LARGEST_KEY:
        return jax.lax.sort((batch.rows, batch.item_ids), num_keys=2)[1]
    return jax.lax.sort(batch.rows * stride + batch.item_ids) % stride  # one key: a quarter of the time


def sample_unseen(batch: RowBatch, row_keys: RowKeys, num_items: int) -> Array:
    """For each entry an item that its row does not store, uniformly, [N] int32; item ids of at least I where none is.

    Exact without rejection: with a row's stored items sorted, s_0 < s_1 < ..., its r-th unseen item is r + j with j the
    number of stored items with s_i - i <= r, found by bisection.
    """
    sorted_ids = _sorted_within_rows(batch, num_items)
    starts, counts = row_starts(batch)[batch.rows], num_entries(batch, num_items)[batch.rows]
    bits = jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(entry_keys(batch, row_keys))
    rank = (bits % jnp.maximum(num_items - counts, 1).astype(jnp.uint32)).astype(jnp.int32)

    def bisect(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        before = (low < high) & (sorted_ids[jnp.minimum(starts + middle, len(sorted_ids) - 1)] - middle <= rank)
        return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

    num_halvings = len(sorted_ids).bit_length() + 1
    num_below, _ = jax.lax.fori_loop(0, num_halvings, bisect, (jnp.zeros_like(counts), counts))
    return rank + num_below


def row_keys(key: Key, batch: RowBatch) -> RowKeys:
    """A key per row, [B], from the user's id alone: the same on any number of devices and in any order of rows."""
    return jax.vmap(lambda user_id: jax.random.fold_in(key, user_id))(batch.user_ids)


def threefry2x32_keys(row_keys: RowKeys) -> RowKeys:
    """A threefry2x32 key for each row, [B], from its own: it may be split within a step (see ``entry_keys``)."""
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(row_keys)
    return jax.random.wrap_key_data(bits, impl="threefry2x32")


def fold_each(row_keys: RowKeys, data: int | Array) -> RowKeys:
    """``jax.random.fold_in`` of every row's key."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(row_keys)
