"""Any model of rows on rows of ratings: what x_0 is made of them, and the scores made ratings again.

A model that is wrapped takes rows of ratings and gives predicted ratings; what it is itself knows nothing of them.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.matrices import DataError
from diffrec_jax.recommenders.base import FittedRecommender, Recommender, StepContext
from diffrec_jax.recommenders.biases import Biases, BiasesConfig, bias_errors, fit_biases, predict
from diffrec_jax.typing import Array, Params, RowKeys, ScoreFn

RowValues = Literal["ones", "ratings", "residuals"]
"""What rows hold: 1 at what is stored; r / the largest rating; or r - mean - b_u - b_i, what biases leave of it."""


class RatingRows(NamedTuple):
    """The way from ratings to what a model sees, and back."""

    values: Callable[[RowBatch], RowBatch]
    """Rows of ratings -> rows x_0; what is not stored stays 0."""
    ratings: Callable[[Array, RowBatch], Array]
    """(scores [B, I] in the unit of x_0, rows of ratings) -> predicted ratings [B, I]."""


def rating_rows(row_values: RowValues, train: sparse.csr_array) -> RatingRows:
    """The way for these training rows [U, I], which hold ratings.

    Raises:
      ValueError: row_values is no way of ratings.
      DataError: they are to be divided by the largest and are not above 0.
    """
    if row_values == "ratings":
        if train.data.min() <= 0:
            raise DataError(
                f"row_values ratings needs ratings above 0, as 0 says that an item is not rated, and the least is "
                f"{train.data.min():g}: take residuals"
            )
        return _scaled(float(train.data.max()))
    if row_values == "residuals":
        config = BiasesConfig()
        return _residual(config, fit_biases(config, train))
    raise ValueError(f"row_values {row_values!r} are no ratings: choose ratings or residuals")


def _scaled(largest: float) -> RatingRows:
    return RatingRows(
        values=lambda batch: batch._replace(weights=batch.weights / largest),
        ratings=lambda scores, batch: scores * largest,
    )


def _residual(config: BiasesConfig, biases: Biases) -> RatingRows:
    def ratings(scores: Array, batch: RowBatch) -> Array:
        return predict(biases, bias_errors(config, biases, batch)[1]) + scores

    return RatingRows(
        values=lambda batch: batch._replace(weights=bias_errors(config, biases, batch)[0]), ratings=ratings
    )


def values_of(rows: RatingRows, matrix: sparse.csr_array) -> sparse.csr_array:
    """A matrix [U, I] of ratings with x_0 in their place, on the host."""
    batch = make_row_batch(matrix, np.arange(matrix.shape[0]))
    values = np.asarray(rows.values(batch).weights)[: matrix.nnz]
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def on_ratings(recommender: Recommender | FittedRecommender, rows: RatingRows) -> Recommender | FittedRecommender:
    """The model on rows of ratings; its scores are predicted ratings."""

    def scored(score_fn: ScoreFn) -> ScoreFn:
        return lambda state, batch, keys: rows.ratings(score_fn(state, rows.values(batch), keys), batch)

    made = recommender._replace(
        score_fn=scored(recommender.score_fn),
        score_new_fn=recommender.score_new_fn and scored(recommender.score_new_fn),
    )
    if isinstance(recommender, FittedRecommender):
        return made._replace(fit=lambda train: recommender.fit(values_of(rows, train)))

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        return recommender.loss_fn(params, model_state, rows.values(batch), row_keys, context)

    return made._replace(loss_fn=loss_fn)
