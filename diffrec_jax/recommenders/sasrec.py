"""SASRec: the next item from the sequence of a user's items.

Reference: arXiv:1808.09781, with a softmax over all or sampled items (arXiv:2309.07602) in place of single negatives.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.models.sasrec import SASRecEncoder
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.rows import fold_each, newest_items
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys


@dataclass(frozen=True)
class SASRecConfig:
    """SASRec; moderate sizes."""

    embedding_size: int = setting(64, "Size of the vectors.", at_least=1)
    num_layers: int = setting(2, "Transformer blocks.", at_least=1)
    num_heads: int = setting(1, "Attention heads.", at_least=1)
    max_length: int = setting(100, "How many of a row's newest items are read.", at_least=2)
    num_negatives: int = setting(
        256, "Sampled items a row that the true next one competes with in training; 0: all items.", at_least=0
    )
    dropout: float = setting(0.2, "Rate of the dropout.", at_least=0, below=1)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        if self.embedding_size % self.num_heads:
            raise ValueError(
                f"embedding_size {self.embedding_size} does not split over num_heads {self.num_heads}: take a multiple"
            )


def next_item_losses(hidden: Array, next_items: Array, item_vectors: Array, negatives: Array | None) -> Array:
    """Cross-entropy of each place's next item among the row's negatives and itself, or among all items; [B, L].

    Args:
      hidden: [B, L, D].
      next_items: [B, L] item ids; places without one hold I, and count 0.
      item_vectors: [I, D].
      negatives: [B, K] item ids, those that are the next item left out; None for all items.
    """
    positive = jnp.sum(hidden * item_vectors.at[next_items].get(mode="clip"), axis=-1)
    if negatives is None:
        normaliser = jax.nn.logsumexp(jnp.einsum("bld,id->bli", hidden, item_vectors), axis=-1)
    else:
        logits = jnp.einsum("bld,bkd->blk", hidden, item_vectors[negatives])
        logits = jnp.where(negatives[:, None, :] == next_items[:, :, None], -jnp.inf, logits)
        normaliser = jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1), positive)
    return jnp.where(next_items < item_vectors.shape[0], normaliser - positive, 0.0)


def make_sasrec(config: SASRecConfig, train: sparse.csr_array) -> Recommender:
    """The functions of a SASRec over the items of a training split, whose rows are in time order.

    The loss of a row sums over its places and is divided by the rows' mean number of them, so that every interaction
    counts the same.
    """
    num_users, num_items = train.shape[0], train.shape[1]
    model = SASRecEncoder(
        num_items=num_items,
        max_length=config.max_length,
        embedding_size=config.embedding_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
    )
    mean_length = max(train.nnz / num_users - 1, 1.0)

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros(config.max_length, jnp.int32))

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state, context
        sequences = newest_items(batch, config.max_length + 1, num_items)

        def encode(sequence: Array, key: Key) -> Array:
            # Flax folds names into the key: as in dropout_entries, threefry4x32 would do so for every word again.
            key = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
            return model.apply(params, sequence, deterministic=False, rngs={"dropout": key})  # type: ignore[return-value]

        hidden = jax.vmap(encode)(sequences[:, :-1], fold_each(row_keys, 0))
        negatives = None
        if config.num_negatives:
            draws = jax.vmap(lambda key: jax.random.bits(key, (config.num_negatives,), jnp.uint32))
            negatives = (draws(fold_each(row_keys, 1)) % num_items).astype(jnp.int32)
        next_items = jnp.where(sequences[:, :-1] < num_items, sequences[:, 1:], num_items)
        losses = next_item_losses(hidden, next_items, params["params"]["item_vectors"], negatives)
        return losses.sum(axis=1) / mean_length, ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        sequences = newest_items(batch, config.max_length, num_items)
        hidden = jax.vmap(lambda sequence: model.apply(params, sequence)[-1])(sequences)  # type: ignore[index]
        return hidden @ params["params"]["item_vectors"].T

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        item_embeddings=lambda params: params["params"]["item_vectors"],
    )
