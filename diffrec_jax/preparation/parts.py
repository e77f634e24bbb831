"""From rows in order to the parts of a dataset, block by block: numbers, splits, noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffrec_jax.data.splits import TRAIN, VALID, Rows, Split, hashed
from diffrec_jax.preparation.readers import import_pyarrow

DROPPED = 3
BLOCK_ROWS = 1 << 20


@dataclass(frozen=True)
class Labelled:
    """Rows of some users in order, each with its part."""

    users: np.ndarray
    """[n] int32."""
    items: np.ndarray
    """[n] int32."""
    times: np.ndarray
    """[n] float64."""
    ratings: np.ndarray
    """[n] float64."""
    parts: np.ndarray
    """[n] int8: 0 train, 1 valid, 2 test, 3 left out."""

    def where(self, chosen: np.ndarray) -> "Labelled":
        """Some of the rows."""
        return Labelled(**{name: column[chosen] for name, column in vars(self).items()})


Blocks = Callable[[], Iterator[Labelled]]


def read_in_order(paths: list[Path]) -> Iterator[dict[str, np.ndarray]]:
    """Columns of blocks of whole users, from Parquet files whose rows are in order."""
    pa, rest = import_pyarrow(), None
    for path in paths:
        for batch in pa.parquet.ParquetFile(path).iter_batches(BLOCK_ROWS):
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            if rest is not None:
                columns = {name: np.concatenate([rest[name], columns[name]]) for name in rest}
            last = np.searchsorted(columns["user"], columns["user"][-1]) if len(columns["user"]) else 0
            rest = {name: column[last:] for name, column in columns.items()}
            if last:
                yield {name: column[:last] for name, column in columns.items()}
    if rest is not None and len(rest["user"]):
        yield rest


def label(columns: dict[str, np.ndarray], split: Split) -> Labelled:
    """The part of each row; those of ``low`` ratings follow the split of the others."""
    users, times, low = columns["user"], columns["time"], columns.get("low")
    high = np.ones(len(users), bool) if low is None else low == 0
    given = columns.get("part")
    parts = np.full(len(users), DROPPED, np.int8)
    parts[high] = split(Rows(users[high], times[high], None if given is None else given[high]))
    if low is not None:
        parts[~high] = _parts_of_low(Rows(users, times), high, parts)[~high]
    return Labelled(users, columns["item"], times, columns["rating"], parts)


def _parts_of_low(rows: Rows, high: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The part of a low rating at each place: that of what came before it, and none from the test's begin on."""

    def of_user(counted: np.ndarray) -> np.ndarray:
        return np.repeat(np.add.reduceat(counted.astype(np.int64), rows.starts), rows.lengths)

    total = np.cumsum(high)
    before = total - np.repeat((total - high)[rows.starts], rows.lengths)  # high ratings up to here
    num_train, num_valid = of_user(parts == TRAIN), of_user(parts == VALID)
    found = np.where(before <= num_train, TRAIN, np.where(before <= num_train + num_valid, VALID, DROPPED))
    return found.astype(np.int8)


def add_random_items(rows: Labelled, rate: float, num_items: int, seed: int) -> Labelled:
    """Train and valid with ``rate`` random items for each of a user's interactions there: items the user does not have.

    A random item has the time of one of the user's interactions in the same part, and stands behind it. A user who has
    nearly all items may get fewer.
    """
    parts = [rows]
    own = rows.users.astype(np.int64) * num_items + rows.items
    owned = np.bincount(rows.users - rows.users[0])
    for part in (TRAIN, VALID):
        of_part = rows.where(rows.parts == part)
        if not len(of_part.users):
            continue
        whole = Rows(of_part.users, of_part.times)
        wanted = np.rint(rate * whole.lengths).astype(np.int64)
        free = num_items - owned[of_part.users[whole.starts] - rows.users[0]] - wanted
        tries = np.minimum(3 * wanted * num_items // np.maximum(free, 1) + 16, 50 * wanted + 16)
        owner = np.repeat(np.arange(len(wanted)), tries)
        users = of_part.users[whole.starts][owner]
        number = np.arange(len(owner)) - np.repeat(np.cumsum(tries) - tries, tries) + part * (1 << 40)
        items = (hashed(seed, users, number) % np.uint64(num_items)).astype(np.int64)
        codes = users.astype(np.int64) * num_items + items
        is_new = ~np.isin(codes, own)
        _, first = np.unique(codes, return_index=True)
        is_first = np.zeros(len(codes), bool)
        is_first[first] = True
        usable = np.flatnonzero(is_new & is_first)
        rank = np.arange(len(usable)) - np.searchsorted(owner[usable], owner[usable])
        chosen = usable[rank < wanted[owner[usable]]]
        place = whole.starts[owner[chosen]] + (
            hashed(seed + 1, users[chosen], number[chosen]) % whole.lengths[owner[chosen]].astype(np.uint64)
        ).astype(np.int64)
        noise = replace(of_part.where(place), items=items[chosen].astype(np.int32), ratings=np.zeros(len(chosen)))
        own = np.concatenate([own, codes[chosen]])
        parts.append(noise)
    joined = Labelled(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(rows)})
    order = np.lexsort((joined.times, joined.users))  # stable: behind what has the same time
    return joined.where(order)
