"""Interactions of users with items: three CSR splits, each row in time order."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from diffrec_jax.data.matrices import DataError, append_rows, as_csr, pair_codes, select_entries, split_rows

SPLITS = ("train", "valid", "test")
ENTRY_FIELDS = ("times", "ratings")
"""Of a dataset, what it may know of each entry beside its value."""
LONGEST_ID = 1000
"""Characters: NumPy gives every id the room of the longest."""


def as_ids(ids: Any, what: str) -> np.ndarray:
    """Ids [n] as int64 or, where they are texts, as NumPy strings.

    Raises:
      DataError: they are neither, one is missing, or one is longer than ``LONGEST_ID``.
    """
    ids = as_column(ids)
    if ids.dtype.kind == "O" and ids.ndim == 1:
        ids = _as_texts(ids, what)
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise DataError(f"{what} are {ids.dtype}, {ids.ndim}-dimensional: give a vector of integers or of strings")
    if ids.dtype.kind == "U":
        if ids.dtype.itemsize > 4 * LONGEST_ID:
            _check_lengths(ids, what)
        return ids
    if ids.size and ids.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what} go up to {ids.max()}, beyond int64: give them as strings")
    return ids.astype(np.int64, copy=False)


def as_column(values: Any) -> np.ndarray:
    """An array; of a list with texts one of objects, so that the longest does not decide the room of all."""
    is_list = isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)
    return np.array(values, object) if is_list else np.asarray(values)


def _as_texts(ids: np.ndarray, what: str) -> np.ndarray:
    """Ids [n] that are Python strings as NumPy's; as they are where some are something else."""
    if all(isinstance(value, str) for value in ids):
        _check_lengths(ids, what)
        return ids.astype(np.str_)
    missing = [value is None or value != value for value in ids]
    if any(missing):
        raise DataError(f"{what}: {sum(missing):,} are missing, the first in row {missing.index(True):,}")
    return ids


def _check_lengths(ids: np.ndarray, what: str) -> None:
    longest = max(ids, key=len, default="")
    if len(longest) > LONGEST_ID:
        raise DataError(
            f"{what}: an id has {len(longest):,} characters, {longest[:40]!s}...: ids of up to {LONGEST_ID:,} are "
            "kept; is it the right column?"
        )


def number_ids(ids: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The different ids in ascending order, and the number among them of each of the ids [n].

    Raises:
      DataError: as of ``as_ids``.
    """
    ids = as_column(ids)
    if ids.dtype.kind != "O" or ids.ndim != 1 or set(map(type, ids)) != {str}:
        return np.unique(as_ids(ids, what), return_inverse=True)  # type: ignore[return-value]
    texts = sorted(set(ids))  # only these get the room of the longest
    numbers = {text: number for number, text in enumerate(texts)}
    return as_ids(texts, what), np.fromiter(map(numbers.__getitem__, ids), np.int64, len(ids))


def _one_for_each(ids: np.ndarray, size: int, what: str) -> np.ndarray | None:
    """Original ids [size]; None where they are 0, 1, 2, ...

    Raises:
      DataError: they are not ``size`` different integers or strings.
    """
    ids = as_ids(ids, what)
    if len(ids) != size or len(np.unique(ids)) != size:
        raise DataError(f"{what} have to be {size} different ids, one for each")
    return None if ids.dtype.kind == "i" and np.array_equal(ids, np.arange(size)) else ids


@dataclass(frozen=True)
class Dataset:
    """A dataset split per user by time. Every split is a CSR matrix [num_users, num_items] in time order.

    A user and an item meet at most once, in one of the splits. The values are ones or, of a ``weighted`` dataset,
    weights of the interactions: counts, confidence. Weights are what models see and learn; what is seen,
    masked and relevant is whatever is stored, whatever its weight.

    Raises:
      DataError: the splits are no CSR matrices of ones, are of several shapes, or a pair occurs twice; or the ids are
        not one for each. The message says where.
    """

    name: str
    train: sparse.csr_array
    valid: sparse.csr_array
    test: sparse.csr_array
    reading_warnings: tuple[str, ...] = ()
    """What the reader of the data left out or changed."""
    user_ids: np.ndarray | None = None
    """The users' original ids, [num_users] int64 or strings, where they are not 0, 1, 2, ..."""
    item_ids: np.ndarray | None = None
    """The items' original ids, [num_items] int64 or strings, where they are not 0, 1, 2, ..."""
    weighted: bool = False
    """Whether the stored values are weights above 0; without, they have to be 1."""
    times: Mapping[str, np.ndarray] | None = None
    """By split, the time of each stored entry, [nnz] float64 (seconds since 1970 where recency is in days)."""
    held_out_users: np.ndarray | None = None
    """Numbers of users, rising, of whom nothing is learnt: models see their training rows as input alone. Only they are
    evaluated. None: models learn of all users."""
    ratings: Mapping[str, np.ndarray] | None = None
    """By split, the rating of each stored entry, [nnz] float32. What rows hold is still ones: a model asks for ratings
    (``RowWeighting``)."""
    min_relevant_rating: float | None = None
    """Of valid and test, the least rating that is relevant to a ranking; None: all that is stored is."""

    @staticmethod
    def from_interactions(data: Any = None, **columns: Any) -> "Dataset":
        """``diffrec_jax.data.from_interactions``: everything in a log, to be split by ``split_by_time``."""
        from diffrec_jax.data.logs import from_interactions  # which needs this class

        return from_interactions(data, **columns)

    def __post_init__(self) -> None:
        """Checks everything."""
        for split in SPLITS:
            object.__setattr__(
                self, split, as_csr(getattr(self, split), f"{self.name}: {split}", weighted=self.weighted)
            )
        shapes = {split: getattr(self, split).shape for split in SPLITS}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{split} {list(shape)}" for split, shape in shapes.items())
            raise DataError(f"{self.name}: the splits differ in shape ({told}): number users and items over all splits")
        for name, size in (("user_ids", self.num_users), ("item_ids", self.num_items)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _one_for_each(getattr(self, name), size, f"{self.name}: {name}"))
        if self.times is not None:
            object.__setattr__(self, "times", self._checked_times(self.times))
        if self.ratings is not None:
            object.__setattr__(self, "ratings", self._checked_entries(self.ratings, "ratings", np.float32))
        if self.min_relevant_rating is not None:
            self._check_relevant(self.min_relevant_rating)
        if self.held_out_users is not None:
            object.__setattr__(self, "held_out_users", self._checked_held_out(self.held_out_users))
        self._check_pairs()

    def _checked_entries(self, values: Mapping[str, np.ndarray], what: str, dtype: type) -> dict[str, np.ndarray]:
        found = {split: np.asarray(values.get(split, ()), dtype) for split in SPLITS}
        for split, own in found.items():
            matrix = getattr(self, split)
            if own.shape != (matrix.nnz,):
                raise DataError(
                    f"{self.name}: {what} of {split} have to be {matrix.nnz:,} numbers, one for each entry, not "
                    f"{list(own.shape)}"
                )
            missing = np.sum(~np.isfinite(own))
            if missing:
                noise = "; random items have none: if it is theirs, prepare the data without noise_rate" * (
                    what == "ratings"
                )
                raise DataError(f"{self.name}: {missing:,} {what} of {split} are missing or not finite{noise}")
        return found

    def _checked_times(self, times: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._checked_entries(times, "times", np.float64)
        for split, own in found.items():
            matrix = getattr(self, split)
            within = np.ones(max(matrix.nnz - 1, 0), bool)
            starts = matrix.indptr[1:-1]
            within[starts[(starts > 0) & (starts < matrix.nnz)] - 1] = False
            if np.any((np.diff(own) < 0) & within):
                raise DataError(f"{self.name}: the rows of {split} are not in the order of their times: sort them")
        return found

    def _checked_held_out(self, users: np.ndarray) -> np.ndarray:
        users = np.asarray(users)
        is_rising = users.ndim == 1 and users.dtype.kind in "iu" and bool(np.all(np.diff(users.astype(np.int64)) > 0))
        if not is_rising or not len(users) or not 0 <= users[0] <= users[-1] < self.num_users:
            raise DataError(
                f"{self.name}: held_out_users have to be rising row numbers of the {self.num_users:,} users, at least "
                "one; leave them out where models learn of all users"
            )
        if len(users) == self.num_users:
            raise DataError(f"{self.name}: all users are held out: leave some to learn of")
        learnt = np.setdiff1d(np.arange(self.num_users), users)
        for split in SPLITS[1:]:
            if np.diff(getattr(self, split).indptr)[learnt].any():
                raise DataError(
                    f"{self.name}: {split} has interactions of users that are not held out: they would not be evaluated"
                )
        return users.astype(np.int32)

    def _check_relevant(self, least: float) -> None:
        if self.ratings is None:
            raise DataError(
                f"{self.name}: min_relevant_rating needs ratings (--ratings, from_interactions(rating=...))"
            )
        for split in self.evaluated_splits:
            if not self.relevant(split).nnz:
                raise DataError(f"{self.name}: no rating of {split} is {least:g} or more: lower min_relevant_rating")

    def times_of(self, split: str) -> np.ndarray | None:
        """The times of the entries of train, valid, test or train_and_valid, [nnz]; None where there are none."""
        return None if self.times is None else self._holding(self.times, split).data

    def rated(self, split: str) -> sparse.csr_array:
        """Train, valid, test or train_and_valid with ratings as its values.

        Raises:
          DataError: there are none.
        """
        if self.ratings is None:
            raise DataError(f"{self.name} has no ratings: give them (--ratings, from_interactions(rating=...))")
        return self._holding(self.ratings, split)

    def relevant(self, split: str) -> sparse.csr_array:
        """What of valid or test a ranking is to find: all or, with ``min_relevant_rating``, what is rated so high."""
        if self.min_relevant_rating is None:
            return getattr(self, split)
        rated = self.rated(split)
        users = np.repeat(np.arange(self.num_users), np.diff(rated.indptr))
        return select_entries(getattr(self, split), users, rated.data >= self.min_relevant_rating)

    def _holding(self, values: Mapping[str, np.ndarray], split: str) -> sparse.csr_array:
        """The matrix of train, valid, test or train_and_valid with such values of its entries."""
        if split not in SPLITS:
            return append_rows(self._holding(values, "train"), self._holding(values, "valid"))
        matrix = getattr(self, split)
        return sparse.csr_array((values[split], matrix.indices, matrix.indptr), shape=matrix.shape)

    @property
    def entry_columns(self) -> dict[str, Mapping[str, np.ndarray]]:
        """What is known of each entry, by field and split."""
        return {field: values for field in ENTRY_FIELDS if (values := getattr(self, field)) is not None}

    def _check_pairs(self) -> None:
        codes = np.concatenate([pair_codes(getattr(self, split)) for split in SPLITS])
        in_order = np.sort(codes)  # several times faster than the order itself, which only the message needs
        if not (in_order[1:] == in_order[:-1]).any():
            return
        split_of = np.repeat(np.arange(3), [getattr(self, split).nnz for split in SPLITS])
        order = np.argsort(codes, kind="stable")
        codes, split_of = codes[order], split_of[order]
        same = codes[1:] == codes[:-1]
        first, second = split_of[:-1][same], split_of[1:][same]
        alike = np.unique(codes[1:][same][(first == first[0]) & (second == second[0])])
        user, item = divmod(int(alike[0]), self.num_items)
        pair = [self.original_user_ids[user].item(), self.original_item_ids[item].item()]
        one, other = SPLITS[first[0]], SPLITS[second[0]]
        if one == other:
            raise DataError(
                f"{self.name}: {one} holds {len(alike):,} pairs more than once, the first {pair}: keep one interaction "
                "for each user and item"
            )
        raise DataError(
            f"{self.name}: {len(alike):,} pairs are in both {one} and {other}, the first {pair}: put each interaction "
            "into one split"
        )

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for everything about the data that a reader of results has to know."""
        return (*self.reading_warnings, *coverage_warnings(self.train, self.valid, self.test))

    @property
    def original_user_ids(self) -> np.ndarray:
        """The users' own ids, [num_users]."""
        return np.arange(self.num_users) if self.user_ids is None else self.user_ids

    @property
    def original_item_ids(self) -> np.ndarray:
        """The items' own ids, [num_items]."""
        return np.arange(self.num_items) if self.item_ids is None else self.item_ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the splits, of their weights, times, ratings and what is relevant where they have these and, where
        they are not 0, 1, 2, ..., of the original ids."""
        digest = hashlib.sha256(np.array(self.train.shape, np.int64).tobytes())
        for split in SPLITS:
            matrix = getattr(self, split)
            digest.update(matrix.indptr.astype(np.int64).tobytes())
            digest.update(matrix.indices.astype(np.int64).tobytes())
            if self.weighted:
                digest.update(matrix.data.tobytes())
            if self.times is not None:
                digest.update(b"times" + self.times[split].tobytes())
            if self.ratings is not None:
                digest.update(b"ratings" + self.ratings[split].tobytes())
        for name in ("user_ids", "item_ids"):
            if (ids := getattr(self, name)) is not None:
                digest.update(name.encode() + ids.tobytes())  # strings: as wide as the longest
        if self.held_out_users is not None:
            digest.update(b"held_out_users" + self.held_out_users.tobytes())
        if self.min_relevant_rating is not None:
            digest.update(f"min_relevant_rating {self.min_relevant_rating!r}".encode())
        return digest.hexdigest()

    @property
    def num_users(self) -> int:
        """Rows of every split."""
        return self.train.shape[0]

    @property
    def num_items(self) -> int:
        """Columns of every split."""
        return self.train.shape[1]

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """Those of valid and test that have interactions."""
        return tuple(split for split in SPLITS[1:] if getattr(self, split).nnz)

    @cached_property
    def train_and_valid(self) -> sparse.csr_array:
        """What is known before the test: each user's training and then validation interactions."""
        return append_rows(self.train, self.valid)

    @property
    def evaluated_users(self) -> np.ndarray:
        """Numbers of the users that are evaluated: those held out or, where none are, all; [n] int32."""
        return np.arange(self.num_users, dtype=np.int32) if self.held_out_users is None else self.held_out_users

    @cached_property
    def learnt(self) -> "Dataset":
        """What models learn of: the training rows of all users that are not held out, numbered anew."""
        if self.held_out_users is None:
            return self
        users = np.setdiff1d(np.arange(self.num_users), self.held_out_users)
        columns: dict[str, Any] = {
            name: {"train": self._holding(own, "train")[users].data} for name, own in self.entry_columns.items()
        }
        nothing = sparse.csr_array((len(users), self.num_items), dtype=np.float32)
        return replace(
            self,
            train=self.train[users],
            valid=nothing,
            test=nothing,
            user_ids=self.original_user_ids[users],
            held_out_users=None,
            **columns,
        )

    def without_weights(self) -> "Dataset":
        """The same interactions, all of weight 1."""
        ones = {
            split: sparse.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
            for split, matrix in ((split, getattr(self, split)) for split in SPLITS)
        }
        return replace(self, weighted=False, **ones)

    def tuning_holdout(self, share: float) -> "Dataset":
        """A dataset to tune on that knows nothing of the test: the newest ``share`` of each training row to validate
        with, the former validation split as the test.

        Raises:
          DataError: no interaction is left to validate with, or users are held out.
        """
        if self.held_out_users is not None:
            raise DataError(f"{self.name} holds out users, some of them to validate with: tune without a holdout")
        train, valid = split_rows(self.train, share)
        if not valid.nnz:
            raise DataError(f"{self.name}: no training row is long enough for a tuning holdout of {share:g}: take more")
        columns: dict[str, Any] = {}
        for field, values in self.entry_columns.items():
            old, new = split_rows(self._holding(values, "train"), share)
            columns[field] = {"train": old.data, "valid": new.data, "test": values["valid"]}
        return replace(
            self,
            name=f"{self.name}, tuning holdout {share:g}",
            train=train,
            valid=valid,
            test=self.valid,
            **columns,
        )

    def summary(self) -> str:
        """One line of counts."""
        counts = ", ".join(f"{split} {getattr(self, split).nnz:,}" for split in SPLITS)
        held_out = "" if self.held_out_users is None else f" ({len(self.held_out_users):,} held out)"
        return f"{self.name}: {self.num_users:,} users{held_out}, {self.num_items:,} items; interactions: {counts}"


def gap_warnings(user_ids: np.ndarray, item_ids: np.ndarray) -> tuple[str, ...]:
    """A sentence for each kind of original ids, of users and of items, that are not all from 0 to the largest."""
    sentences = []
    for kind, ids in (("users", user_ids), ("items", item_ids)):
        largest = int(ids.max())
        missing = largest + 1 - len(ids)
        if missing:
            sentences.append(
                f"{len(ids):,} {kind} have ids up to {largest:,}: {missing:,} smaller ids have no interactions and are "
                "left out"
            )
    return tuple(sentences)


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
