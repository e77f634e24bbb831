"""A log of any format as one Parquet file of clean rows, so that every engine starts from the same."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffrec_jax.data import DataError
from diffrec_jax.preparation.batches import BadLine, Batch, import_pyarrow

OnBadLine = Literal["error", "skip"]
ROW_GROUP = 1 << 20
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Texts that are the same after a way through int64."""


@dataclass
class Spool:
    """What was read from a log."""

    path: Path
    num_rows: int = 0
    columns: tuple[str, ...] = ()
    num_bad: int = 0
    first_bad: BadLine | None = None
    integer_ids: dict[str, bool] = field(default_factory=lambda: {"user": True, "item": True})
    """Whether all ids of a kind are integers, or texts of integers."""

    def bad_lines(self) -> str:
        """A sentence on what was left out; empty where nothing was."""
        if not self.num_bad:
            return ""
        return f"{self.num_bad:,} lines are no interactions and were skipped; the first, {self.first_bad}"


def write_spool(batches: Iterable[Batch], path: Path, source: Path, *, on_bad_line: OnBadLine = "error") -> Spool:
    """Writes the rows of a log in their order as Parquet.

    Args:
      batches: of a reader.
      path: of the Parquet file: user, item, line and, as the log has them, rating, time, part.
      source: the log, for messages.
      on_bad_line: whether a line that is no interaction is an error, or left out and counted.

    Raises:
      DataError: a line is bad and ``on_bad_line`` is error, or no line is left.
    """
    pa, spool, writer = import_pyarrow(), Spool(path), None
    try:
        for table, bad in batches:
            if bad and on_bad_line == "error":
                raise DataError(f"{source}: {bad[0]}; correct it, or leave such lines out with --on_bad_line=skip")
            spool.num_bad += len(bad)
            spool.first_bad = spool.first_bad or (bad[0] if bad else None)
            for kind in spool.integer_ids:
                spool.integer_ids[kind] = spool.integer_ids[kind] and _are_integers(table[kind])
            if writer is None:
                spool.columns = tuple(table.column_names)
                writer = pa.parquet.ParquetWriter(
                    path, table.schema, compression="zstd", use_dictionary=["user", "item", "part"],
                    column_encoding={"line": "DELTA_BINARY_PACKED"},
                )  # fmt: skip
            writer.write_table(table.cast(writer.schema), row_group_size=ROW_GROUP)
            spool.num_rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    pa.default_memory_pool().release_unused()
    if not spool.num_rows:
        seen = f" ({spool.bad_lines()})" if spool.num_bad else ""
        raise DataError(f"{source} holds no interaction{seen}: is it the right file and --format?")
    return spool


def _are_integers(column: Any) -> bool:
    pa = import_pyarrow()
    if pa.types.is_integer(column.type):
        return True
    return pa.compute.all(pa.compute.match_substring_regex(column, INTEGER)).as_py() is not False
