"""GiffCF: rows are smoothed over the graph of items that users have in common, and a denoiser sharpens them.

Reference: arXiv:2311.08744.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.data.embeddings import leading_column_factors
from diffrec_jax.data.matrices import item_counts
from diffrec_jax.data.similarity import BLOCK_BYTES, item_blocks
from diffrec_jax.diffusion.heat import sharpen_loop, smoothed
from diffrec_jax.models.graph_denoiser import GraphDenoiser
from diffrec_jax.models.likelihood import squared_error
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import (
    DROPOUT_PLACE,
    NOISE_PLACE,
    TIMESTEP_PLACE,
    check_something_is_learnt,
    row_normals,
    uniform_timesteps,
    weigh_users,
)
from diffrec_jax.rows import dropout_entries, fold_each, targets, to_dense
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

LATENT_DROPOUT_PLACE = 3  # of the keys that a row's key is folded with; the diffusions' own come before


@dataclass(frozen=True)
class GiffCFConfig:
    """GiffCF; the defaults are the released ones for ML-1M."""

    less_memory: ClassVar[str] = "let the graph pass through its leading eigenvectors (rank 500, say)"
    embedding_size: int = setting(200, "Size of the item vectors.", at_least=1)
    num_timesteps: int = setting(3, "T, steps.", at_least=1, aliases=("steps",))
    smoothing: float = setting(1.5, "alpha: after T steps a row is x + alpha (A x - x).", above=0)
    rank: int = setting(
        0,
        "R, for many items: A through R leading eigenvectors; 0: whole, which takes 12 bytes for each pair of items.",
        at_least=0,
    )
    ideal_weight: float = setting(0.0, "Weight of an ideal low-pass filter in A, beside the graph's own.", at_least=0)
    ideal_rank: int = setting(200, "Its rank.", at_least=1)
    noise_scale: float = setting(0.0, "Standard deviation of the noise at step T.", at_least=0)
    residual_decay: float = setting(
        0.5, "What is kept, a step, of a row's difference from its prediction; the noise falls likewise.", at_least=0
    )
    dropout: float = setting(0.5, "Rate of the dropout of the row that the denoiser is told.", at_least=0, below=1)
    latent_dropout: float = setting(
        0.0,
        "Rate of the dropout of the mixed latent values. Not in the publication.",
        at_least=0,
        below=1,
        newer=True,
    )
    observed_error_weight: float = setting(
        1.0,
        "Weight of the squared error at items that dropout left in that row; 0: of the row's items, only those that "
        "dropout took are learnt.",
        at_least=0,
    )
    user_weight_power: float = setting(0.0, "A user of n items weighs n to this power.", at_least=0, newer=True)
    smooth_shown: bool = setting(
        False,
        "In training z_t is smoothed from the row after dropout: the whole row would tell what dropout took. Not in "
        "the publication.",
        newer=True,
    )
    item_statistics: bool = setting(
        False,
        "The mixer of scores is told two numbers of each item, too, which start as its log popularity and the log "
        "activity of its users. Not in the publication.",
        newer=True,
    )

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        check_something_is_learnt(self.dropout, self.observed_error_weight)
        if 0 < self.rank < self.ideal_rank and self.ideal_weight:
            raise ValueError(f"ideal_rank must be at most rank {self.rank}, got {self.ideal_rank}")

    @property
    def has_linear_part(self) -> bool:
        """Whether something is computed before the training: the graph."""
        return True

    def linear_bytes(self, train: sparse.csr_array) -> int:
        """What that takes at its peak."""
        return 12 * train.shape[1] * (self.rank or train.shape[1]) + BLOCK_BYTES


def graph_factor(train: sparse.csr_array) -> sparse.csr_array:
    """B = D_u^-1/4 R D_i^-1/2 of the stored entries [U, I], float32: the items' graph is B'B.

    Reference: arXiv:2311.08744, section 3.1.
    """
    of_users = np.maximum(np.diff(train.indptr), 1) ** -0.25
    of_items = np.maximum(item_counts(train), 1) ** -0.5
    values = np.repeat(of_users, np.diff(train.indptr)) * of_items[train.indices]
    return sparse.csr_array((values.astype(np.float32), train.indices, train.indptr), shape=train.shape)


def item_statistics(train: sparse.csr_array) -> np.ndarray:
    """log(1 + n) of each item's number of users, and of the mean number of items that these have, [2, I] float32.

    Each of mean 0 and deviation 1.
    """
    counts = item_counts(train)
    of_users = np.repeat(np.diff(train.indptr), np.diff(train.indptr))
    activity = np.bincount(train.indices, weights=of_users, minlength=train.shape[1]) / np.maximum(counts, 1)
    values = np.log1p([counts, activity])
    spread = values.std(axis=1, keepdims=True)
    return ((values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def make_graph(config: GiffCFConfig, train: sparse.csr_array) -> dict[str, np.ndarray]:
    """A = (B'B / l + w V V') / (1 + w), l the largest eigenvalue of B'B and V its leading eigenvectors.

    Returns:
      A [I, I] as "similarity", or, with a rank, "factors" F [I, R] with F F' nearest to A.
    """
    factor, weight = graph_factor(train), config.ideal_weight
    size = max(config.rank, config.ideal_rank if weight else 1)
    singular_values, vectors = leading_column_factors(factor, size)
    largest = singular_values[0] ** 2
    if config.rank:
        shares = singular_values**2 / largest + weight * (np.arange(len(singular_values)) < config.ideal_rank)
        return {"factors": (vectors * np.sqrt(shares / (1.0 + weight))).astype(np.float32)}
    similarity, columns = np.empty((train.shape[1],) * 2, np.float32), factor.T.tocsr()
    for block in item_blocks(train.shape[1]):
        low_pass = weight * vectors[block] @ vectors.T if weight else 0.0
        similarity[block] = ((columns[block] @ factor).toarray() / largest + low_pass) / (1.0 + weight)
    return {"similarity": similarity}


def smooth(graph: dict[str, Array], x: Array) -> Array:
    """A x of rows x [B, I]."""
    if "factors" in graph:
        return (x @ graph["factors"]) @ graph["factors"].T
    return x @ graph["similarity"]


def make_giffcf(config: GiffCFConfig, train: sparse.csr_array) -> Recommender:
    """The functions of a GiffCF over the items of a training split."""
    num_items, num_timesteps = train.shape[1], config.num_timesteps
    model = GraphDenoiser(num_items, config.embedding_size, config.item_statistics, config.latent_dropout)
    path = {"num_timesteps": num_timesteps, "strength": config.smoothing}

    def init_params(key: Key) -> Params:
        nothing = jnp.zeros((1, num_items))
        rank = min(config.rank, train.shape[0], num_items)
        graph = {"factors": jnp.zeros((num_items, rank))} if rank else {"similarity": jnp.zeros((num_items,) * 2)}
        return {"network": model.init(key, nothing, nothing, nothing, jnp.zeros(1, jnp.int32)), "graph": graph}

    def warm_start(params: Params) -> Params:
        started = params | {"graph": make_graph(config, train)}
        if config.item_statistics:
            started["network"] = {"params": params["network"]["params"] | {"item_statistics": item_statistics(train)}}
        return started

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state, context
        graph = jax.lax.stop_gradient(params["graph"])
        x = to_dense(batch, num_items)
        t = uniform_timesteps(fold_each(row_keys, TIMESTEP_PLACE), num_timesteps) + 1
        shown = dropout_entries(batch, fold_each(row_keys, DROPOUT_PLACE), config.dropout)
        known = to_dense(shown, num_items)
        smooth_known = smooth(graph, known)
        start = (known, smooth_known) if config.smooth_shown else (x, smooth(graph, x))
        z_t = smoothed(*start, t, **path)
        if config.noise_scale:
            scale = config.noise_scale * config.residual_decay ** (num_timesteps - t.astype(jnp.float32))
            z_t = z_t + scale[:, None] * row_normals(fold_each(row_keys, NOISE_PLACE), num_items)
        latent_keys = fold_each(row_keys, LATENT_DROPOUT_PLACE)
        x_hat: Array = model.apply(params["network"], z_t, known, smooth_known, t, latent_keys)  # type: ignore[assignment]
        losses = squared_error(x_hat, targets(batch), shown=shown, shown_weight=config.observed_error_weight)
        return weigh_users(config.user_weight_power, losses, batch, num_items), ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        x = to_dense(batch, num_items)
        smooth_x = smooth(params["graph"], x)

        def denoise(z_t: Array, t: Array) -> Array:
            return model.apply(params["network"], z_t, x, smooth_x, t)  # type: ignore[return-value]

        return sharpen_loop(
            denoise, lambda rows: smooth(params["graph"], rows), x, residual_decay=config.residual_decay, **path
        )

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        warm_start=warm_start,
        held_params="graph",
        item_embeddings=lambda params: params["network"]["params"]["item_vectors"],
    )
