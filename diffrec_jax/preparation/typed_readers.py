"""Readers of logs whose columns have types: Parquet, sparse matrices."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.interactions import LONGEST_ID
from diffrec_jax.files import UNREADABLE
from diffrec_jax.preparation.batches import (
    LARGEST,
    PARSERS,
    BadLine,
    Batch,
    Columns,
    import_pyarrow,
    too_long,
)


def read_parquet(path: Path, columns: Columns) -> Iterator[Batch]:
    """A Parquet file, or a folder of them in the order of their names."""
    pa, wanted, first = import_pyarrow(), columns.named(), 1
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise DataError(f"{path} does not exist, or holds no .parquet file: give the file of the log")

    def damaged(file: Path, error: Exception) -> DataError:
        return DataError(f"{file} is damaged or no Parquet file ({error}): get the file again")

    types: dict[str, set[Any]] = {kind: set() for kind in ("user", "item")}
    for file in files:
        try:
            schema = pa.parquet.read_schema(file)
        except pa.ArrowInvalid as error:
            raise damaged(file, error) from None
        columns.places(file, tuple(schema.names))
        for kind, found in types.items():
            found.add(schema.field(wanted[kind]).type)
    as_texts = {kind for kind, found in types.items() if not all(_fits_int64(own) for own in found)}
    for file in files:
        batches = pa.parquet.ParquetFile(file).iter_batches(1 << 20, columns=list(dict.fromkeys(wanted.values())))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowInvalid, OSError) as error:
                if getattr(error, "errno", None):  # of the system, not of the content
                    raise
                raise damaged(file, error) from None
            if batch is None:
                break
            yield _checked({kind: batch.column(name) for kind, name in wanted.items()}, first, str(file), as_texts)
            first += batch.num_rows


def _fits_int64(own: Any) -> bool:
    """Whether all ids of a pyarrow type are integers of int64."""
    types = import_pyarrow().types
    own = own.value_type if types.is_dictionary(own) else own
    return types.is_integer(own) and not types.is_uint64(own)


def _checked(fields: dict[str, Any], first: int, what: str, as_texts: Collection[str] = ()) -> Batch:
    """A batch of typed columns; rows with missing or impossible values are bad. Ids of ``as_texts`` become texts."""
    pa = import_pyarrow()
    num_rows = len(fields["user"])
    keep, reasons, columns = np.ones(num_rows, bool), np.full(num_rows, "", object), {}

    def reject(where: np.ndarray, reason: str) -> None:
        reasons[where & keep] = reason
        keep[where] = False

    for kind, column in fields.items():
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        reject(column.is_null().to_numpy(zero_copy_only=False), f"has no {kind}")
        if kind in PARSERS:
            values = _typed_numbers(column, kind, what)
            reject(~(np.abs(values) <= LARGEST[kind]), f"has a {kind} that is not finite, too large or no number")
            columns[kind] = pa.array(values)
        elif pa.types.is_integer(column.type):
            columns[kind] = column.cast(pa.string() if kind in as_texts else pa.int64())
        elif _is_text(column.type):
            column = column.cast(pa.string())
            sizes = pa.compute.binary_length(column).fill_null(1).to_numpy(zero_copy_only=False)
            reject(sizes == 0, f"has no {kind}")
            reject(sizes > LONGEST_ID, too_long(kind))
            columns[kind] = column
        else:
            raise DataError(f"{what}: the {kind} is {column.type}: give integers or strings")
    lines = np.arange(first, first + num_rows)
    table = pa.table(columns | {"line": pa.array(lines)})
    if keep.all():
        return Batch(table, [])
    bad = [BadLine(int(lines[place]), reasons[place]) for place in np.flatnonzero(~keep)]
    return Batch(table.filter(pa.array(keep)), bad)


def _is_text(own: Any) -> bool:
    types = import_pyarrow().types
    return types.is_string(own) or types.is_large_string(own) or types.is_string_view(own)


def _typed_numbers(column: Any, kind: str, what: str) -> np.ndarray:
    """A typed column as float64, 0 where it is null; dates as seconds since 1970, NaN for a text that is no number.

    Raises:
      DataError: its type holds neither numbers nor, for a time, dates.
    """
    pa = import_pyarrow()
    if kind == "time" and (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        micros = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return micros.fill_null(0).to_numpy() / 1e6
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy()
    if not _is_text(column.type):
        raise DataError(f"{what}: the {kind} is {column.type}: give numbers" + " or dates" * (kind == "time"))

    def parsed(text: str | None) -> float:
        try:
            return 0.0 if text is None else PARSERS[kind](text)
        except (ValueError, OverflowError):
            return np.nan

    return np.array([parsed(text) for text in column.to_pylist()], np.float64)


def read_scipy(path: Path, columns: Columns) -> Iterator[Batch]:
    """A sparse matrix [users, items] of ``scipy.sparse.save_npz``: its values are ratings."""
    from scipy import sparse

    pa = import_pyarrow()
    try:
        matrix = sparse.load_npz(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: give the file of the log") from None
    except UNREADABLE as error:
        raise DataError(f"{path} is damaged or no sparse matrix of save_npz ({error})") from None
    entries = matrix if matrix.format == "coo" else sparse.csr_array(matrix).tocoo()
    fields = {
        "user": pa.array(entries.row.astype(np.int64)),
        "item": pa.array(entries.col.astype(np.int64)),
        "rating": pa.array(entries.data.astype(np.float64)),
    }
    yield _checked(fields, 1, str(path))
