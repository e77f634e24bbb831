"""Popularity: the same list for everybody. What every other model has to beat."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.recommenders.base import FittedRecommender
from diffrec_jax.typing import Array, RowKeys


def fit_popularity(train: sparse.csr_array) -> np.ndarray:
    """How many users each item has in the training split, or the sum of their weights, [I] float32."""
    return np.bincount(train.indices, train.data, minlength=train.shape[1]).astype(np.float32)


def _score(counts: Array, batch: RowBatch, row_keys: RowKeys) -> Array:
    del row_keys
    return jnp.broadcast_to(counts[None], (batch.user_ids.shape[0], counts.shape[0]))


@dataclass(frozen=True)
class PopularityConfig:
    """Nothing to choose."""


def make_popularity(config: PopularityConfig) -> FittedRecommender:
    """Ranks by the number of users in the training split."""
    del config
    return FittedRecommender(fit=fit_popularity, score_fn=_score, fit_bytes=lambda train: 24 * train.shape[1])
