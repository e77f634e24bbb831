"""Recommendations to a file, a chunk of users at a time: memory does not grow with their number.

``.csv`` and ``.parquet`` have a row for each place of a list: user, item, rank (from 1), score. ``.jsonl`` has an
object for each user: user, items, scores.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffrec_jax.config import ConfigError
from diffrec_jax.data import DataError
from diffrec_jax.files import atomic_file
from diffrec_jax.serving.model import Model
from diffrec_jax.serving.recommend import Recommendations, recommend

CHUNK_SIZE = 8000
"""Users in memory at once: whole batches."""
Write = Callable[[Recommendations], None]


@contextmanager
def _csv_writer(file: IO[bytes]) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "item", "rank", "score"])

    def write(found: Recommendations) -> None:
        columns = _columns(found)
        writer.writerows(zip(*(column.tolist() for column in columns.values())))

    yield write
    text.detach()  # leaves the file open: the caller closes it


@contextmanager
def _json_writer(file: IO[bytes]) -> Iterator[Write]:
    def write(found: Recommendations) -> None:
        for user, items, scores in zip(found.users.tolist(), found.items, found.scores):
            kept = ~np.isnan(scores)
            record = {"user": user, "items": items[kept].tolist(), "scores": scores[kept].tolist()}
            file.write(json.dumps(record).encode() + b"\n")

    yield write


@contextmanager
def _parquet_writer(file: IO[bytes]) -> Iterator[Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'diffrec-jax[data]', or write .csv or .jsonl") from error
    writer: Any = None

    def write(found: Recommendations) -> None:
        nonlocal writer
        try:
            table = pa.table({name: pa.array(column) for name, column in _columns(found).items()})
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
            raise DataError(f"Parquet has a type for a column, and users' names have several ({error})") from None

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


WRITERS = {".csv": _csv_writer, ".jsonl": _json_writer, ".parquet": _parquet_writer}


def _columns(found: Recommendations) -> dict[str, np.ndarray]:
    """A row for each place that holds an item."""
    kept = ~np.isnan(found.scores)
    ranks = np.broadcast_to(np.arange(1, found.items.shape[1] + 1, dtype=np.int32), found.items.shape)
    users = np.repeat(found.users, kept.sum(axis=1))
    return {"user": users, "item": found.items[kept], "rank": ranks[kept], "score": found.scores[kept]}


def _check_new(users: list[Any], before: set[Any]) -> None:
    """Raises DataError if one of the users, who join those ``before``, is among them."""
    twice = next((user for user in users if user in before), None)
    if twice is not None:
        raise DataError(f"user {twice!r} is asked for twice: name each once")
    before.update(users)


def write_recommendations(
    path: str | Path,
    model: Model,
    *,
    users: Iterable[Any] | None = None,
    histories: Mapping[Any, Sequence[Any]] | None = None,
    chunk_size: int = CHUNK_SIZE,
    **options: Any,
) -> int:
    """``recommend``, written to a file whose ending says how: .csv, .jsonl or .parquet. Gives the number of users.

    Args:
      path: of the file; it appears when it is whole.
      model: what recommends.
      users: as in ``recommend``; all known ones with neither users nor histories.
      histories: as in ``recommend``.
      chunk_size: users recommended to, and held, at once.
      **options: of ``recommend``: times, weights, k, exclude_seen, allow, block, min_score, batch_size.

    Raises:
      ConfigError: another ending, or Parquet without pyarrow, or as in ``recommend``.
      DataError: nobody is to be recommended to, or users' names are of several types, of which Parquet has no column;
        or as in ``recommend``, likewise ScoresError.
      OSError: the file cannot be written; nothing is left of it.
    """
    path = Path(path).expanduser()
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path} ends with {path.suffix!r}: choose one of {', '.join(WRITERS)}")
    if histories is not None and users is not None:
        raise ConfigError("give users or histories, not both")
    if chunk_size < 1:
        raise ConfigError(f"chunk_size has to be at least 1, got {chunk_size}")
    # Every chunk goes through them anew, and an iterator could be gone through once.
    for name in ("allow", "block"):
        if options.get(name) is not None:
            options[name] = list(options[name])
    named = histories.items() if histories is not None else model.dataset.original_user_ids if users is None else users
    done, asked, before = 0, iter(named), set()
    with atomic_file(path) as file, WRITERS[path.suffix](file) as write:
        while chunk := list(itertools.islice(asked, chunk_size)):
            who = {"histories": dict(chunk)} if histories is not None else {"users": chunk}
            if users is not None:
                _check_new(chunk, before)
            write(recommend(model, **who, **options))
            done += len(chunk)
        if not done:
            raise DataError("there is nobody to recommend to: give at least one user or history")
    return done
