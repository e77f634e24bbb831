"""Readers of logs: each gives batches of interactions with the numbers of their lines, and what it could not read.

A batch is a pyarrow table of ``user`` and ``item`` (integers or strings), ``line``, which orders them, and, where the
format has them, ``rating`` and ``time`` (float64; dates are seconds since 1970, UTC) and ``part`` (0 train, 1 valid,
2 test).
"""

import csv
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.interactions import LONGEST_ID
from diffrec_jax.files import UNREADABLE
from diffrec_jax.preparation.lines import LONGEST_LINE, Block, read_blocks

LARGEST_TIME = 2**53
"""Beyond, float64 does not hold every whole number."""


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
    if not abs(value) <= LARGEST_TIME:  # NaN too
        raise ValueError("is not finite or beyond 2^53")
    return value


def _too_long(kind: str) -> str:
    return f"names its {kind} in over {LONGEST_ID:,} bytes"


PARSERS: dict[str, Callable[[str], float]] = {"rating": _parse_number, "time": parse_time}


def _numbers(column: Any, kind: str) -> np.ndarray | None:
    """A text column as float64, at once; None where one of them needs a closer look."""
    pa = import_pyarrow()
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    largest = LARGEST_TIME if kind == "time" else np.finfo(np.float64).max
    return values if np.all(np.abs(values) <= largest) else None  # NaN: no


def _table(fields: dict[str, Any], lines: np.ndarray, texts: Callable[[int], str]) -> Batch:
    """A batch of text columns (pyarrow string arrays), bad lines left out; ``texts`` gives the line of a place."""
    pa = import_pyarrow()
    keep, bad, columns = np.ones(len(lines), bool), {}, {}

    def reject(place: int, reason: str) -> None:
        keep[place] = False
        bad.setdefault(place, BadLine(int(lines[place]), reason, texts(place)))

    for kind, column in fields.items():
        if kind in PARSERS:
            values = _numbers(column, kind)
            if values is None:
                values = np.zeros(len(column))
                for place, text in enumerate(column.to_pylist()):
                    try:
                        values[place] = PARSERS[kind](text or "")
                    except (ValueError, OverflowError):
                        reject(
                            place,
                            f"has the {kind} {str(text)[:40]!r}, which is not a finite number"
                            + (" or date" if kind == "time" else ""),
                        )
            columns[kind] = pa.array(values)
        else:
            sizes = pa.compute.binary_length(column).to_numpy(zero_copy_only=False)
            for place in np.flatnonzero(sizes == 0):
                reject(int(place), f"has no {kind}")
            for place in np.flatnonzero(sizes > LONGEST_ID):
                reject(int(place), _too_long(kind))
            columns[kind] = column
    table = pa.table(columns | {"line": pa.array(lines)})
    if bad:
        table = table.filter(pa.array(keep))
    return Batch(table, [bad[place] for place in sorted(bad)])


def _texts(lines: list[bytes]) -> Callable[[int], str]:
    return lambda place: lines[place].decode(errors="replace")


def _split_line(line: bytes, separator: str, quotes: bool) -> list[str]:
    """The columns; bytes that are no UTF-8 as surrogates, for the columns that are not read do not matter.

    Raises:
      csv.Error: a quote does not close.
    """
    text = line.decode(errors="surrogateescape")
    if not quotes:
        return text.split(separator)
    rows = list(csv.reader([f"{text}\n", "next"], delimiter=separator))
    if len(rows) < 2:
        raise csv.Error("a quote does not close")
    return rows[0]


def _closes(line: bytes, separator: str) -> bool:
    try:
        _split_line(line, separator, quotes=True)
    except csv.Error:
        return False
    return True


def _is_empty(line: bytes, separator: str) -> bool:
    return not line.strip() and separator.encode() not in line


def _slowly(block: Block, wanted: dict[str, int], width: int, separator: str, quotes: bool) -> Batch:
    """A block line by line, for those that have something wrong."""
    pa = import_pyarrow()
    found: dict[str, list[str]] = {kind: [] for kind in wanted}
    numbers, kept, bad = [], [], []
    csv.field_size_limit(LONGEST_LINE)  # of csv's own, 128 KiB, pyarrow knows nothing
    for number, line in block.lines():
        if _is_empty(line, separator):
            continue
        read: list[str] = []
        try:
            values = _split_line(line, separator, quotes)
            reason = "" if len(values) == width else f"has {len(values)} columns, not {width}"
            if not reason:
                read = [values[place] for place in wanted.values()]
                "".join(read).encode()
        except UnicodeEncodeError:
            reason = "is not UTF-8"
        except csv.Error as error:
            reason = f"cannot be parsed ({error})"
        if reason:
            bad.append(BadLine(number, reason, line.decode(errors="replace")))
            continue
        numbers.append(number)
        kept.append(line)
        for kind, value in zip(wanted, read):
            found[kind].append(value)
    fields = {kind: pa.array(values, pa.string()) for kind, values in found.items()}
    batch = _table(fields, np.array(numbers, np.int64), _texts(kept))
    return Batch(batch.table, sorted(bad + batch.bad))


def _at_once(block: Block, wanted: dict[str, int], width: int, separator: str, quotes: bool) -> Batch | None:
    """A block by pyarrow; None unless every line is a row and every quote closes."""
    pa = import_pyarrow()
    names = [str(place) for place in range(width)]
    num_lines = block.text.count(b"\n")
    if quotes and not _closes(block.text[block.text.rfind(b"\n", 0, -1) + 1 : -1], separator):
        return None  # pyarrow ends the row with the block; in any other line there would be a row less
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(block.text),
            read_options=pa.csv.ReadOptions(column_names=names, block_size=len(block.text) + 1, use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter=separator, quote_char='"' if quotes else False),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[names[place] for place in dict.fromkeys(wanted.values())],
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    if table.num_rows != num_lines:
        return None
    fields = {kind: table[names[place]].combine_chunks() for kind, place in wanted.items()}

    def text(place: int) -> str:
        return block.text.split(b"\n")[place].removesuffix(b"\r").decode(errors="replace")

    return _table(fields, np.arange(block.first, block.first + num_lines), text)


def _header(path: Path, block: Block, separator: str, quotes: bool) -> tuple[list[str], Block]:
    first, head = next((found for found in block.lines() if not _is_empty(found[1], separator)), (block.first, b""))
    try:
        names = _split_line(head, separator, quotes)
        head.decode()
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: line {first}, which names the columns, cannot be read ({error})") from None
    rest = block.text.split(b"\n", first - block.first + 1)[-1]
    return names, Block(first + 1, rest)


def read_delimited(
    path: Path,
    columns: Columns,
    *,
    separator: str = ",",
    quotes: bool = True,
    names: tuple[str, ...] | None = None,
    optional: tuple[str, ...] = (),
    rename: Callable[[str], str] = str,
) -> Iterator[Batch]:
    """A file with a column for each field; ``names`` of a file without a header, ``rename`` of one with."""
    wanted, width = None, 0
    for block in read_blocks(path):
        if len(separator) > 1:
            block = Block(block.first, block.text.replace(separator.encode(), b"\x1f"))
        mark = separator if len(separator) == 1 else "\x1f"
        if wanted is None:
            found = names
            if found is None:
                raw, block = _header(path, block, mark, quotes)
                found = tuple(rename(name) for name in raw)
            wanted, width = _places(path, columns, found, optional), len(found)
        if block.text:
            batch = _at_once(block, wanted, width, mark, quotes)
            yield _slowly(block, wanted, width, mark, quotes) if batch is None else batch


def _places(path: Path, columns: Columns, names: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, int]:
    wanted = {kind: name for kind, name in columns.named().items() if name in names or kind not in optional}
    missing = {kind: name for kind, name in wanted.items() if name not in names}
    for kind, name in missing.items():
        raise DataError(f"{path} has no column {name!r}, only {', '.join(names)}: name it with --{kind}_col")
    for name in wanted.values():
        if names.count(name) > 1:
            raise DataError(
                f"{path} has {names.count(name)} columns {name!r}: which one is meant? Give them other names"
            )
    return {kind: names.index(name) for kind, name in wanted.items()}


def read_json_lines(path: Path, columns: Columns) -> Iterator[Batch]:
    """A JSON object a line."""
    pa, wanted = import_pyarrow(), columns.named()
    for block in read_blocks(path):
        found: dict[str, list[str]] = {kind: [] for kind in wanted}
        numbers, kept, bad = [], [], []
        for number, line in block.lines():
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                row = {kind: _json_text(values, name) for kind, name in wanted.items()}
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError too
                reason = str(error) if isinstance(error, _MissingField) else "is no JSON object in UTF-8"
                bad.append(BadLine(number, reason, line.decode(errors="replace")))
                continue
            numbers.append(number)
            kept.append(line)
            for kind, value in row.items():
                found[kind].append(value)
        fields = {kind: pa.array(values, pa.string()) for kind, values in found.items()}
        batch = _table(fields, np.array(numbers, np.int64), _texts(kept))
        yield Batch(batch.table, sorted(bad + batch.bad))


class _MissingField(ValueError):
    """A JSON object without a field that is read."""


def _json_text(values: Any, name: str) -> str:
    if not isinstance(values, dict):
        raise ValueError
    value = values.get(name)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _MissingField(f"has no {name!r}")
    text = value if isinstance(value, str) else json.dumps(value)
    text.encode()  # a lone surrogate is no text
    return text


def read_lists(path: Path, columns: Columns, *, part: int | None = None, first: int = 0) -> Iterator[Batch]:
    """Lines ``user item item ...``, the items in time order; the lines of a user, too. Counted from ``first``."""
    pa = import_pyarrow()
    for block in read_blocks(path):
        users, items, bad = [], [], []
        for number, line in block.lines():
            try:
                user, *own = line.decode().split() or [""]
            except UnicodeDecodeError:
                bad.append(BadLine(number, "is not UTF-8", line.decode(errors="replace")))
                continue
            users += [user] * len(own)
            items += own
        table = pa.table(
            {
                "user": pa.array(users, pa.string()),
                "item": pa.array(items, pa.string()),
                "line": pa.array(np.arange(first, first + len(items), dtype=np.int64)),
            }
        )
        first += len(items)
        if part is not None:
            table = table.append_column("part", pa.array(np.full(len(users), part, np.int8)))
        yield Batch(table, bad)


def read_lightgcn(path: Path, columns: Columns) -> Iterator[Batch]:
    """A folder with ``train.txt`` and ``test.txt``, lines ``user item item ...``: already split."""
    num_before = 0
    for name, part in (("train.txt", 0), ("test.txt", 2)):
        first = num_before
        for batch in read_lists(path / name, columns, part=part, first=first):
            num_before += len(batch.table)
            yield batch


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
        _places(file, columns, tuple(schema.names), ())
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
            limit = LARGEST_TIME if kind == "time" else np.finfo(np.float64).max
            reject(~(np.abs(values) <= limit), f"has a {kind} that is not finite, too large or no number")
            columns[kind] = pa.array(values)
        elif pa.types.is_integer(column.type):
            columns[kind] = column.cast(pa.string() if kind in as_texts else pa.int64())
        elif _is_text(column.type):
            column = column.cast(pa.string())
            sizes = pa.compute.binary_length(column).fill_null(1).to_numpy(zero_copy_only=False)
            reject(sizes == 0, f"has no {kind}")
            reject(sizes > LONGEST_ID, _too_long(kind))
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
