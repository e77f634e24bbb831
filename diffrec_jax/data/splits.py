"""Splits of users' rows, as arrays: rows lie user after user, each user's in the order of time.

A split is a function of such rows to the part of each: 0 train, 1 valid, 2 test. It looks at whole users, so rows of
any number may be split block by block.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from diffrec_jax.data.interactions import SPLITS, Dataset
from diffrec_jax.data.matrices import DataError, select_entries

TRAIN, VALID, TEST = 0, 1, 2
SplitName = Literal["by_time", "leave_one_out", "global_time", "random", "users", "given"]


@dataclass(frozen=True)
class Rows:
    """The interactions of some users."""

    users: np.ndarray
    """Numbers [n], rising."""
    times: np.ndarray
    """[n] float64, rising for each user."""
    parts: np.ndarray | None = None
    """Of data that are split already."""

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each user's rows begin."""
        return np.flatnonzero(np.diff(self.users, prepend=-1))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Of each user."""
        return np.diff(self.starts, append=len(self.users))

    @cached_property
    def places(self) -> np.ndarray:
        """Of each row among its user's, from 0."""
        return np.arange(len(self.users)) - np.repeat(self.starts, self.lengths)


Split = Callable[[Rows], np.ndarray]


def cumulated_shares(ratios: Sequence[float]) -> np.ndarray:
    """Where each part but the last ends, as shares of the whole.

    Raises:
      DataError: the ratios are not two or three numbers above 0.
    """
    shares = np.asarray(ratios, np.float64)
    if shares.shape not in ((2,), (3,)) or not np.all(shares > 0) or not np.all(np.isfinite(shares)):
        raise DataError(f"ratios have to be two or three numbers above 0 (train, valid, test), got {tuple(ratios)}")
    return np.cumsum(shares)[:-1] / shares.sum()


def part_ends(lengths: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Where each part but the last ends in rows of these lengths: rounded to even halves, train keeps one at least."""
    return [np.minimum(lengths, np.maximum(1, np.rint(share * lengths).astype(np.int64))) for share in shares]


def _parts(places: np.ndarray, ends: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """The part of each place; two parts are train and test."""
    train_end, test_start = (np.repeat(end, lengths) for end in (ends[0], ends[-1]))
    return np.where(places < train_end, TRAIN, np.where(places < test_start, VALID, TEST)).astype(np.int8)


def by_time(ratios: Sequence[float] = (7, 1, 2)) -> Split:
    """Each user's rows by time in these ratios."""
    shares = cumulated_shares(ratios)
    return lambda rows: _parts(rows.places, part_ends(rows.lengths, shares), rows.lengths)


def leave_one_out(rows: Rows) -> np.ndarray:
    """Each user's newest row to test, the one before to validate; users with one or two rows keep one in train."""
    test_start = np.maximum(rows.lengths - 1, 1)
    train_end = np.maximum(rows.lengths - 2, 1)
    return _parts(rows.places, (train_end, test_start), rows.lengths)


def at_times(valid_start: float, test_start: float) -> Split:
    """All rows before a time to train, from another on to test."""

    def split(rows: Rows) -> np.ndarray:
        if np.isnan(rows.times).any():
            raise DataError("a split at points in time needs the interactions' times")
        return ((rows.times >= valid_start).astype(np.int8) + (rows.times >= test_start)).astype(np.int8)

    return split


def time_points(times: np.ndarray, ratios: Sequence[float]) -> tuple[float, float]:
    """Where valid and test begin, so that the rows before are these shares of all (up to rows of the same time)."""
    shares = cumulated_shares(ratios)
    places = [min(int(np.rint(share * len(times))), len(times) - 1) for share in shares]
    found = np.partition(times, places)[places]
    return float(found[0]), float(found[-1])


def _mixed(state: np.ndarray) -> np.ndarray:
    """splitmix64's next number after a state, uint64."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def hashed(seed: int, *numbers: np.ndarray) -> np.ndarray:
    """A 64-bit hash of some numbers and a seed (splitmix64): draws that no order and no block of rows changes.

    The seed is mixed before the first number meets it: else one seed would be another with the numbers exchanged.
    """
    state = _mixed(np.full(np.broadcast_shapes(*(number.shape for number in numbers)), seed, np.uint64))
    for number in numbers:
        state = _mixed(state ^ number.astype(np.uint64))
    return state


SORTED_BY_ITEMS = (
    "there are no times, and each user's interactions are in the order of their items: they were put into a random "
    "order, always the same, so that a split by time is one at random, and recency means nothing; if that is the order "
    "of time, give times, such as the numbers of the rows"
)
ENOUGH_PAIRS = 100
"""Neighbours in rows, all of which are in the order of items, from which on that is no chance."""


def item_order(users: np.ndarray, items: np.ndarray) -> tuple[int, int]:
    """Of interactions in the order of users: how many have another item of their user before them, how often a lesser.

    As of a sparse matrix or a sorted table, rows in the order of their items say nothing of time: each user's newest,
    which a split by time tests with, would be those of the highest numbers.
    """
    steps = np.diff(items.astype(np.int64))[users[1:] == users[:-1]]
    return int(np.sum(steps != 0)), int(np.sum(steps > 0))


def is_sorted_by_items(num_pairs: int, num_rising: int) -> bool:
    """Whether rows, by their ``item_order``, are sorted by items, rising or falling."""
    return num_pairs >= ENOUGH_PAIRS and num_rising in (0, num_pairs)


def random_order(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """An order by user, and within each at random: the same wherever the interactions stand."""
    return np.lexsort((hashed(0, users, items), users))


def at_random(ratios: Sequence[float] = (7, 1, 2), *, seed: int = 0) -> Split:
    """Each user's rows at random in these ratios; within a part they keep the order of time."""
    shares = cumulated_shares(ratios)

    def split(rows: Rows) -> np.ndarray:
        order = np.lexsort((hashed(seed, rows.users, rows.places), rows.users))
        shuffled = np.empty(len(order), np.int64)
        shuffled[order] = rows.places
        return _parts(shuffled, part_ends(rows.lengths, shares), rows.lengths)

    return split


def by_users(ratios: Sequence[float] = (8, 1, 1), *, input_share: float = 0.8, seed: int = 0) -> Split:
    """Whole users held out: a hash puts each user to train, valid or test, in these ratios up to chance.

    A training user's rows are all in train. Of a held-out user the oldest ``input_share`` are in train too, as what
    models see of it, and the others in valid or test; one row at least is input.

    Reference: strong generalisation, Marlin, University of Toronto 2004; as in arXiv:1802.05814, section 4.1, there
    with a random share as input.

    Raises:
      DataError: the ratios are not two or three numbers above 0, or the share is not between 0 and 1.
    """
    shares = cumulated_shares(ratios)
    if not 0 < input_share < 1:
        raise DataError(f"input_share must be above 0 and below 1, got {input_share:g}")

    def split(rows: Rows) -> np.ndarray:
        drawn = hashed(seed, rows.users[rows.starts]) / 2.0**64
        own = np.where(drawn < shares[0], TRAIN, np.where(drawn < shares[-1], VALID, TEST))
        (input_ends,) = part_ends(rows.lengths, np.array([input_share]))
        is_input = rows.places < np.repeat(input_ends, rows.lengths)
        return np.where(is_input, TRAIN, np.repeat(own, rows.lengths)).astype(np.int8)

    return split


def as_given(rows: Rows) -> np.ndarray:
    """The parts that the log has."""
    if rows.parts is None:
        raise DataError("the log is not split: choose another split than given")
    return rows.parts


def rows_of(dataset: Dataset, split: str) -> Rows:
    """The interactions of a split; times are NaN where there are none."""
    matrix, times = getattr(dataset, split), dataset.times_of(split)
    users = np.repeat(np.arange(dataset.num_users), np.diff(matrix.indptr))
    return Rows(users, np.full(len(users), np.nan) if times is None else times)


def split_dataset(dataset: Dataset, split: Split) -> Dataset:
    """A dataset that is all in train, as ``from_interactions`` makes it, parted by a split.

    Raises:
      DataError: it is split already, or its rows would need times or parts that it does not have.
    """
    if dataset.valid.nnz or dataset.test.nnz:
        raise DataError(f"{dataset.name} is split already: split what from_interactions gives")
    rows = rows_of(dataset, "train")
    parts = split(rows)
    chosen = {name: parts == part for name, part in zip(SPLITS, (TRAIN, VALID, TEST))}
    columns: dict[str, Any] = {
        field: {name: values["train"][mask] for name, mask in chosen.items()}
        for field, values in dataset.entry_columns.items()
    }
    matrices = {name: select_entries(dataset.train, rows.users, mask) for name, mask in chosen.items()}
    return dataclasses.replace(dataset, **columns, **matrices)


def hold_out_users(
    dataset: Dataset, ratios: Sequence[float] = (8, 1, 1), *, input_share: float = 0.8, seed: int = 0
) -> Dataset:
    """A dataset that is all in train with whole users held out to validate and test with, by ``by_users``.

    Evaluate it in mode ``relevant_users``: each held-out user is in valid or in test.

    Raises:
      DataError: it is split already, no user is left to learn of or to test with, or a value is out of range.
    """
    split = split_dataset(dataset, by_users(ratios, input_share=input_share, seed=seed))
    held_out = np.flatnonzero(np.diff(split.valid.indptr) + np.diff(split.test.indptr))
    if not split.test.nnz or len(held_out) == dataset.num_users:
        left = "test with" if not split.test.nnz else "learn of"
        raise DataError(f"{dataset.name}: no user was drawn to {left}, of {dataset.num_users:,}: take another seed")
    return dataclasses.replace(split, held_out_users=held_out)


def split_by_time(dataset: Dataset, ratios: Sequence[float] = (7, 1, 2)) -> Dataset:
    """Each user's training interactions parted by time into train, valid and test in these ratios.

    Part p of a row of n ends at the n times its cumulated share, rounded to even halves; train keeps one at least.
    With two ratios there is no valid split. Users with few interactions may have nothing to validate or test with.

    Args:
      dataset: with all interactions in train, as ``from_interactions`` makes it.
      ratios: of train, valid and test, or of train and test.

    Raises:
      DataError: the dataset is split already, or the ratios are not two or three numbers above 0.
    """
    return split_dataset(dataset, by_time(ratios))
