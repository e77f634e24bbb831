"""How far predicted ratings are from those that users gave: RMSE and MAE over all held-out ratings."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.rows import num_entries, sum_over_entries
from diffrec_jax.typing import Array

RATING_METRICS = ("rmse", "mae")
"""Of these the smaller is the better."""


def goodness(metric: str, value: float) -> float:
    """A metric's value so that the larger is the better: errors count negatively."""
    return -value if metric in RATING_METRICS else value


class RatingErrors(NamedTuple):
    """Sums over the held-out ratings of each user, [U] each; NumPy on the host."""

    num_ratings: Any
    squared_error: Any
    absolute_error: Any

    def mean(self) -> dict[str, float]:
        """RMSE and MAE: every rating counts the same, whoever gave it. NaN where there is none."""
        total = RatingErrors(*(np.sum(part, dtype=np.float64) for part in self))
        if not total.num_ratings:
            return dict.fromkeys(RATING_METRICS, float("nan"))
        return {name: float(value) for name, value in total.of_users().items()}

    def of_users(self) -> dict[str, np.ndarray]:
        """RMSE and MAE of each user, who has to have a rating."""
        mse, mae = (part / self.num_ratings for part in (self.squared_error, self.absolute_error))
        return {"rmse": np.sqrt(mse), "mae": mae}


def rating_errors(scores: Array, rated: RowBatch, rating_range: tuple[float, float]) -> RatingErrors:
    """The errors of predicted ratings [B, I], clipped to the range, at the entries of B rows of ratings."""
    predicted = scores.at[rated.rows, rated.item_ids].get(mode="fill", fill_value=0.0)
    is_rated = rated.item_ids < scores.shape[1]
    errors = jnp.where(is_rated, jnp.clip(predicted, *rating_range) - rated.weights, 0.0)
    return RatingErrors(
        num_ratings=num_entries(rated, scores.shape[1]),
        squared_error=sum_over_entries(rated, jnp.square(errors)),
        absolute_error=sum_over_entries(rated, jnp.abs(errors)),
    )
