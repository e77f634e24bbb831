"""What readers of logs give: batches of interactions with the numbers of their lines, and what could not be read.

A batch is a pyarrow table of ``user`` and ``item`` (integers or strings), ``line``, which orders them, and, where the
format has them, ``rating`` and ``time`` (float64; dates are seconds since 1970, UTC) and ``part`` (0 train, 1 valid,
2 test).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.interactions import LONGEST_ID

LARGEST = {"rating": float(np.finfo(np.float64).max), "time": 2.0**53}
"""Beyond that of a time, float64 does not hold every whole number."""


class BadLine(NamedTuple):
    """A line that is no interaction."""

    number: int
    reason: str
    text: str = ""

    def __str__(self) -> str:
        """The number, the reason and the beginning of the line."""
        shown = f": {self.text[:80]!r}" if self.text else ""
        return f"line {self.number:,} {self.reason}{shown}"


class Batch(NamedTuple):
    """Some interactions of a log in its order, and the lines that are none."""

    table: Any
    bad: list[BadLine]


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read."""

    user: str = "user"
    item: str = "item"
    rating: str | None = None
    time: str | None = None

    def named(self) -> dict[str, str]:
        """What is read, and the name of its column."""
        return {kind: name for kind, name in vars(self).items() if name is not None}

    def places(self, path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, int]:
        """What is read, and the place of its column among ``names``, those that a file has.

        Raises:
          DataError: a column that is not ``optional`` is missing, or two have the name of one.
        """
        wanted = {kind: name for kind, name in self.named().items() if name in names or kind not in optional}
        for kind, name in wanted.items():
            if name not in names:
                raise DataError(f"{path} has no column {name!r}, only {', '.join(names)}: name it with --{kind}_col")
            if names.count(name) > 1:
                raise DataError(
                    f"{path} has {names.count(name)} columns {name!r}: which one is meant? Give them other names"
                )
        return {kind: names.index(name) for kind, name in wanted.items()}


def import_pyarrow() -> Any:
    """The module pyarrow, with all that is used of it.

    Raises:
      DataError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading and preparing logs needs pyarrow: pip install 'diffrec-jax[data]'") from error
    return pyarrow


def _parse_number(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError("is not finite")
    return value


def parse_time(text: str) -> float:
    """A number as it is, or an ISO date (without a zone: UTC) as seconds since 1970.

    Raises:
      ValueError: it is neither, or beyond what float64 holds exactly.
    """
    try:
        value = float(text)
    except ValueError:
        date = datetime.fromisoformat(text.strip())
        value = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if not abs(value) <= LARGEST["time"]:  # NaN too
        raise ValueError("is not finite or beyond 2^53")
    return value


def too_long(kind: str) -> str:
    """Why an id of over ``LONGEST_ID`` bytes is refused."""
    return f"names its {kind} in over {LONGEST_ID:,} bytes"


PARSERS: dict[str, Callable[[str], float]] = {"rating": _parse_number, "time": parse_time}
