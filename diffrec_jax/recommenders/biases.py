"""Ratings without taste: the mean, and how far users and items are from it. What a model of ratings has to beat."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.recommenders.base import FittedRecommender
from diffrec_jax.rows import num_entries, sum_over_entries
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, RowKeys

MAX_ROUNDS, SMALLEST_CHANGE = 200, 1e-6
"""Of the alternation, which ends when no item's bias changes by more."""


@dataclass(frozen=True)
class BiasesConfig:
    """Biases of users and items; the defaults are those that predict ML-100K's validation ratings best."""

    user_l2: float = setting(
        5.0, "L2 regularisation of a user's bias: ratings at the mean that it is given.", at_least=0
    )
    item_l2: float = setting(2.0, "L2 regularisation of an item's bias, likewise.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


class Biases(NamedTuple):
    """What is known of ratings before a user is; a user's own bias is solved for from its row."""

    mean: Array
    """Scalar float32."""
    items: Array
    """[I] float32, 0 of an item without ratings."""


def fit_biases(config: BiasesConfig, train: sparse.csr_array) -> Biases:
    """The minimum of sum (r_ui - mean - b_u - b_i)^2 + l2_u |b_u|^2 + l2_i |b_i|^2, by alternating, in float64.

    ``train`` [U, I] holds the ratings, at least one.

    Reference: Koren, "Factorization meets the neighborhood", KDD 2008, section 2.1.
    """
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    mean = train.data.mean(dtype=np.float64)
    ratings = train.data.astype(np.float64) - mean
    by_user, by_item = np.zeros(train.shape[0]), np.zeros(train.shape[1])

    def solved(places: np.ndarray, errors: np.ndarray, size: int, l2: float) -> np.ndarray:
        counts = np.bincount(places, minlength=size)
        return np.bincount(places, errors, minlength=size) / np.maximum(counts + l2, 1e-12)

    for _ in range(MAX_ROUNDS):
        before, by_item = by_item, solved(train.indices, ratings - by_user[users], len(by_item), config.item_l2)
        by_user = solved(users, ratings - by_item[train.indices], len(by_user), config.user_l2)
        if np.abs(by_item - before).max() <= SMALLEST_CHANGE:
            break
    return Biases(np.float32(mean), by_item.astype(np.float32))  # type: ignore[arg-type]


def bias_errors(config: BiasesConfig, biases: Biases, batch: RowBatch) -> tuple[Array, Array]:
    """What the biases leave of the ratings in a batch, [N], 0 at its padding; and each row's own bias, [B]."""
    num_items = biases.items.shape[0]
    expected = biases.mean + jnp.asarray(biases.items).at[batch.item_ids].get(mode="fill", fill_value=0.0)
    is_rated = batch.item_ids < num_items
    errors = jnp.where(is_rated, batch.weights - expected, 0.0)
    counts = num_entries(batch, num_items) + config.user_l2
    users = sum_over_entries(batch, errors) / jnp.maximum(counts, 1e-12)
    return jnp.where(is_rated, errors - users[batch.rows], 0.0), users


def predict(biases: Biases, users: Array) -> Array:
    """mean + b_u + b_i, [B, I], for users' biases [B]."""
    return biases.mean + users[:, None] + jnp.asarray(biases.items)[None]


def make_biases(config: BiasesConfig) -> FittedRecommender:
    """Predicts mean + b_u + b_i, and ranks by it: the same list for everybody but for what is seen."""

    def score(biases: Biases, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return predict(biases, bias_errors(config, biases, batch)[1])

    return FittedRecommender(
        fit=lambda train: fit_biases(config, train),
        score_fn=score,
        fit_bytes=lambda train: 40 * train.nnz + 24 * sum(train.shape),
    )


@dataclass(frozen=True)
class GlobalMeanConfig:
    """Nothing to choose."""


def make_global_mean(config: GlobalMeanConfig, num_items: int) -> FittedRecommender:
    """Predicts the mean rating for everything; its ranking means nothing."""
    del config

    def score(mean: Array, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return jnp.full((batch.user_ids.shape[0], num_items), mean)

    return FittedRecommender(
        fit=lambda train: train.data.mean(dtype=np.float64).astype(np.float32),
        score_fn=score,
        fit_bytes=lambda train: 8 * train.nnz,
    )
