"""Readers of logs in text: delimited columns, JSON lines, lists of items."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.interactions import LONGEST_ID
from diffrec_jax.preparation.batches import (
    LARGEST,
    PARSERS,
    BadLine,
    Batch,
    Columns,
    import_pyarrow,
    too_long,
)
from diffrec_jax.preparation.lines import LONGEST_LINE, Block, read_blocks


def _numbers(column: Any, kind: str) -> np.ndarray | None:
    """A text column as float64, at once; None where one of them needs a closer look."""
    pa = import_pyarrow()
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return values if np.all(np.abs(values) <= LARGEST[kind]) else None  # NaN: no


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
                reject(int(place), too_long(kind))
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
            wanted, width = columns.places(path, found, optional), len(found)
        if block.text:
            batch = _at_once(block, wanted, width, mark, quotes)
            yield _slowly(block, wanted, width, mark, quotes) if batch is None else batch


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
