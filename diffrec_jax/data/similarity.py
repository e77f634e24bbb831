"""Similarities of items, computed a block of rows of the item-item matrix at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

BLOCK_BYTES = 2**27
"""Of a dense block of rows of the item-item matrix, while it is computed."""


def item_blocks(num_items: int) -> Iterator[slice]:
    """The items in blocks whose rows of an item-item matrix in float64 take ``BLOCK_BYTES``."""
    size = max(1, BLOCK_BYTES // (8 * num_items))
    for start in range(0, num_items, size):
        yield slice(start, min(start + size, num_items))


class Neighbors(NamedTuple):
    """The strongest neighbours of each item, [I, K] each; a place that is not filled has weight 0.

    NumPy on the host, JAX arrays on the device.
    """

    item_ids: Any
    weights: Any


def strongest(similarities: Iterator[tuple[slice, np.ndarray]], num_items: int, num_neighbors: int) -> Neighbors:
    """Of each item's row of similarities, dense a block at a time; an item is no neighbour of itself."""
    k = min(num_neighbors, num_items)
    found = Neighbors(np.empty((num_items, k), np.int32), np.empty((num_items, k), np.float32))
    for block, rows in similarities:
        rows[np.arange(rows.shape[0]), np.arange(block.start, block.stop)] = 0.0
        chosen = np.argpartition(-rows, k - 1, axis=1)[:, :k]
        found.item_ids[block], found.weights[block] = chosen, np.take_along_axis(rows, chosen, axis=1)
    return found


def nearest_items(train: sparse.csr_array, num_neighbors: int, *, shrink: float) -> Neighbors:
    """By cosine of the items' columns, x_i'x_j / (|x_i| |x_j| + shrink)."""
    columns = train.T.tocsr()
    norms = np.sqrt(np.bincount(train.indices, np.square(train.data), minlength=train.shape[1])).astype(np.float32)

    def similarities() -> Iterator[tuple[slice, np.ndarray]]:
        for block in item_blocks(train.shape[1]):
            scale = norms[block, None] * norms[None] + shrink
            yield block, (columns[block] @ train).toarray() / np.where(scale > 0, scale, 1.0)

    return strongest(similarities(), train.shape[1], num_neighbors)


def strongest_of_rows(matrix: sparse.csr_array, num_neighbors: int) -> Neighbors:
    """Of each row of a sparse matrix [N, I] the entries of the largest size, [N, min(K, I)]."""
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-np.abs(matrix.data), rows))  # each row's entries stay together
    places = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    kept = places < num_neighbors
    shape = len(lengths), min(num_neighbors, matrix.shape[1])
    found = Neighbors(np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    found.item_ids[rows[kept], places[kept]] = matrix.indices[order][kept]
    found.weights[rows[kept], places[kept]] = matrix.data[order][kept]
    return found
