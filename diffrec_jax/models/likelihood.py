"""Terms of an autoencoder's likelihood, per row."""

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.rows import sum_over_entries
from diffrec_jax.typing import Array


def multinomial_nll(logits: Array, batch: RowBatch) -> Array:
    """-sum_i x_i log softmax(logits)_i over the rows x that the batch stores, [B], for logits [B, I].

    With x sparse it needs the logits' logsumexp and their values at the stored places: no dense x, no second block.

    Reference: arXiv:1802.05814, eq. 2.
    """
    at_entries = logits.at[batch.rows, batch.item_ids].get(mode="fill", fill_value=0.0)
    total_weight = sum_over_entries(batch, batch.weights)
    return total_weight * jax.nn.logsumexp(logits, axis=1) - sum_over_entries(batch, batch.weights * at_entries)


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """KL(N(mean, exp(log_variance)) || N(0, I)), summed over the dimensions of [B, L], [B].

    Reference: arXiv:1312.6114, appendix B.
    """
    return 0.5 * jnp.sum(jnp.exp(log_variance) + jnp.square(mean) - 1.0 - log_variance, axis=1)


def bernoulli_nll(logits: Array, batch: RowBatch) -> Array:
    """-sum_i [x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i)] over all items, [B], for logits l [B, I]."""
    at_entries = logits.at[batch.rows, batch.item_ids].get(mode="fill", fill_value=0.0)
    return jnp.sum(jax.nn.softplus(logits), axis=1) - sum_over_entries(batch, batch.weights * at_entries)


def squared_error(
    predictions: Array, batch: RowBatch, *, shown: RowBatch | None = None, shown_weight: float = 1.0
) -> Array:
    """sum_i w_i (p_i - x_i)^2 / 2 over all items, [B], for predictions p [B, I]: the NLL of Gaussians.

    Args:
      predictions: p.
      batch: the rows x.
      shown: the same entries, of weight 0 where the input hides them.
      shown_weight: w at the entries that it shows; 1 at all other items.
    """
    at_entries = predictions.at[batch.rows, batch.item_ids].get(mode="fill", fill_value=0.0)
    products = sum_over_entries(batch, batch.weights * (0.5 * batch.weights - at_entries))
    errors = 0.5 * jnp.sum(jnp.square(predictions), axis=1) + products
    if shown is None or shown_weight == 1:
        return errors
    at_shown = jnp.where(shown.weights != 0, jnp.square(at_entries - batch.weights) / 2, 0)
    return errors - (1 - shown_weight) * sum_over_entries(batch, at_shown)
