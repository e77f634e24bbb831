"""Steps from a log to what is split, over lazy Narwhals frames: nothing is collected but single numbers.

A frame has ``user``, ``item``, ``rating``, ``time`` and ``line``, a number that orders rows of the same time. No engine
promises an order of rows: (user, time, line) is the order of everything here.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import narwhals as nw

Keep = Callable[[nw.LazyFrame], nw.LazyFrame]
"""Computes a frame once and keeps it (``Engine.advance``)."""
ORDER = ("user", "time", "line")


def at_least(frame: nw.LazyFrame, rating: float) -> nw.LazyFrame:
    """Rows with at least this rating."""
    return frame.filter(nw.col("rating") >= rating)


def without_repeats(
    frame: nw.LazyFrame, keep: Literal["first", "last"], *, before: tuple[str, ...] = ()
) -> nw.LazyFrame:
    """One row for each pair of user and item: the first or last by (``before``, time, line)."""
    return frame.unique(["user", "item"], keep=keep, order_by=[*before, "time", "line"])


def count(frame: nw.LazyFrame) -> int:
    """Rows."""
    return int(frame.select(nw.len()).collect("pyarrow").item())


def count_distinct(frame: nw.LazyFrame, column: str) -> int:
    """Different values."""
    return count(frame.select(column).unique())


def frequent(frame: nw.LazyFrame, column: str, least: int, keep: Keep) -> nw.LazyFrame:
    """Rows whose value of a column occurs in at least so many, kept; the frame as it is where those are all."""
    counts = frame.group_by(column).agg(nw.len().alias("_count"))
    if count(counts.filter(nw.col("_count") < least)) == 0:
        return frame  # reading one column is far less than writing them all
    values = counts.filter(nw.col("_count") >= least).select(column)
    return keep(frame.join(values, on=column, how="semi"))


def k_core(frame: nw.LazyFrame, *, user_core: int, item_core: int, keep: Keep) -> Iterator[tuple[nw.LazyFrame, int]]:
    """The largest part in which every user has ``user_core`` rows and every item ``item_core``: its rounds.

    Yields:
      the frame after each round and its rows; the last is the core.
    """
    before = count(frame)
    while True:
        frame = frequent(frequent(frame, "item", item_core, keep), "user", user_core, keep)
        after = count(frame)
        yield frame, after
        if after in (before, 0):
            return
        before = after


def numbered(frame: nw.LazyFrame, column: str) -> nw.LazyFrame:
    """The different values of a column in ascending order (texts: by their UTF-8 bytes) and their numbers from 0."""
    return frame.select(column).unique().with_row_index("number", order_by=column)


def with_numbers(frame: nw.LazyFrame, column: str, numbers: nw.LazyFrame) -> nw.LazyFrame:
    """The frame with numbers in place of a column's values."""
    named = numbers.select(nw.col(column), nw.col("number").cast(nw.Int32).alias("_number"))
    return frame.join(named, on=column, how="inner").drop(column).rename({"_number": column})


def in_order(frame: nw.LazyFrame) -> nw.LazyFrame:
    """By user, time and line."""
    return frame.sort(*ORDER)
