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
from diffrec_jax.recommenders.checks import check_above_zero, check_at_least
from diffrec_jax.rows import scan_entries, sum_over_entries
from diffrec_jax.typing import Array, RowKeys

BATCH_SIZE = 512


@dataclass(frozen=True)
class IALSConfig:
    """iALS; defaults of moderate size."""

    embedding_size: int = 64
    l2: float = 0.003
    unobserved_weight: float = 0.1
    """Weight of every pair's prediction as 0, beside the observed pairs' as 1."""
    l2_exponent: float = 1.0
    """A vector's regularisation is l2 (its observed pairs + unobserved_weight times all its pairs) to this power."""
    num_iterations: int = 16
    seed: int = 1

    def __post_init__(self) -> None:
        """Checks every value."""
        check_at_least(1, embedding_size=self.embedding_size, num_iterations=self.num_iterations)
        check_at_least(0, l2_exponent=self.l2_exponent, seed=self.seed)
        check_above_zero(l2=self.l2, unobserved_weight=self.unobserved_weight)


class IALSState(NamedTuple):
    """What scoring needs."""

    items: Array
    """[I, D]."""
    gram: Array
    """items' items, [D, D]."""


def solve_rows(config: IALSConfig, batch: RowBatch, state: IALSState) -> Array:
    """The vectors v [B, D] that minimise sum_stored w (v y - 1)^2 + a0 sum_all (v y)^2 + l2' |v|^2, y the table's rows.

    Reference: arXiv:2110.14037.
    """
    table, gram = state
    num_rows, size = batch.user_ids.shape[0], table.shape[1]

    def add(totals: tuple[Array, Array], chunk: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        rows, item_ids, weights = chunk
        vectors = table.at[item_ids].get(mode="clip")
        weighted = vectors * weights[:, None]
        left, right = totals
        return left.at[rows].add(weighted[:, :, None] * vectors[:, None, :]), right.at[rows].add(weighted)

    zeros = jnp.zeros((num_rows, size, size)), jnp.zeros((num_rows, size))
    left, right = scan_entries(batch, add, zeros)
    stored = sum_over_entries(batch, (batch.item_ids < table.shape[0]).astype(jnp.float32))
    l2 = config.l2 * (stored + config.unobserved_weight * table.shape[0]) ** config.l2_exponent
    left = left + config.unobserved_weight * gram[None] + l2[:, None, None] * jnp.eye(size)[None]
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(left), True), right[:, :, None])[:, :, 0]


def make_ials(config: IALSConfig) -> FittedRecommender:
    """Alternates between users and items; the scores of a row are its solved vector times the items'."""

    @jax.jit
    def solve(batch: RowBatch, table: Array) -> Array:
        return solve_rows(config, batch, IALSState(table, table.T @ table))

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
        return IALSState(items, items.T @ items)

    def score(state: IALSState, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return solve_rows(config, batch, state) @ state.items.T

    def fit_bytes(train: sparse.csr_array) -> int:
        size = config.embedding_size
        return 4 * size * (4 * (train.shape[0] + train.shape[1]) + 4 * BATCH_SIZE * size) + 16 * train.nnz

    return FittedRecommender(fit=fit, score_fn=score, fit_bytes=fit_bytes)
