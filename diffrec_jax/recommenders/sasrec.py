"""SASRec: what comes next, from the sequence of a user's items.

Reference: arXiv:1808.09781, with a softmax over all items or sampled ones (arXiv:2309.07602) in place of single
negatives.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import CAPACITY_UNIT, RowBatch
from diffrec_jax.models.sasrec import SASRecEncoder, future_means
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.rows import entry_keys, num_entries, row_starts, sum_over_entries
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

MOST_ITEMS, USUAL_NEGATIVES = 30_000, 2048
"""Items up to which all of them are the softmax's, and how many are drawn beyond."""


@dataclass(frozen=True)
class SASRecConfig:
    """SASRec; moderate sizes."""

    embedding_size: int = setting(64, "Size of the vectors.", at_least=1)
    num_layers: int = setting(2, "Transformer blocks.", at_least=1)
    num_heads: int = setting(1, "Attention heads.", at_least=1)
    max_length: int = setting(100, "How many of the newest items a place attends to.", at_least=2)
    num_negatives: int | None = setting(
        None,
        "Sampled items that the true ones compete with in training, drawn for each step; 0: all items. By default all "
        f"of up to {MOST_ITEMS:,} items, and {USUAL_NEGATIVES:,} sampled ones of more.",
        at_least=0,
    )
    future_horizon: float = setting(
        0.0,
        "H: a place predicts all items after it, the k-th with weight exp(-(k-1)/H); 0: the next one alone.",
        at_least=0,
    )
    dropout: float = setting(0.2, "Rate of the dropout.", at_least=0, below=1)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        if self.embedding_size % self.num_heads:
            raise ValueError(
                f"embedding_size {self.embedding_size} does not split over num_heads {self.num_heads}: take a multiple"
            )

    def negatives_of(self, num_items: int) -> int:
        """How many items are sampled; 0: all compete."""
        if self.num_negatives is None:
            return 0 if num_items <= MOST_ITEMS else USUAL_NEGATIVES
        return 0 if self.num_negatives >= num_items else self.num_negatives


def softmax_losses(
    hidden: Array, targets: Array, next_items: Array, item_vectors: Array, negatives: Array | None
) -> Array:
    """log Z - h't of each place, [N]: the cross-entropy of a target whose mean vector is t.

    Z sums exp(h'v) over all items. With K negatives, drawn uniformly of all items, it is the next item's term plus
    I / K times the sum over those that are another item: unbiased, and so is what the loss aims at for any K.

    Args:
      hidden: h [N, D].
      targets: t [N, D].
      next_items: [N] item ids, for a Z of negatives.
      item_vectors: v [I, D].
      negatives: [K] item ids; None for all items.
    """
    given = (hidden, next_items)
    vectors = item_vectors if negatives is None else item_vectors[negatives]

    @jax.checkpoint
    def log_sums(chunk: tuple[Array, Array]) -> Array:  # logits of one chunk exist at a time, in either direction
        own, next_ids = chunk
        logits = own @ vectors.T
        if negatives is None:
            return jax.nn.logsumexp(logits, axis=-1)
        logits = jnp.where(negatives[None] == next_ids[:, None], -jnp.inf, logits)
        positive = jnp.sum(own * item_vectors.at[next_ids].get(mode="clip"), axis=-1)
        scale = np.log(item_vectors.shape[0] / len(negatives))
        return jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1) + scale, positive)

    size = CAPACITY_UNIT if len(hidden) % CAPACITY_UNIT == 0 else len(hidden)
    chunks = jax.tree.map(lambda part: part.reshape(-1, size, *part.shape[1:]), given)
    return jax.lax.map(log_sums, chunks).reshape(-1) - jnp.sum(hidden * targets, axis=-1)


def make_sasrec(config: SASRecConfig, train: sparse.csr_array) -> Recommender:
    """The functions of a SASRec over the items of a training split, whose rows are in time order.

    The loss of a row sums over its places and is divided by the rows' mean number of them, so that every interaction
    counts the same.
    """
    num_users, num_items = train.shape[0], train.shape[1]
    num_negatives = config.negatives_of(num_items)
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
        return model.init(key, jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state
        hidden: Array = model.apply(params, batch.item_ids, batch.rows, entry_keys(batch, row_keys))  # type: ignore[assignment]
        item_vectors = params["params"]["item_vectors"]
        rows = jnp.where(batch.item_ids < num_items, batch.rows, -1)
        vectors = item_vectors.at[batch.item_ids].get(mode="fill", fill_value=0.0)
        targets, has_next = future_means(vectors, rows, config.future_horizon, config.max_length)
        negatives = None
        if num_negatives:
            bits = jax.random.bits(context.key, (num_negatives,), jnp.uint32)
            negatives = (bits % num_items).astype(jnp.int32)
        next_items = jnp.roll(batch.item_ids, -1)
        losses = softmax_losses(hidden, targets, next_items, item_vectors, negatives)
        return sum_over_entries(batch, jnp.where(has_next, losses, 0.0)) / mean_length, ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        hidden: Array = model.apply(params, batch.item_ids, batch.rows)  # type: ignore[assignment]
        counts = num_entries(batch, num_items)
        newest = hidden[jnp.maximum(row_starts(batch) + counts - 1, 0)]
        return jnp.where(counts[:, None] > 0, newest, 0.0) @ params["params"]["item_vectors"].T

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        item_embeddings=lambda params: params["params"]["item_vectors"],
    )
