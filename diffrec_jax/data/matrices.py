"""CSR matrices whose rows are in time order: made of pairs, put together, cut and checked, the stored order kept."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse


class DataError(ValueError):
    """Data that cannot be used; the message says what is wrong, where, and what to do."""


def csr_from_pairs(pairs: np.ndarray, num_users: int, num_items: int) -> sparse.csr_array:
    """A [users, items] float32 matrix of ones from (user, item) pairs [n, 2].

    The stored order within a row is the order of the pairs: time. Sorting the indices in place would lose it.
    """
    order = np.argsort(pairs[:, 0], kind="stable")
    indptr = np.zeros(num_users + 1, np.int64)
    np.cumsum(np.bincount(pairs[:, 0], minlength=num_users), out=indptr[1:])
    items = pairs[order, 1].astype(np.int32)
    return sparse.csr_array((np.ones(len(items), np.float32), items, indptr), shape=(num_users, num_items))


def item_counts(train: sparse.csr_array) -> np.ndarray:
    """How many users each item has, [I] int64."""
    return np.bincount(train.indices, minlength=train.shape[1])


def item_shares(train: sparse.csr_array) -> np.ndarray:
    """The share of the users who have each item, [I] float32."""
    return (item_counts(train) / train.shape[0]).astype(np.float32)


def append_rows(first: sparse.csr_array, second: sparse.csr_array) -> sparse.csr_array:
    """Each row of ``first`` followed by the same row of ``second``, the stored order kept."""
    lengths = np.stack([np.diff(first.indptr), np.diff(second.indptr)], axis=1)
    users = np.arange(first.shape[0])
    order = np.argsort(
        np.concatenate([np.repeat(users, lengths[:, 0]), np.repeat(users, lengths[:, 1])]), kind="stable"
    )
    indptr = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
    indices = np.concatenate([first.indices, second.indices])[order]
    data = np.concatenate([first.data, second.data])[order]
    return sparse.csr_array((data, indices, indptr), shape=first.shape)


def split_rows(matrix: sparse.csr_array, share: float) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Each row's oldest part and its newest ``share``, rounded to whole entries; the oldest part keeps one at least."""
    lengths = np.diff(matrix.indptr)
    num_old = np.minimum(lengths, np.maximum(1, lengths - np.rint(share * lengths).astype(np.int64)))
    old, new = cut_rows(matrix, [num_old])
    return old, new


def cut_rows(matrix: sparse.csr_array, ends: Sequence[np.ndarray]) -> list[sparse.csr_array]:
    """Each row cut, in its stored order, after so many entries: ``ends``, [rows] each and rising; the rest is last."""
    lengths = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    parts, start = [], np.zeros_like(lengths)
    for end in (*ends, lengths):
        chosen = (place >= np.repeat(start, lengths)) & (place < np.repeat(end, lengths))
        indptr = np.concatenate([[0], np.cumsum(end - start)])
        parts.append(sparse.csr_array((matrix.data[chosen], matrix.indices[chosen], indptr), shape=matrix.shape))
        start = end
    return parts


def select_entries(matrix: sparse.csr_array, users: np.ndarray, chosen: np.ndarray) -> sparse.csr_array:
    """A matrix with some of the stored entries, in their order: ``users`` has the row of each, [nnz], as ``chosen``."""
    counts = np.bincount(users[chosen], minlength=matrix.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((matrix.data[chosen], matrix.indices[chosen], indptr), shape=matrix.shape)


def pair_codes(matrix: sparse.csr_array) -> np.ndarray:
    """A number for each stored entry that says its row and column, [nnz] int64."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices


def check_structure(matrix: sparse.csr_array, what: str) -> None:
    """Raises DataError unless this is a CSR matrix whose arrays fit together."""
    if not sparse.issparse(matrix) or matrix.format != "csr":
        raise DataError(f"{what} is {type(matrix).__name__}: give a scipy.sparse.csr_array [users, items] (tocsr())")
    indptr, indices = matrix.indptr, matrix.indices
    num_rows, num_columns = matrix.shape  # type: ignore[misc]
    if len(indptr) != num_rows + 1 or indptr[0] != 0 or np.any(np.diff(indptr) < 0):
        raise DataError(f"{what} is no valid CSR matrix: indptr has to rise from 0, with one entry more than rows")
    if indptr[-1] != len(indices) or len(indices) != len(matrix.data):
        raise DataError(
            f"{what} is no valid CSR matrix: indptr ends with {indptr[-1]}, with {len(indices)} indices and "
            f"{len(matrix.data)} values"
        )
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_columns:
        raise DataError(f"{what} has column indices from {indices.min()} to {indices.max()}, of {num_columns} columns")


def check_no_repeats(matrix: sparse.csr_array, what: str) -> None:
    """Raises DataError where a row of a CSR matrix stores a column twice: what sums and what sets would differ."""
    codes = np.sort(pair_codes(matrix))
    repeated = np.unique(codes[1:][codes[1:] == codes[:-1]])
    if len(repeated):
        row, column = divmod(int(repeated[0]), matrix.shape[1])
        raise DataError(
            f"{what} stores {len(repeated):,} entries more than once, the first in row {row}, column {column}"
        )


def as_csr(matrix: sparse.csr_array, what: str, *, weighted: bool) -> sparse.csr_array:
    """The matrix as csr_array of float32, its stored order kept.

    Raises:
      DataError: it is no CSR matrix of ones or, where it is weighted, of finite numbers above 0.
    """
    check_structure(matrix, what)
    values = matrix.data
    other = np.flatnonzero(~((values > 0) & (values < np.inf)) if weighted else values != 1)  # NaN too
    if len(other) and weighted:
        raise DataError(
            f"{what} holds {len(other):,} weights that are not finite and above 0, the first {values[other[0]]}: leave "
            "those interactions out, or give them a small weight"
        )
    if len(other):
        raise DataError(
            f"{what} holds {len(other):,} values that are not 1, the first {matrix.data[other[0]]}: keep what counts "
            "as an interaction (ratings: those above a threshold) and store it as 1, or say weighted=True where the "
            "values are weights"
        )
    if isinstance(matrix, sparse.csr_array) and matrix.dtype == np.float32:
        return matrix
    return sparse.csr_array((matrix.data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
