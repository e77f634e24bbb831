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
from diffrec_jax.recommenders.least_squares import LeastSquares, gram_matrix, solve_rows
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.typing import Array, RowKeys

BATCH_SIZE = 512


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


def make_ials(config: IALSConfig) -> FittedRecommender:
    """Alternates between users and items; the scores of a row are its solved vector times the items'."""

    squares = LeastSquares(config.l2, config.unobserved_weight, config.l2_exponent)

    @jax.jit
    def solve(batch: RowBatch, table: Array) -> Array:
        return solve_rows(squares, batch, table, gram_matrix(table))

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
        return IALSState(items, gram_matrix(items))

    def score(state: IALSState, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return solve_rows(squares, batch, *state) @ state.items.T

    def fit_bytes(train: sparse.csr_array) -> int:
        size = config.embedding_size
        return 4 * size * (4 * (train.shape[0] + train.shape[1]) + 4 * BATCH_SIZE * size) + 16 * train.nnz

    return FittedRecommender(fit=fit, score_fn=score, fit_bytes=fit_bytes)
