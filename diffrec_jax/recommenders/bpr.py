"""MF and LightGCN: vectors of users and items, trained so that a user's items score above others (BPR).

MF is LightGCN without layers. A batch holds whole rows: each of their entries is compared with an item drawn anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.embeddings import inverse_root_degrees, normalised_interactions
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.least_squares import LeastSquares, gram_matrix, solve_rows
from diffrec_jax.rows import embed, num_entries, sample_unseen, sum_over_entries
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys


@dataclass(frozen=True)
class MFConfig:
    """Matrix factorisation by BPR."""

    num_layers: ClassVar[int] = 0
    embedding_size: int = setting(64, "Size of the vectors.", at_least=1)
    l2: float = setting(1e-4, "L2 regularisation of the vectors of each compared triple.", at_least=0)
    init_stddev: float = setting(0.1, "Standard deviation of the initial vectors.", above=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


@dataclass(frozen=True)
class LightGCNConfig(MFConfig):
    """LightGCN."""

    num_layers: int = setting(3, "Propagations.", at_least=1)  # type: ignore[misc]


class Vectors(NamedTuple):
    """Of users [U, D] and items [I, D]."""

    users: Array
    items: Array


class ScoringVectors(NamedTuple):
    """What is scored with."""

    users: Array
    """[U, D]."""
    items: Array
    """[I, D]."""
    new_users: Array
    """What makes the vector of a new user from its row: of LightGCN what each item sends, [I, D], of MF the items' Gram
    matrix, [D, D]."""


FOLD_IN = LeastSquares(l2=1.0, unobserved_weight=0.1)
"""How MF finds the vector of a new user on the items' trained vectors. Chosen on the valid split of ML-1M clean."""


DENSE_RATIO = 25
"""Multiplications of a dense product that take the time of one entry gathered and summed (benchmarks.propagation)."""


def _transposed(forward: Callable[[Array], Array], backward: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A linear ``forward`` whose derivative is the faster ``backward``, its transpose."""

    @jax.custom_vjp
    def product(table: Array) -> Array:
        return forward(table)

    product.defvjp(lambda table: (forward(table), None), lambda _, gradient: (backward(gradient),))
    return product


def make_propagate(train: sparse.csr_array, num_layers: int) -> Callable[[Vectors, RowBatch], tuple[Vectors, Array]]:
    """The function that averages Vectors over 0..num_layers applications of the graph's normalised adjacency A.

    It takes the vectors of all users and items and rows of ``train``. It returns those of the rows' users and of all
    items, and what each item sends to its users, [I, D]: their sum over a user's items, divided by the root of their
    number, is all of the user's vector that does not come from its own.

    Only the items' layers are computed for the whole graph: item_0, Aᵀ user_0, and from the last but one by AᵀA each
    further one; a user's sum over the layers needs nothing but A's row and the items' sum.

    The graph is index arrays, summed over in chunks (``embed``): measured beside plain segment sums, a dense product
    and SciPy by ``python -m benchmarks.propagation``. AᵀA is dense where its operations are few beside those sums.

    Reference: arXiv:2002.02126, eqs. 3 and 4.
    """
    if num_layers == 0:

        def own(vectors: Vectors, rows: RowBatch) -> tuple[Vectors, Array]:
            return Vectors(vectors.users[rows.user_ids], vectors.items), jnp.zeros_like(vectors.items)

        return own
    num_items = train.shape[1]
    normalised = normalised_interactions(train)
    of_users, of_items = (
        make_row_batch(matrix, np.arange(matrix.shape[0])) for matrix in (normalised, sparse.csr_array(normalised.T))
    )
    to_users = _transposed(lambda items: embed(of_users, items), lambda users: embed(of_items, users))
    to_items = _transposed(lambda users: embed(of_items, users), lambda items: embed(of_users, items))
    if num_layers > 1 and num_items**2 <= DENSE_RATIO * train.nnz:
        between_items = (normalised.T @ normalised).toarray()
    else:
        between_items = None
    user_scale, item_scale = (scale.astype(np.float32) for scale in inverse_root_degrees(train))

    def propagate(vectors: Vectors, rows: RowBatch) -> tuple[Vectors, Array]:
        layers = [vectors.items, to_items(vectors.users)]
        for _ in range(num_layers - 1):
            layers.append(to_items(to_users(layers[-2])) if between_items is None else between_items @ layers[-2])
        items = sum(layers[1:], vectors.items)
        sent = jnp.asarray(item_scale)[:, None] * (items - layers[-1])
        from_items = embed(as_stored(rows, num_items), sent)
        users = vectors.users[rows.user_ids] + jnp.asarray(user_scale)[rows.user_ids][:, None] * from_items
        return Vectors(users / (num_layers + 1), items / (num_layers + 1)), sent / (num_layers + 1)

    return propagate


def as_stored(batch: RowBatch, num_items: int) -> RowBatch:
    """The batch with weight 1 for every stored entry."""
    return batch._replace(weights=jnp.float32(batch.item_ids < num_items))


def score_differences(vectors: Vectors, batch: RowBatch, negatives: Array) -> Array:
    """The score of each entry's negative less that of its item, [N]; users' vectors are of the batch's rows, [B, D].

    From the scores of all items, [B, I], where that is less work than to gather two vectors for each entry.
    """
    users, items = vectors
    if len(users) * len(items) <= 2 * DENSE_RATIO * len(batch.item_ids):
        scores = users @ items.T
        positive, negative = (scores.at[batch.rows, ids].get(mode="clip") for ids in (batch.item_ids, negatives))
        return negative - positive
    positive, negative = (items.at[ids].get(mode="clip") for ids in (batch.item_ids, negatives))
    return jnp.sum(users[batch.rows] * (negative - positive), axis=1)


def make_bpr(config: MFConfig, train: sparse.csr_array) -> Recommender:
    """The functions of MF or LightGCN over the users and items of a training split.

    The loss of a row sums over its entries and is divided by the rows' mean length, so that every interaction counts
    the same and a batch's mean loss is that of an interaction.

    Reference: arXiv:1205.2618 (BPR), section 4; arXiv:2002.02126 (LightGCN).
    """
    num_users, num_items = train.shape[0], train.shape[1]
    mean_length = max(train.nnz / num_users, 1.0)
    propagate = make_propagate(train, config.num_layers)
    all_rows = make_row_batch(train, np.arange(num_users))

    def init_params(key: Key) -> Params:
        return {
            name: config.init_stddev * jax.random.normal(part_key, (count, config.embedding_size))
            for name, part_key, count in zip(Vectors._fields, jax.random.split(key), (num_users, num_items))
        }

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state, context
        base = Vectors(**params)
        vectors, _ = propagate(base, batch)
        negatives = sample_unseen(batch, row_keys, num_items)
        is_triple = (batch.item_ids < num_items) & (negatives < num_items)

        def squared_lengths(of_rows: Array, of_items: Array) -> Array:
            items = jnp.sum(jnp.square(of_items), axis=1)
            at_triples = (items.at[ids].get(mode="clip") for ids in (batch.item_ids, negatives))
            return sum(at_triples, jnp.sum(jnp.square(of_rows), axis=1)[batch.rows])

        losses = jax.nn.softplus(score_differences(vectors, batch, negatives))
        losses = losses + config.l2 * squared_lengths(base.users[batch.user_ids], base.items)
        losses = jnp.where(is_triple, losses, 0.0)
        return sum_over_entries(batch, losses) / mean_length, ()

    def prepare_scoring(params: Params) -> ScoringVectors:
        vectors, sent = propagate(Vectors(**params), all_rows)
        return ScoringVectors(*vectors, sent if config.num_layers else gram_matrix(vectors.items))

    def score_fn(vectors: ScoringVectors, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return vectors.users[batch.user_ids] @ vectors.items.T

    def score_new_fn(vectors: ScoringVectors, batch: RowBatch, row_keys: RowKeys) -> Array:
        """LightGCN: from a vector of its own of 0 and what the items send. MF: by least squares on its row."""
        del row_keys
        rows = as_stored(batch, num_items)
        if not config.num_layers:
            return solve_rows(FOLD_IN, rows, vectors.items, vectors.new_users) @ vectors.items.T
        roots = jnp.sqrt(jnp.maximum(num_entries(batch, num_items), 1).astype(jnp.float32))
        return embed(rows, vectors.new_users) / roots[:, None] @ vectors.items.T

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
        score_new_fn=score_new_fn,
        item_embeddings=lambda vectors: vectors.items,
    )
