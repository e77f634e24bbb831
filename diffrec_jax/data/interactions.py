"""Interactions of users with items: three CSR splits, each row in time order."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

SPLITS = ("train", "valid", "test")


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
    is_old = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths) < np.repeat(num_old, lengths)

    def part(chosen: np.ndarray, counts: np.ndarray) -> sparse.csr_array:
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return sparse.csr_array((matrix.data[chosen], matrix.indices[chosen], indptr), shape=matrix.shape)

    return part(is_old, num_old), part(~is_old, lengths - num_old)


@dataclass(frozen=True)
class Dataset:
    """A dataset split per user by time. Every split is a CSR matrix [num_users, num_items] of ones in time order."""

    name: str
    train: sparse.csr_array
    valid: sparse.csr_array
    test: sparse.csr_array
    warnings: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        """Rows of every split."""
        return self.train.shape[0]

    @property
    def num_items(self) -> int:
        """Columns of every split."""
        return self.train.shape[1]

    @cached_property
    def train_and_valid(self) -> sparse.csr_array:
        """What is known before the test: each user's training and then validation interactions."""
        return append_rows(self.train, self.valid)

    def inner_split(self, share: float) -> "Dataset":
        """A dataset to tune on that knows nothing of the test: the newest ``share`` of each training row to validate
        with, the former validation split as the test.

        Raises:
          DataError: no interaction is left to validate with.
        """
        train, valid = split_rows(self.train, share)
        if not valid.nnz:
            raise DataError(f"{self.name}: no training row is long enough for an inner split of {share:g}: take more")
        warnings = coverage_warnings(train, valid, self.valid)
        return Dataset(f"{self.name}, inner split {share:g}", train, valid, self.valid, warnings)

    def summary(self) -> str:
        """One line of counts."""
        counts = ", ".join(f"{split} {getattr(self, split).nnz:,}" for split in SPLITS)
        return f"{self.name}: {self.num_users:,} users, {self.num_items:,} items; interactions: {counts}"


def coverage_warnings(train: sparse.csr_array, valid: sparse.csr_array, test: sparse.csr_array) -> tuple[str, ...]:
    """A sentence for each kind of users or items that the training split does not know."""
    sentences = []
    for axis, kind in ((1, "users"), (0, "items")):
        known, elsewhere = (
            np.asarray(matrix.astype(bool).sum(axis=axis)).ravel() > 0 for matrix in (train, valid + test)
        )
        unknown = int(np.sum(elsewhere & ~known))
        if unknown:
            sentences.append(
                f"{unknown:,} {kind} occur in valid or test but not in train: kept, though nothing is learnt of them"
            )
    return tuple(sentences)
