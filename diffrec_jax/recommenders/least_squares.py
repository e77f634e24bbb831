"""A vector for each row by weighted least squares on given items' vectors: iALS's step, and MF's new users."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.rows import embed, num_entries, row_starts
from diffrec_jax.typing import Array

BLOCK_SIZE, BLOCKS_AT_ONCE = 32, 16
"""Entries of a block, and blocks that are multiplied at once: they stay in the cache."""
ELIMINATED_SIZE = 32
"""Systems of at most this size are solved row by row, larger ones by halves."""


class LeastSquares(NamedTuple):
    """What is minimised."""

    l2: float
    unobserved_weight: float
    """a0, of every pair's prediction as 0."""
    l2_exponent: float = 1.0
    """l2' is l2 (the row's pairs + a0 times all its pairs) to this power."""


def gram_matrix(table: Array) -> Array:
    """table' table, [D, D], in full precision."""
    return jnp.matmul(table.T, table, precision=jax.lax.Precision.HIGHEST)


def gram_of_rows(batch: RowBatch, table: Array) -> Array:
    """sum_stored w y yᵀ of each row, [B, D, D], y the rows of a table [I, D].

    By products over blocks of a row's entries: a sum of outer products, one an entry, takes several times as long.
    """
    num_rows, size = batch.user_ids.shape[0], table.shape[1]
    starts, counts = row_starts(batch), num_entries(batch, table.shape[0])
    num_blocks = -(-counts // BLOCK_SIZE)
    ends = jnp.cumsum(num_blocks)
    most = batch.rows.shape[0] // BLOCK_SIZE + num_rows
    blocks = jnp.arange(-(-most // BLOCKS_AT_ONCE) * BLOCKS_AT_ONCE)
    ended = jnp.zeros_like(blocks).at[ends].add(1, mode="drop")  # rows that end before each block
    rows = jnp.minimum(jnp.cumsum(ended), num_rows - 1)
    within = (blocks - (ends - num_blocks)[rows])[:, None] * BLOCK_SIZE + jnp.arange(BLOCK_SIZE)[None]
    places = jnp.where(within < counts[rows][:, None], starts[rows][:, None] + within, batch.rows.shape[0])

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        rows, places = chunk
        vectors = table.at[jnp.take(batch.item_ids, places, mode="clip")].get(mode="clip")
        weighted = vectors * jnp.take(batch.weights, places, mode="fill", fill_value=0.0)[:, :, None]
        return total.at[rows].add(jnp.einsum("bkd,bke->bde", weighted, vectors), indices_are_sorted=True), None

    chunks = rows.reshape(-1, BLOCKS_AT_ONCE), places.reshape(-1, BLOCKS_AT_ONCE, BLOCK_SIZE)
    return jax.lax.scan(add, jnp.zeros((num_rows, size, size)), chunks)[0]


def solve_positive_definite(left: Array, right: Array) -> Array:
    """X [B, D, R] with left X = right, for symmetric positive definite left [B, D, D] (which needs no pivoting).

    By plain operations, one half first and the other by its Schur complement: on CPU, jaxlib's batched LAPACK calls
    wait for threads of the pool that they themselves may occupy, and with as many devices as threads never end.
    """
    size = left.shape[1]
    if size <= ELIMINATED_SIZE:

        def eliminate(k: Array, rows: Array) -> Array:
            pivot = rows[:, k] / rows[:, k, k][:, None]
            factors = rows[:, :, k].at[:, k].set(0.0)
            return (rows - factors[:, :, None] * pivot[:, None]).at[:, k].set(pivot)

        return jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([left, right], axis=2))[:, :, size:]
    half = size // 2
    upper = solve_positive_definite(
        left[:, :half, :half], jnp.concatenate([left[:, :half, half:], right[:, :half]], axis=2)
    )
    below = jnp.concatenate([left[:, half:, half:], right[:, half:]], axis=2) - left[:, half:, :half] @ upper
    last = solve_positive_definite(below[:, :, : size - half], below[:, :, size - half :])
    first = upper[:, :, size - half :] - upper[:, :, : size - half] @ last
    return jnp.concatenate([first, last], axis=1)


def solve_rows(fit: LeastSquares, batch: RowBatch, table: Array, gram: Array) -> Array:
    """The vectors v [B, D] that minimise sum_stored w (v y - 1)^2 + a0 sum_all (v y)^2 + l2' |v|^2.

    y are the rows of a table [I, D], ``gram`` is its ``gram_matrix``.

    Reference: arXiv:2110.14037.
    """
    # In full precision: an accelerator's shorter products would lose what the systems differ in.
    with jax.default_matmul_precision("float32"):
        left = gram_of_rows(batch, table)
        pairs = num_entries(batch, table.shape[0]) + fit.unobserved_weight * table.shape[0]
        l2 = fit.l2 * pairs**fit.l2_exponent
        left = left + fit.unobserved_weight * gram[None] + l2[:, None, None] * jnp.eye(table.shape[1])[None]
        right = embed(batch, table)[:, :, None]
        return solve_positive_definite(left, right)[:, :, 0]
