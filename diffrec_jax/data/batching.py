"""Rows of a CSR matrix as fixed-shape blocks: what travels to the device instead of a dense [batch, items] block."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

CAPACITY_UNIT = 256
MARGIN, TIGHT_MARGINS = 5.0, (0.5, 2.0, 5.0)
"""Standard deviations that a batch's places leave above what random rows hold."""


class RowBatch(NamedTuple):
    """Some users' rows in coordinate form, padded to a fixed shape. NumPy on the host, JAX arrays on the device.

    B rows, N places for stored entries, of which the first are filled, in row order. A padding entry has the item id
    ``num_items`` (which every scatter drops) and weight 0; a padding row has no entries and a false ``row_mask``.
    With a leading axis of shards S every field is [S, ...] and ``rows`` count within a shard.
    """

    user_ids: Any
    """[B] int32."""
    row_mask: Any
    """[B] bool, false for rows that only fill the block."""
    rows: Any
    """[N] int32, row of each entry within the block, ascending."""
    item_ids: Any
    """[N] int32."""
    weights: Any
    """[N] float32."""
    target_weights: Any = None
    """[N] float32, what a model is to predict where that is not the row itself; None where it is."""


class _Same:
    """A value as a key of a cache, by its identity."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


@functools.lru_cache(maxsize=4)
def _mean_and_deviation(indptr: _Same) -> tuple[float, float]:
    """Of the rows' lengths: gone through once, not for every batch."""
    lengths = np.diff(indptr.value).astype(np.float64)
    mean = lengths.mean()
    return mean, np.sqrt(max(lengths @ lengths / len(lengths) - mean**2, 0.0))


def _capacity(num_entries: int, matrix: sparse.csr_array, num_rows: int, margins: tuple[float, ...]) -> int:
    """Places for the entries of ``num_rows`` rows: the first of some sizes that holds them, or the last one doubled.

    Every size is compiled for, so they are few: by default one for nearly all batches of a matrix.
    """
    mean, deviation = _mean_and_deviation(_Same(matrix.indptr))
    capacity = 0
    for margin in margins:
        usual = num_rows * mean + margin * np.sqrt(num_rows) * deviation
        capacity = CAPACITY_UNIT * max(1, -(-int(min(usual, matrix.nnz)) // CAPACITY_UNIT))
        if capacity >= num_entries:
            return capacity
    while capacity < num_entries:
        capacity *= 2
    return capacity


def _entries(matrix: sparse.csr_array, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row number within ``user_ids`` and position in the matrix of every stored entry of these users, in row order."""
    starts = matrix.indptr[user_ids].astype(np.int64)
    lengths = matrix.indptr[user_ids + 1] - starts
    rows = np.repeat(np.arange(len(user_ids), dtype=np.int32), lengths)
    offsets = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return rows, offsets + np.arange(len(rows))


def make_row_batch(
    matrix: sparse.csr_array,
    user_ids: np.ndarray,
    *,
    batch_size: int | None = None,
    num_shards: int = 1,
    own_shards: range | None = None,
    targets: np.ndarray | None = None,
    tight: bool = False,
) -> RowBatch:
    """The rows ``user_ids`` of a [users, items] matrix as one block of ``batch_size`` rows (default: as many as given).

    An item may stand in a row only once: what scatters and what sums would treat it differently.

    Args:
      matrix: of all users; only the rows of the shards that are made are read.
      user_ids: at most batch_size of them.
      batch_size: rows of the block.
      num_shards: with more than one, the rows are split evenly, in order, and every field has a leading axis of shards.
      own_shards: makes only these; their shape is the same wherever the others are made.
      targets: [nnz], the values to predict at the matrix' stored entries, where they are not its own.
      tight: less padding and more shapes, for work that grows with the places.

    Raises:
      ValueError: batch_size is 0, less than the number of users, or no multiple of num_shards.
    """
    user_ids = np.asarray(user_ids, dtype=np.int32)
    batch_size = len(user_ids) if batch_size is None else batch_size
    own_shards = range(num_shards) if own_shards is None else own_shards
    if batch_size == 0:
        raise ValueError("a batch needs at least one row")
    if len(user_ids) > batch_size:
        raise ValueError(f"{len(user_ids)} users do not fit a batch of {batch_size}")
    if batch_size % num_shards:
        raise ValueError(f"batch size {batch_size} is no multiple of the number of shards, {num_shards}")
    shard_size = batch_size // num_shards
    padded_ids, lengths = np.zeros(batch_size, np.int32), np.zeros(batch_size, np.int64)
    padded_ids[: len(user_ids)] = user_ids
    lengths[: len(user_ids)] = matrix.indptr[user_ids + 1] - matrix.indptr[user_ids]
    counts = lengths.reshape(num_shards, shard_size).sum(axis=1)
    capacity = _capacity(int(counts.max()), matrix, shard_size, TIGHT_MARGINS if tight else (MARGIN,))
    own_rows = slice(own_shards.start * shard_size, own_shards.stop * shard_size)
    own_users = user_ids[own_rows]
    rows, positions = _entries(matrix, own_users)
    shape, own_shape = (len(own_shards), capacity), (len(own_shards), shard_size)
    batch = RowBatch(
        user_ids=padded_ids[own_rows].reshape(own_shape),
        row_mask=(np.arange(batch_size) < len(user_ids))[own_rows].reshape(own_shape),
        rows=np.full(shape, shard_size - 1, np.int32),
        item_ids=np.full(shape, matrix.shape[1], np.int32),
        weights=np.zeros(shape, np.float32),
        target_weights=None if targets is None else np.zeros(shape, np.float32),
    )
    ends = np.cumsum(counts[own_shards.start : own_shards.stop])
    for shard, (start, end) in enumerate(zip(ends - counts[own_shards.start : own_shards.stop], ends)):
        place = slice(0, end - start)
        batch.rows[shard, place] = rows[start:end] - shard * shard_size
        batch.item_ids[shard, place] = matrix.indices[positions[start:end]]
        batch.weights[shard, place] = matrix.data[positions[start:end]]
        if targets is not None:
            batch.target_weights[shard, place] = targets[positions[start:end]]
    return batch if num_shards > 1 else map_fields(lambda field: field[0], batch)


def map_fields(function: Callable[[Any], Any], batch: RowBatch) -> RowBatch:
    """The batch with a function applied to each of its fields that is there."""
    return RowBatch(*(None if field is None else function(field) for field in batch))


def iterate_user_ids(user_ids: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The users in order, in chunks of at most batch_size."""
    for start in range(0, len(user_ids), batch_size):
        yield user_ids[start : start + batch_size]


@functools.lru_cache(maxsize=1)
def _epoch_order(num_users: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_users).astype(np.int32)


def training_user_ids(num_users: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """The users of training step ``step`` (0-based): a pure function, so that a resume replays nothing.

    Each epoch visits every user once, in an order drawn from (seed, epoch); the last batch of an epoch may be short.
    """
    epoch, place = divmod(step, steps_per_epoch(num_users, batch_size))
    return _epoch_order(num_users, seed, epoch)[place * batch_size : (place + 1) * batch_size]


def steps_per_epoch(num_users: int, batch_size: int) -> int:
    """Batches in an epoch, the short last one included."""
    return -(-num_users // batch_size)
