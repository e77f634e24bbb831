"""MF and LightGCN: vectors of users and items, trained so that a user's items score above others (BPR).

MF is LightGCN without layers. A batch holds whole rows: each of their entries is compared with an item drawn anew.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.embeddings import normalised_interactions
from diffrec_jax.recommenders.base import Clock, Recommender
from diffrec_jax.recommenders.checks import check_above_zero, check_at_least
from diffrec_jax.rows import embed, sample_unseen, sum_over_entries
from diffrec_jax.typing import Array, Key, Params, RowKeys


@dataclass(frozen=True)
class MFConfig:
    """Matrix factorisation by BPR."""

    num_layers: ClassVar[int] = 0
    embedding_size: int = 64
    l2: float = 1e-4
    """Of the vectors of each compared triple before propagation."""
    init_stddev: float = 0.1

    def __post_init__(self) -> None:
        """Checks every value."""
        check_at_least(1, embedding_size=self.embedding_size)
        check_at_least(0, l2=self.l2)
        check_above_zero(init_stddev=self.init_stddev)


@dataclass(frozen=True)
class LightGCNConfig(MFConfig):
    """LightGCN."""

    num_layers: int = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_at_least(1, num_layers=self.num_layers)


class Vectors(NamedTuple):
    """Of users [U, D] and items [I, D]."""

    users: Array
    items: Array


def make_propagate(train: sparse.csr_array, num_layers: int):
    """The function that averages Vectors over 0..num_layers applications of the graph's normalised adjacency.

    The graph is index arrays, summed over in chunks (``embed``): measured beside plain segment sums, a dense product
    and SciPy by ``python -m benchmarks.propagation``.

    Reference: arXiv:2002.02126, eqs. 3 and 4.
    """
    if num_layers == 0:
        return lambda vectors: vectors
    normalised = normalised_interactions(train)
    of_users, of_items = (
        make_row_batch(matrix, np.arange(matrix.shape[0])) for matrix in (normalised, sparse.csr_array(normalised.T))
    )

    @jax.custom_vjp
    def propagate(vectors: Vectors) -> Vectors:
        layer, total = vectors, vectors
        for _ in range(num_layers):
            layer = Vectors(embed(of_users, layer.items), embed(of_items, layer.users))
            total = jax.tree.map(jnp.add, total, layer)
        return jax.tree.map(lambda summed: summed / (num_layers + 1), total)

    # A symmetric linear map is its own transpose, and faster than the derivative of its sums.
    propagate.defvjp(lambda vectors: (propagate(vectors), None), lambda _, gradient: (propagate(gradient),))
    return propagate


def make_bpr(config: MFConfig, train: sparse.csr_array) -> Recommender:
    """The functions of MF or LightGCN over the users and items of a training split.

    The loss of a row sums over its entries and is divided by the rows' mean length, so that every interaction counts
    the same and a batch's mean loss is that of an interaction.

    Reference: arXiv:1205.2618 (BPR), section 4; arXiv:2002.02126 (LightGCN).
    """
    num_users, num_items = train.shape[0], train.shape[1]
    mean_length = max(train.nnz / num_users, 1.0)
    propagate = make_propagate(train, config.num_layers)

    def init_params(key: Key) -> Params:
        return {
            name: config.init_stddev * jax.random.normal(part_key, (count, config.embedding_size))
            for name, part_key, count in zip(Vectors._fields, jax.random.split(key), (num_users, num_items))
        }

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, clock: Clock):
        del model_state, clock
        base = Vectors(**params)
        vectors = propagate(base)
        negatives = sample_unseen(batch, row_keys, num_items)
        is_triple = (batch.item_ids < num_items) & (negatives < num_items)
        users = batch.user_ids[batch.rows]

        def triple(found: Vectors) -> tuple[Array, Array, Array]:
            positive, negative = (found.items.at[ids].get(mode="clip") for ids in (batch.item_ids, negatives))
            return found.users[users], positive, negative

        user, positive, negative = triple(vectors)
        losses = jax.nn.softplus(jnp.sum(user * (negative - positive), axis=1))
        penalty = sum(jnp.sum(jnp.square(vector), axis=1) for vector in triple(base))
        losses = jnp.where(is_triple, losses + config.l2 * penalty, 0.0)
        return sum_over_entries(batch, losses) / mean_length, ()

    def score_fn(vectors: Vectors, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return vectors.users[batch.user_ids] @ vectors.items.T

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        prepare_scoring=lambda params: propagate(Vectors(**params)),
        score_fn=score_fn,
        item_embeddings=lambda vectors: vectors.items,
    )
