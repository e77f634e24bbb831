"""Communities of the graph of items: those that have more users in common than chance would give them."""

import numpy as np
from scipy import sparse

from diffrec_jax.data.matrices import DataError
from diffrec_jax.data.similarity import nearest_items

NUM_NEIGHBORS = 20
"""Of an item in the graph."""
TOLERANCE = 1e-3
"""Of the resolution, relative."""


def nearest_items_graph(train: sparse.csr_array) -> sparse.csr_array:
    """Each item of a matrix [U, I] beside its nearest ones by cosine of the columns: symmetric, no loops, [I, I]."""
    nearest, num_items = nearest_items(train, NUM_NEIGHBORS, shrink=0.0), train.shape[1]
    values, starts = nearest.weights.astype(np.float64), np.arange(num_items + 1) * nearest.weights.shape[1]
    graph = sparse.csr_array((values.ravel(), nearest.item_ids.ravel(), starts), shape=(num_items, num_items))
    graph.eliminate_zeros()
    return graph.maximum(graph.T).tocsr()


def find_communities(graph: sparse.csr_array, num_groups: int, *, seed: int = 0) -> np.ndarray:
    """The nodes [N] of a graph in ``num_groups`` groups: its communities by modularity.

    Where they are fewer, the resolution is raised to the smallest, by bisection, that gives as many or more. Where they
    are more, they are joined.

    Args:
      graph: symmetric weights [N, N] without loops, every node with an edge.
      num_groups: at most N.
      seed: of the search.

    Raises:
      DataError: graspologic-native is missing.

    Reference: Leiden, arXiv:1810.08473; the resolution, arXiv:cond-mat/0603718.
    """
    try:
        from graspologic_native import leiden_csr
    except ImportError as error:
        raise DataError("grouping leiden needs graspologic-native: pip install 'diffrec-jax[graph]'") from error
    arrays, num_nodes = (graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data), graph.shape[0]

    def divide(resolution: float) -> tuple[np.ndarray, int]:
        """The community of each node, and how many there are."""
        _, found = leiden_csr(*arrays, num_nodes, resolution=resolution, iterations=2, seed=seed)
        return np.array([found[node] for node in range(num_nodes)]), max(found.values()) + 1

    low = high = 1.0
    communities, count = divide(high)
    while count < num_groups:
        low, high = high, 2 * high
        communities, count = divide(high)
    while count > num_groups and high - low > TOLERANCE * high:
        middle = (low + high) / 2
        found, found_count = divide(middle)
        if found_count < num_groups:
            low = middle
        else:
            high, communities, count = middle, found, found_count
    return join_communities(graph, communities, num_groups)


def join_communities(graph: sparse.csr_array, communities: np.ndarray, num_groups: int) -> np.ndarray:
    """Groups [N]: again and again the community of the least weight joins that with which most modularity is left."""
    degrees, groups = graph.sum(axis=1), communities.copy()
    for _ in range(groups.max() + 1 - num_groups):
        weights = np.bincount(groups, degrees)
        weights[weights == 0] = np.inf  # joined before
        least = weights.argmin()
        own = groups == least
        ties = np.bincount(groups, graph[own].sum(axis=0), minlength=len(weights))
        gains = ties - weights[least] * weights / degrees.sum()
        gains[least] = -np.inf
        groups[own] = gains.argmax()
    return np.unique(groups, return_inverse=True)[1]
