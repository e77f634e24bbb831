"""Linear models: a row's scores are its weights times a matrix of items on items, however that is found.

EASE, SLIM and GF-CF keep the matrix dense, ItemKNN and RP3beta the strongest neighbours of each item. The row may be
weighted by recency: T-EASE is EASE scored from such rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.data.embeddings import leading_item_factors, normalised_interactions
from diffrec_jax.data.matrices import item_counts
from diffrec_jax.data.similarity import BLOCK_BYTES, Neighbors, item_blocks, nearest_items, strongest
from diffrec_jax.recommenders.base import FittedRecommender
from diffrec_jax.recommenders.linear_denoiser import LinearFit, fit_linear_denoiser
from diffrec_jax.rows import embed
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.typing import Array, RowKeys


def _score_dense(weights: Array, batch: RowBatch, row_keys: RowKeys) -> Array:
    del row_keys
    return embed(batch, jnp.asarray(weights))


def _dense_bytes(bytes_per_pair: int):
    return lambda train: bytes_per_pair * train.shape[1] ** 2 + 4 * BLOCK_BYTES


@dataclass(frozen=True)
class EaseConfig:
    """EASE; the default is the usual starting point for data of ML-1M's size."""

    l2: float = setting(500.0, "L2 regularisation of the item-item weights.", above=0)
    dropout: float = setting(0.0, "Above 0, EDLAE: rate at which items are taken from a row.", at_least=0, below=1)
    user_weight_power: float = setting(0.0, "A user of n items weighs n to this power.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


def make_ease(config: EaseConfig) -> FittedRecommender:
    """The linear autoencoder without a diagonal, ``fit_linear_denoiser``. Takes 16 I^2 bytes.

    Reference: arXiv:1905.03375, algorithm 1.
    """

    def fit(train: sparse.csr_array) -> np.ndarray:
        return fit_linear_denoiser(train, LinearFit(config.l2, config.dropout, config.user_weight_power))

    return FittedRecommender(fit=fit, score_fn=_score_dense, fit_bytes=_dense_bytes(16))


@dataclass(frozen=True)
class SlimConfig:
    """SLIM with candidate features."""

    l1: float = setting(
        0.1,
        "L1 regularisation, beside half the sum of squared errors over all users (scikit-learn divides that sum by "
        "their number, and so these two).",
        at_least=0,
    )
    l2: float = setting(1.0, "L2 regularisation, counted likewise.", at_least=0)
    num_candidates: int = setting(200, "Items, by cosine, that may stand for an item; 0: all.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        if not self.l1 + self.l2:
            raise ValueError("the sum of l1 and l2 must be above 0, got 0")


def make_slim(config: SlimConfig) -> FittedRecommender:
    """Each item's column from the others' by a non-negative elastic net: (|x - Xw|^2 / 2 + l2 |w|^2 / 2) + l1 |w|.

    Takes 8 I^2 bytes for the result and its copy on the device.

    Reference: SLIM, Ning and Karypis, ICDM 2011, section III; candidates as in its fsSLIM.
    """

    def fit(train: sparse.csr_array) -> np.ndarray:
        from joblib import Parallel, delayed
        from sklearn.linear_model import ElasticNet  # takes a second to import

        num_users, num_items = train.shape[0], train.shape[1]
        columns = sparse.csc_array(train, dtype=np.float64)
        columns.indices, columns.indptr = columns.indices.astype(np.int32), columns.indptr.astype(np.int32)
        columns.sort_indices()
        total = config.l1 + config.l2

        def fit_item(item: int, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            features = candidates[candidates != item]
            target = columns[:, [item]].toarray().ravel()
            model = ElasticNet(
                alpha=total / num_users,
                l1_ratio=config.l1 / total,
                positive=True,
                fit_intercept=False,
                max_iter=100,
                tol=1e-3,
            )
            coefficients = model.fit(columns[:, features], target).coef_
            chosen = np.flatnonzero(coefficients)
            return features[chosen], coefficients[chosen]

        if config.num_candidates:
            candidates = nearest_items(train, config.num_candidates, shrink=0.0).item_ids
        else:
            candidates = np.broadcast_to(np.arange(num_items), (num_items, num_items))
        fitted = Parallel(n_jobs=-1, backend="threading")(
            delayed(fit_item)(item, candidates[item]) for item in range(num_items)
        )
        weights = np.zeros((num_items, num_items), np.float32)
        for item, (features, coefficients) in enumerate(fitted):  # type: ignore[arg-type]
            weights[features, item] = coefficients
        return weights

    return FittedRecommender(fit=fit, score_fn=_score_dense, fit_bytes=_dense_bytes(8))


@dataclass(frozen=True)
class GFCFConfig:
    """GF-CF; the defaults are its publication's."""

    rank: int = setting(256, "Rank of the ideal low-pass filter.", at_least=1)
    alpha: float = setting(0.3, "Weight of the ideal low-pass filter.", at_least=0)
    seed: int = seed_setting(1, "Seed of the SVD of many users and items; of few it is exact.")

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


def make_gfcf(config: GFCFConfig) -> FittedRecommender:
    """R~'R~ + alpha D^-1/2 V V' D^1/2 with R~ the normalised interactions, V its leading right singular vectors.

    Takes 12 I^2 bytes.

    Reference: arXiv:2108.07567, section 4.
    """

    def fit(train: sparse.csr_array) -> np.ndarray:
        _, vectors = leading_item_factors(train, config.rank, seed=config.seed)
        roots = np.sqrt(np.maximum(item_counts(train), 1)).astype(np.float32)
        weights = np.empty((train.shape[1],) * 2, np.float32)
        normalised = normalised_interactions(train)
        columns = normalised.T.tocsr()
        for block in item_blocks(train.shape[1]):
            low_pass = (vectors[block] / roots[block, None]) @ (vectors * roots[:, None]).T
            weights[block] = (columns[block] @ normalised).toarray() + config.alpha * low_pass
        return weights

    return FittedRecommender(fit=fit, score_fn=_score_dense, fit_bytes=_dense_bytes(12))


def score_neighbors(neighbors: Neighbors, batch: RowBatch, row_keys: RowKeys | None = None) -> Array:
    """Every item of a row adds its weight times that of its neighbours to them, [B, I]."""
    del row_keys
    item_ids, weights = (jnp.asarray(table).at[batch.item_ids].get(mode="clip") for table in neighbors)
    scores = jnp.zeros((batch.user_ids.shape[0], neighbors.item_ids.shape[0]))
    return scores.at[batch.rows[:, None], item_ids].add(weights * batch.weights[:, None])


def _neighbor_bytes(num_neighbors: int):
    return lambda train: 16 * num_neighbors * train.shape[1] + 4 * BLOCK_BYTES


@dataclass(frozen=True)
class ItemKNNConfig:
    """Item neighbourhoods by shrunk cosine."""

    num_neighbors: int = setting(100, "Neighbours of an item.", at_least=1)
    shrink: float = setting(10.0, "Added to the cosine's denominator.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


def make_item_knn(config: ItemKNNConfig) -> FittedRecommender:
    """Every item of the row adds to its nearest items.

    Reference: Deshpande and Karypis, ACM TOIS 22(1), 2004; shrinkage as in Bell and Koren, ICDM 2007.
    """
    return FittedRecommender(
        fit=lambda train: nearest_items(train, config.num_neighbors, shrink=config.shrink),
        score_fn=score_neighbors,
        fit_bytes=_neighbor_bytes(config.num_neighbors),
    )


@dataclass(frozen=True)
class RP3betaConfig:
    """Random walks of three steps, with popular ends held down."""

    num_neighbors: int = setting(100, "Neighbours of an item.", at_least=1)
    alpha: float = setting(1.0, "Power of each step's probabilities.", at_least=0)
    beta: float = setting(0.6, "Power of the end's popularity that its probability is divided by.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


def make_rp3beta(config: RP3betaConfig) -> FittedRecommender:
    """P_iu^alpha P_ui^alpha / popularity_j^beta, P the steps' probabilities: the walk goes on from the row's items.

    Reference: Paudel et al., ACM TiiS 7(1), 2016.
    """

    def fit(train: sparse.csr_array) -> Neighbors:
        counts = np.maximum(item_counts(train), 1).astype(np.float32)
        lengths = np.maximum(np.diff(train.indptr), 1).astype(np.float32)
        to_item = train.copy()
        to_item.data = np.repeat(1.0 / lengths, np.diff(train.indptr)) ** np.float32(config.alpha)
        to_user = train.copy()
        to_user.data = (1.0 / counts[train.indices]) ** np.float32(config.alpha)
        to_user = to_user.T.tocsr()

        def similarities() -> Iterator[tuple[slice, np.ndarray]]:
            for block in item_blocks(train.shape[1]):
                yield block, (to_user[block] @ to_item).toarray() / counts[None] ** np.float32(config.beta)

        return strongest(similarities(), train.shape[1], config.num_neighbors)

    return FittedRecommender(fit=fit, score_fn=score_neighbors, fit_bytes=_neighbor_bytes(config.num_neighbors))
