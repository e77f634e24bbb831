"""From rows in order to the parts of a dataset, block by block: numbers, splits, noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffrec_jax.data.noise import NOISY_PARTS, draw_random_items, order_behind
from diffrec_jax.data.splits import TRAIN, VALID, Rows, Split
from diffrec_jax.preparation.batches import import_pyarrow

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
    """Train and valid with ``rate`` random items for each of a user's interactions there, by ``draw_random_items``.

    A random item has the time of the interaction it stands behind, and no rating (NaN).
    """
    known = rows.users.astype(np.int64) * num_items + rows.items
    parts, places = [rows], []
    for part in NOISY_PARTS:
        of_part = np.flatnonzero(rows.parts == part)
        drawn_for = Rows(rows.users[of_part], rows.times[of_part])
        behind, items = draw_random_items(drawn_for, known, rate, num_items, seed=seed, part=part)
        noise = rows.where(of_part[behind])
        parts.append(replace(noise, items=items.astype(np.int32), ratings=np.full(len(items), np.nan)))
        known = np.concatenate([known, noise.users.astype(np.int64) * num_items + items])
        places.append(of_part[behind])
    joined = Labelled(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(rows)})
    return joined.where(order_behind(len(rows.users), np.concatenate(places)))
