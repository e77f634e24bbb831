"""Item groups: which of C groups each item belongs to. An input of the latent models, saved with a run."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from scipy import sparse

from diffrec_jax.data.communities import find_communities, nearest_items_graph
from diffrec_jax.data.matrices import DataError, item_counts
from diffrec_jax.seeds import check_seed, sklearn_seed

GroupingMethod = Literal["kmeans", "spherical_kmeans", "spectral", "leiden", "popularity", "random"]
EMBEDDING_GROUPINGS: tuple[GroupingMethod, ...] = ("kmeans", "spherical_kmeans")


def _kmeans(features: np.ndarray, num_groups: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans  # takes a second to import

    return KMeans(num_groups, n_init=4, random_state=sklearn_seed(seed)).fit_predict(features)  # type: ignore[arg-type]


def _directions(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _of_some(counts: np.ndarray, num_groups: int, group: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The groups that ``group`` gives the items with a count [I] above 0; the others join the largest."""
    items = np.flatnonzero(counts)
    if len(items) <= num_groups:
        return np.arange(len(counts)) % num_groups
    found = group(items)
    labels = np.full(len(counts), np.bincount(found, minlength=num_groups).argmax())
    labels[items] = found
    return labels


def _spectral(train: sparse.csr_array, num_groups: int, seed: int) -> np.ndarray:
    """Spectral co-clustering of users and items (Dhillon 2001): a normalised cut of the interaction graph."""
    from sklearn.cluster import SpectralCoclustering

    def group(items: np.ndarray) -> np.ndarray:
        users = np.flatnonzero(np.diff(train.indptr))
        # float64 and int32: what its SVD takes without converting.
        graph = sparse.csr_matrix(train.astype(np.float64))[users][:, items]
        state = sklearn_seed(seed)
        return SpectralCoclustering(num_groups, svd_method="randomized", random_state=state).fit(graph).column_labels_

    return _of_some(item_counts(train), num_groups, group)


def _leiden(train: sparse.csr_array, num_groups: int, seed: int) -> np.ndarray:
    graph = nearest_items_graph(train)

    def group(items: np.ndarray) -> np.ndarray:
        return find_communities(graph[items][:, items], num_groups, seed=seed)

    return _of_some(np.diff(graph.indptr), num_groups, group)


def _equal_parts(order: np.ndarray, num_groups: int) -> np.ndarray:
    labels = np.empty(len(order), np.int64)
    for group, items in enumerate(np.array_split(order, num_groups)):
        labels[items] = group
    return labels


def group_items(
    method: GroupingMethod,
    num_groups: int,
    *,
    train: sparse.csr_array,
    embeddings: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """The group of each item, [I] int32 in 0..num_groups-1, the largest group first; the same for the same seed.

    Args:
      method: ``kmeans`` on the item embeddings, ``spherical_kmeans`` on their directions (else popular items, whose
        embeddings are long, may be a group of their own), ``spectral`` co-clustering of the interaction graph (items
        without interactions join the largest group), ``leiden`` communities of the graph of nearest items by cosine
        (likewise), ``popularity`` strata of equally many items, or ``random`` ones.
      num_groups: C, each with at least one item.
      train: training split [U, I].
      embeddings: [I, D], for kmeans of either kind.
      seed: of what is drawn, in [0, 2^63).

    Raises:
      DataError: more groups than items, embeddings of another number of items, a group that stays empty, a package
        that is missing, or a seed out of range.

    Reference: arXiv:2304.04971, L-DiffRec (k-means on LightGCN embeddings).
    """
    check_seed(seed)
    num_items = train.shape[1]
    if not 1 <= num_groups <= num_items:
        raise DataError(f"{num_groups} item groups of {num_items} items: choose between 1 and {num_items} (num_groups)")
    if num_groups == 1:
        labels = np.zeros(num_items, np.int64)
    elif method in EMBEDDING_GROUPINGS:
        if embeddings is None or len(embeddings) != num_items:
            found = "none" if embeddings is None else f"{len(embeddings)}"
            raise DataError(f"{method} needs an embedding of each of the {num_items} items, got {found}")
        labels = _kmeans(embeddings if method == "kmeans" else _directions(embeddings), num_groups, seed)
    elif method == "spectral":
        labels = _spectral(train, num_groups, seed)
    elif method == "leiden":
        labels = _leiden(train, num_groups, seed)
    elif method == "popularity":
        labels = _equal_parts(np.argsort(-item_counts(train), kind="stable"), num_groups)
    elif method == "random":
        labels = _equal_parts(np.random.default_rng(seed).permutation(num_items), num_groups)
    else:
        raise DataError(f"grouping {method!r} is unknown: choose one of {', '.join(get_args(GroupingMethod))}")
    sizes = np.bincount(labels, minlength=num_groups)
    if sizes.min() == 0:
        raise DataError(
            f"{method} left {np.sum(sizes == 0)} of {num_groups} item groups empty: choose fewer groups, another "
            "grouping or other item embeddings"
        )
    rank = np.empty(num_groups, np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(num_groups)
    return rank[labels]
