"""Rows of a CSR matrix as fixed-shape blocks: what travels to the device instead of a dense [batch, items] block."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

CAPACITY_UNIT = 256


class RowBatch(NamedTuple):
    """Some users' rows in coordinate form, padded to a fixed shape. NumPy on the host, JAX arrays on the device.

    B rows, N places for stored entries, of which the first are filled, in row order. A padding entry has the item id
    ``num_items`` (which every scatter drops) and weight 0; a padding row has no entries and a false ``row_mask``.
    With a leading device axis D every field is [D, ...] and ``rows`` count within a device.
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


def _capacity(num_entries: int, matrix: sparse.csr_array, num_rows: int) -> int:
    """Places for the entries of ``num_rows`` rows: one size for nearly all batches of a matrix, doubled where needed.

    Every size is compiled for once, so it is set five standard deviations above what random rows hold.
    """
    # With the mean of the squared lengths from one dot product: this runs for every batch.
    lengths = np.diff(matrix.indptr).astype(np.float64)
    mean = lengths.mean()
    deviation = np.sqrt(max(lengths @ lengths / len(lengths) - mean**2, 0.0))
    usual = num_rows * mean + 5 * np.sqrt(num_rows) * deviation
    capacity = CAPACITY_UNIT * max(1, -(-int(min(usual, matrix.nnz)) // CAPACITY_UNIT))
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
    num_devices: int = 1,
    targets: np.ndarray | None = None,
) -> RowBatch:
    """The rows ``user_ids`` of a [users, items] matrix as one block of ``batch_size`` rows (default: as many as given).

    ``targets`` [nnz] are the values to predict at the matrix' stored entries, where they are not its own.

    An item may stand in a row only once: what scatters and what sums would treat it differently.
    With ``num_devices`` > 1 the fields have a leading device axis, consecutive users on the same device.

    Raises:
      ValueError: batch_size is 0, less than the number of users, or no multiple of num_devices.
    """
    user_ids = np.asarray(user_ids, dtype=np.int32)
    batch_size = len(user_ids) if batch_size is None else batch_size
    if batch_size == 0:
        raise ValueError("a batch needs at least one row")
    if len(user_ids) > batch_size:
        raise ValueError(f"{len(user_ids)} users do not fit a batch of {batch_size}")
    if batch_size % num_devices:
        raise ValueError(f"batch size {batch_size} is no multiple of the number of devices, {num_devices}")
    rows_per_device = batch_size // num_devices
    padded_ids = np.zeros(batch_size, np.int32)
    padded_ids[: len(user_ids)] = user_ids
    rows, positions = _entries(matrix, user_ids)
    device_starts = np.searchsorted(rows, np.arange(0, batch_size + 1, rows_per_device))
    capacity = _capacity(int(np.diff(device_starts).max()), matrix, rows_per_device)
    shape = (num_devices, capacity)
    batch = RowBatch(
        user_ids=padded_ids.reshape(num_devices, rows_per_device),
        row_mask=(np.arange(batch_size) < len(user_ids)).reshape(num_devices, rows_per_device),
        rows=np.full(shape, rows_per_device - 1, np.int32),
        item_ids=np.full(shape, matrix.shape[1], np.int32),
        weights=np.zeros(shape, np.float32),
        target_weights=None if targets is None else np.zeros(shape, np.float32),
    )
    for device, (start, end) in enumerate(zip(device_starts[:-1], device_starts[1:])):
        place = slice(0, end - start)
        batch.rows[device, place] = rows[start:end] - device * rows_per_device
        batch.item_ids[device, place] = matrix.indices[positions[start:end]]
        batch.weights[device, place] = matrix.data[positions[start:end]]
        if targets is not None:
            batch.target_weights[device, place] = targets[positions[start:end]]
    return batch if num_devices > 1 else RowBatch(*(None if field is None else field[0] for field in batch))


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
