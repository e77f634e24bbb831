"""Random items in the rows that models learn of and are chosen by: noise that no preference is behind."""

import dataclasses

import numpy as np
from scipy import sparse

from diffrec_jax.data.interactions import SPLITS, Dataset
from diffrec_jax.data.matrices import DataError, pair_codes
from diffrec_jax.data.splits import TRAIN, VALID, Rows, hashed, rows_of
from diffrec_jax.seeds import check_seed

NOISY_PARTS = (TRAIN, VALID)
PLACE = np.array(1)
"""Hashed with a draw's number: where the item stands, for the item itself is the hash of that number alone."""


def draw_random_items(
    rows: Rows, known: np.ndarray, rate: float, num_items: int, *, seed: int, part: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each user round(rate * number of its rows) items that are new to it, uniformly and without repeats.

    An item stands behind one of the user's rows, uniformly too: what is there keeps its order. A user who has nearly
    all items gets those that are left. Each user's draws are its own: no other user, no block of rows changes them.

    Args:
      rows: of one part.
      known: user * num_items + item of everything that these users have, in any part, [n] int64.
      rate: random items for each row.
      num_items: of the whole dataset.
      seed: of the draws, in [0, 2^63).
      part: the parts' draws differ.

    Returns:
      The places in ``rows`` behind which the new items stand, and the items, [m] int64 each.
    """
    users, known = rows.users[rows.starts].astype(np.int64), np.sort(known)
    have = np.searchsorted(known, (users + 1) * num_items) - np.searchsorted(known, users * num_items)
    free = num_items - have
    missing = np.minimum(np.rint(rate * rows.lengths), free).astype(np.int64)
    num_drawn = np.zeros_like(missing)
    places, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while missing.any():  # each round draws as often as is expected to do, and rejects what the user has
        tries = -(-missing * num_items // np.maximum(free, 1))
        owner = np.repeat(np.arange(len(users)), tries)
        number = np.arange(len(owner)) + np.repeat(num_drawn - (np.cumsum(tries) - tries), tries) + part * (1 << 40)
        num_drawn += tries
        own = users[owner]
        drawn = (hashed(seed, own, number) % np.uint64(num_items)).astype(np.int64)
        codes, first = np.unique(own * num_items + drawn, return_index=True)
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        usable = np.sort(first[known[at] != codes])
        rank = np.arange(len(usable)) - np.searchsorted(owner[usable], owner[usable])
        chosen = usable[rank < missing[owner[usable]]]
        own, number, owner = own[chosen], number[chosen], owner[chosen]
        behind = hashed(seed, own, number, PLACE) % rows.lengths[owner].astype(np.uint64)
        places.append(rows.starts[owner] + behind.astype(np.int64))
        items.append(drawn[chosen])
        known = np.sort(np.concatenate([known, own * num_items + drawn[chosen]]))
        found = np.bincount(owner, minlength=len(users))
        missing, free = missing - found, free - found
    return np.concatenate(places), np.concatenate(items)


def order_behind(num_rows: int, places: np.ndarray) -> np.ndarray:
    """The order that puts what is appended to rows behind its places in them, [num_rows + len(places)]."""
    return np.argsort(np.concatenate([np.arange(num_rows), places]), kind="stable")


def add_random_noise(dataset: Dataset, rate: float, *, seed: int = 0) -> Dataset:
    """The dataset with random items in train and valid; the test stays as it is.

    Each user's row of n items gets round(rate * n) more, which the user has in no split, at random places. A random
    item has the time and the weight of the item it stands behind.

    Args:
      dataset: split.
      rate: random items for each interaction; 0 changes nothing.
      seed: of the draws, in [0, 2^63).

    Raises:
      DataError: the rate is no finite number of at least 0, or the dataset has ratings, which noise has not.
      ValueError: the seed is out of range.

    Reference: arXiv:2304.04971, the experiments with random noises (rates .1 to .5).
    """
    check_seed(seed)
    if not 0 <= rate < np.inf:
        raise DataError(f"{dataset.name}: a rate of random noise has to be at least 0 and finite, got {rate:g}")
    if not rate:
        return dataset
    if dataset.ratings is not None:
        raise DataError(f"{dataset.name}: a random item has no rating: leave random noise out, or the ratings")
    known = np.concatenate([pair_codes(getattr(dataset, split)) for split in SPLITS])
    matrices, times = {}, None if dataset.times is None else dict(dataset.times)
    for part in NOISY_PARTS:
        split, rows = SPLITS[part], rows_of(dataset, SPLITS[part])
        places, items = draw_random_items(rows, known, rate, dataset.num_items, seed=seed, part=part)
        known = np.concatenate([known, rows.users[places] * dataset.num_items + items])
        matrix, order = getattr(dataset, split), order_behind(len(rows.users), places)
        source = np.concatenate([np.arange(len(rows.users)), places])[order]
        indices = np.concatenate([matrix.indices, items.astype(matrix.indices.dtype)])[order]
        indptr = np.searchsorted(rows.users[source], np.arange(dataset.num_users + 1))
        matrices[split] = sparse.csr_array((matrix.data[source], indices, indptr), shape=matrix.shape)
        if times is not None:
            times[split] = times[split][source]
    return dataclasses.replace(dataset, name=f"{dataset.name}, {100 * rate:g}% random noise", times=times, **matrices)
