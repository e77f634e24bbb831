"""SASRec: what comes next, from the sequence of a user's items.

Reference: arXiv:1808.09781, with a softmax over all items or sampled ones (arXiv:2309.07602) in place of single
negatives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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
LONG_ROWS, LONG_HORIZON = 20, 3.0
"""Mean length from which on rows are long, and their horizon."""


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
    future_horizon: float | None = setting(
        None,
        "H: a place predicts all items after it, the k-th with weight exp(-(k-1)/H); 0: the next one alone. By default "
        f"{LONG_HORIZON:g} where rows have {LONG_ROWS} items or more on average, else 0.",
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

    def horizon_of(self, train: sparse.csr_array) -> float:
        """H over the rows of a training split."""
        if self.future_horizon is None:
            return LONG_HORIZON if mean_row_length(train) >= LONG_ROWS else 0.0
        return self.future_horizon


def mean_row_length(train: sparse.csr_array) -> float:
    """Items of a user, averaged over those who have any: others tell nothing."""
    return train.nnz / max(np.count_nonzero(np.diff(train.indptr)), 1)


def softmax_losses(
    hidden: Array, targets: Array, next_items: Array, item_vectors: Array, negatives: Array | None
) -> Array:
    """log Z - h't of each place, [N]: the cross-entropy of a target whose mean vector is t.

    Z sums exp(h'v) over all items. With K negatives, drawn uniformly of all items, it is the next item's term plus
    I / K times the sum over those that are another item. That is unbiased, but its logarithm is too small on average:
    the fewer the negatives, the sharper the probabilities. Negatives that weigh as much as the positive have the right
    ones for any K (arXiv:1809.01812), and rank worse (docs/tuning.md).

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


class Places(NamedTuple):
    """What a sequence model knows of the N places of a batch in training."""

    hidden: Array
    """[N, D], of each place and what is before it."""
    targets: Array
    """[N, D]: mean vector of the items after it, by their distance."""
    has_next: Array
    """[N]: whether there is one."""
    next_items: Array
    """[N] item ids."""
    keys: RowKeys
    """[N]."""


class SequenceModel(NamedTuple):
    """The parts of a recommender that reads rows in time order: SASRec as it is, S-DiffRec with more between them."""

    init_params: Callable[[Key], Params]
    """Key -> the encoder's parameters, ``item_vectors`` [I, D] among them."""
    read_places: Callable[[Params, RowBatch, RowKeys], Places]
    """With dropout."""
    losses: Callable[[Params, Places, Array, RowBatch, Key], Array]
    """(params, places, hidden [N, D], batch, key of the step) -> the rows' losses [B], summed over their places and
    divided by the rows' mean number of them, so that every interaction counts the same."""
    read_rows: Callable[[Params, RowBatch], Array]
    """[B, D]: of each row's newest place; 0 of a row without items."""


def make_sequence_model(config: SASRecConfig, train: sparse.csr_array) -> SequenceModel:
    """Over the items of a training split, whose rows are in time order."""
    num_items = train.shape[1]
    num_negatives, horizon = config.negatives_of(num_items), config.horizon_of(train)
    model = SASRecEncoder(
        num_items=num_items,
        max_length=config.max_length,
        embedding_size=config.embedding_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
    )
    mean_length = max(mean_row_length(train) - 1, 1.0)

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))

    def read_places(params: Params, batch: RowBatch, row_keys: RowKeys) -> Places:
        keys = entry_keys(batch, row_keys)
        hidden: Array = model.apply(params, batch.item_ids, batch.rows, keys)  # type: ignore[assignment]
        rows = jnp.where(batch.item_ids < num_items, batch.rows, -1)
        vectors = params["params"]["item_vectors"].at[batch.item_ids].get(mode="fill", fill_value=0.0)
        targets, has_next = future_means(vectors, rows, horizon, config.max_length)
        return Places(hidden, targets, has_next, jnp.roll(batch.item_ids, -1), keys)

    def losses(params: Params, places: Places, hidden: Array, batch: RowBatch, key: Key) -> Array:
        negatives = None
        if num_negatives:
            negatives = (jax.random.bits(key, (num_negatives,), jnp.uint32) % num_items).astype(jnp.int32)
        item_vectors = params["params"]["item_vectors"]
        of_places = softmax_losses(hidden, places.targets, places.next_items, item_vectors, negatives)
        return sum_over_entries(batch, jnp.where(places.has_next, of_places, 0.0)) / mean_length

    def read_rows(params: Params, batch: RowBatch) -> Array:
        hidden: Array = model.apply(params, batch.item_ids, batch.rows)  # type: ignore[assignment]
        counts = num_entries(batch, num_items)
        newest = hidden[jnp.maximum(row_starts(batch) + counts - 1, 0)]
        return jnp.where(counts[:, None] > 0, newest, 0.0)

    return SequenceModel(init_params, read_places, losses, read_rows)


def make_sasrec(config: SASRecConfig, train: sparse.csr_array) -> Recommender:
    """The functions of a SASRec over the items of a training split, whose rows are in time order."""
    model = make_sequence_model(config, train)

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state
        places = model.read_places(params, batch, row_keys)
        return model.losses(params, places, places.hidden, batch, context.key), ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return model.read_rows(params, batch) @ params["params"]["item_vectors"].T

    return Recommender(
        init_params=model.init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        works_on_places=True,
        item_embeddings=lambda params: params["params"]["item_vectors"],
    )
