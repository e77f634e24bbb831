"""iALS: matrix factorisation of implicit feedback by alternating least squares.

A user's vector is solved for from the row at scoring too, so that weighted rows and new users need nothing else.

Reference: arXiv:2110.14037 (its scaled regularisation), after Hu, Koren and Volinsky, ICDM 2008.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, iterate_user_ids, make_row_batch
from diffrec_jax.recommenders.base import FittedRecommender
from diffrec_jax.rows import embed, num_entries, row_starts
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.typing import Array, RowKeys

BATCH_SIZE = 512
BLOCK_SIZE, BLOCKS_AT_ONCE = 32, 16
"""Entries of a block, and blocks that are multiplied at once: they stay in the cache."""
ELIMINATED_SIZE = 32
"""Systems of at most this size are solved row by row, larger ones by halves."""


@dataclass(frozen=True)
class IALSConfig:
    """iALS; defaults of moderate size."""

    embedding_size: int = setting(64, "Size of the vectors.", at_least=1)
    l2: float = setting(0.003, "L2 regularisation of the vectors.", above=0)
    unobserved_weight: float = setting(
        0.1, "Weight of every pair's prediction as 0, beside the observed pairs' as 1.", above=0
    )
    l2_exponent: float = setting(
        1.0,
        "A vector's regularisation is l2 (its observed pairs + unobserved_weight times all its pairs) to this power.",
        at_least=0,
    )
    num_iterations: int = setting(16, "Alternations.", at_least=1)
    seed: int = seed_setting(1, "Seed of the initial vectors.")

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


class IALSState(NamedTuple):
    """What scoring needs."""

    items: Array
    """[I, D]."""
    gram: Array
    """items' items, [D, D]."""


def _gram(table: Array) -> Array:
    return jnp.matmul(table.T, table, precision=jax.lax.Precision.HIGHEST)


def gram_of_rows(batch: RowBatch, table: Array) -> Array:
    """sum_stored w y yᵀ of each row, [B, D, D], y the rows of a table [I, D].

    By products over blocks of a row's entries: a sum of outer products, one an entry, takes several times as long.
    """
    num_rows, size = batch.user_ids.shape[0], table.shape[1]
    starts, counts = row_starts(batch), num_entries(batch, table.shape[0])
    num_blocks = -(-counts // BLOCK_SIZE)
    ends = jnp.cumsum(num_blocks)
    most = len(batch.rows) // BLOCK_SIZE + num_rows
    blocks = jnp.arange(-(-most // BLOCKS_AT_ONCE) * BLOCKS_AT_ONCE)
    rows = jnp.minimum(jnp.searchsorted(ends, blocks, side="right"), num_rows - 1)
    within = (blocks - (ends - num_blocks)[rows])[:, None] * BLOCK_SIZE + jnp.arange(BLOCK_SIZE)[None]
    places = jnp.where(within < counts[rows][:, None], starts[rows][:, None] + within, len(batch.rows))

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


def solve_rows(config: IALSConfig, batch: RowBatch, state: IALSState) -> Array:
    """The vectors v [B, D] that minimise sum_stored w (v y - 1)^2 + a0 sum_all (v y)^2 + l2' |v|^2, y the table's rows.

    Reference: arXiv:2110.14037.
    """
    table, gram = state
    # In full precision: an accelerator's shorter products would lose what the systems differ in.
    with jax.default_matmul_precision("float32"):
        left = gram_of_rows(batch, table)
        pairs = num_entries(batch, table.shape[0]) + config.unobserved_weight * table.shape[0]
        l2 = config.l2 * pairs**config.l2_exponent
        left = left + config.unobserved_weight * gram[None] + l2[:, None, None] * jnp.eye(table.shape[1])[None]
        right = embed(batch, table)[:, :, None]
        return solve_positive_definite(left, right)[:, :, 0]


def make_ials(config: IALSConfig) -> FittedRecommender:
    """Alternates between users and items; the scores of a row are its solved vector times the items'."""

    @jax.jit
    def solve(batch: RowBatch, table: Array) -> Array:
        return solve_rows(config, batch, IALSState(table, _gram(table)))

    def solve_all(matrix: sparse.csr_array, table: Array) -> Array:
        parts = []
        for ids in iterate_user_ids(np.arange(matrix.shape[0], dtype=np.int32), BATCH_SIZE):
            parts.append(np.asarray(solve(make_row_batch(matrix, ids, batch_size=BATCH_SIZE), table))[: len(ids)])
        return jnp.asarray(np.concatenate(parts))

    def fit(train: sparse.csr_array) -> IALSState:
        by_item = sparse.csr_array(train.T)
        shape = train.shape[1], config.embedding_size
        stddev = 0.1 / np.sqrt(config.embedding_size)
        items = jnp.asarray(np.random.default_rng(config.seed).normal(0.0, stddev, shape), jnp.float32)
        for _ in range(config.num_iterations):
            items = solve_all(by_item, solve_all(train, items))
        return IALSState(items, _gram(items))

    def score(state: IALSState, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return solve_rows(config, batch, state) @ state.items.T

    def fit_bytes(train: sparse.csr_array) -> int:
        size = config.embedding_size
        return 4 * size * (4 * (train.shape[0] + train.shape[1]) + 4 * BATCH_SIZE * size) + 16 * train.nnz

    return FittedRecommender(fit=fit, score_fn=score, fit_bytes=fit_bytes)
