"""From a log to a prepared folder: read, threshold, repeats, core, order, split, write.

The log is read once into Parquet. An engine filters, numbers and sorts it there. Its rows, in order, then pass block by
block through the split into the official files. Nothing as large as the log is ever in memory.
"""

import dataclasses
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.data.official import HELD_OUT
from diffrec_jax.data.splits import (
    SORTED_BY_ITEMS,
    TRAIN,
    Split,
    as_given,
    at_random,
    at_times,
    by_time,
    by_users,
    is_sorted_by_items,
    item_order,
    leave_one_out,
    random_order,
    time_points,
)
from diffrec_jax.files import safe_name
from diffrec_jax.preparation import steps
from diffrec_jax.preparation.config import PrepareConfig
from diffrec_jax.preparation.engines import Engine, EngineName, Size, open_engine, parquet_parts
from diffrec_jax.preparation.folder import ArrayFile, new_folder, sha256, split_files, write_ids, write_meta
from diffrec_jax.preparation.formats import FORMATS
from diffrec_jax.preparation.parts import Blocks, Labelled, add_random_items, label, read_in_order
from diffrec_jax.preparation.spool import Spool, write_spool
from diffrec_jax.version import __version__

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A dataset that was made."""

    folder: Path
    meta: dict[str, Any]
    """Contents of meta.json."""


@dataclass(frozen=True)
class Ordered:
    """What the engine made of a log, on disk."""

    rows: list[Path]
    """Parquet files of numbered rows in order."""
    users: list[Path]
    """Of id and number, in the order of numbers."""
    items: list[Path]


def prepare(
    raw: str | Path,
    name: str,
    out: str | Path,
    config: PrepareConfig,
    *,
    engine: EngineName = "polars",
    memory_bytes: int | None = None,
    tell: Tell = lambda line: None,
) -> Prepared:
    """Makes a dataset of a log, in the folder OUT/NAME_SETTING.

    Args:
      raw: the log: a file, or a folder where the format is one.
      name: of the dataset.
      out: the folder of datasets (``--data_dir`` of training).
      config: what is done.
      engine: what runs the steps; all write the same files.
      memory_bytes: of DuckDB, beyond which it uses the disk.
      tell: receives a line after each step.

    Raises:
      DataError: the log cannot be read, nothing is left of it, the place is taken, or a package is missing.
    """
    raw, out = Path(raw).expanduser(), Path(out).expanduser()
    recorded: list[dict[str, Any]] = []

    def record(step: str, rows: int, **more: Any) -> None:
        recorded.append({"step": step, "rows": rows, **more})
        tell(f"{step}: {rows:,} rows" + "".join(f", {value:,} {kind}" for kind, value in more.items()))

    with new_folder(out / safe_name(f"{name}_{config.setting}")) as folder:
        work = folder / "work"
        work.mkdir()
        source = FORMATS[config.format].read(raw, config.columns)
        spool = write_spool(source, work / "log.parquet", raw, on_bad_line=config.on_bad_line)
        record("read", spool.num_rows)
        if spool.num_bad:
            tell(f"warning: {spool.bad_lines()}")
        with open_engine(engine, work, memory_bytes=memory_bytes) as opened:
            ordered = order_log(spool, config, opened, record)
        has_times = "time" in spool.columns
        shuffles = not has_times and _sorted_by_items(ordered)
        if shuffles:
            tell(f"warning: {SORTED_BY_ITEMS}")
        has_ratings = "rating" in spool.columns
        counts, digests = _write_parts(ordered, config, folder, has_ratings, has_times, shuffles)
        shutil.rmtree(work)
        record("written", sum(counts[split] for split in SPLITS), users=counts["users"], items=counts["items"])
        meta = {
            "name": name,
            "version": __version__,
            "config": dataclasses.asdict(config),
            "steps": recorded,
            "shuffled": shuffles,
            "bad_lines": {"skipped": spool.num_bad, "first": str(spool.first_bad) if spool.first_bad else None},
            "counts": counts,
            "inputs": {path.name: sha256(path) for path in _files_of(raw)},
            "made_with": _versions(engine),
        }
        write_meta(folder, meta, digests)
    return Prepared(out / safe_name(f"{name}_{config.setting}"), meta)


def _files_of(raw: Path) -> list[Path]:
    return sorted(path for path in raw.iterdir() if path.is_file()) if raw.is_dir() else [raw]


def _versions(engine: EngineName) -> dict[str, str]:
    packages = ("numpy", "pyarrow", "narwhals", {"spark": "pyspark"}.get(engine, engine))
    return {"engine": engine, "python": platform.python_version()} | {name: version(name) for name in packages}


def order_log(spool: Spool, config: PrepareConfig, engine: Engine, record: Callable[..., None]) -> Ordered:
    """Runs the steps up to the order: what is left of a log, numbered and in order, on disk.

    Raises:
      DataError: nothing is left, or the config needs ratings that the log does not have.
    """
    if config.min_rating is not None and "rating" not in spool.columns:
        raise DataError("min_rating needs ratings, and the log has none: name their column with --rating_col")
    if config.split == "global_time" and "time" not in spool.columns:
        raise DataError("split global_time needs times, and the log has none: name their column, or split by_time")
    frame = engine.begin(spool.path)
    constants = {"rating": 1.0, "time": 0.0}
    added = [nw.lit(value).alias(kind) for kind, value in constants.items() if kind not in spool.columns]
    whole = [nw.col(kind).cast(nw.Int64) for kind, is_whole in spool.integer_ids.items() if is_whole]
    if added or whole:
        frame = frame.with_columns(*added, *whole)
    if config.has_low_ratings:
        frame = frame.with_columns(
            nw.when(nw.col("rating") >= config.min_rating)
            .then(nw.lit(0))
            .otherwise(nw.lit(1))
            .cast(nw.Int8)
            .alias("low")
        )
    elif config.min_rating is not None:
        frame = steps.at_least(frame, config.min_rating)  # written with the next step
        record(f"rating of at least {config.min_rating:g}", _some(steps.count(frame), "the threshold"))
    tables = {kind: engine.keep(steps.numbered(frame, kind)) for kind in ("user", "item")}
    for kind, numbers in tables.items():
        frame = steps.with_numbers(frame, kind, numbers)
    frame = engine.advance(frame)
    size = Size(steps.count(frame), steps.count(tables["user"]))

    before = ("low",) if config.has_low_ratings and config.repeats == "first" else ()
    frame = engine.advance_by_users(frame, lambda own: _without_repeats(own, config, before), size)
    size = size._replace(rows=steps.count(frame))
    record(f"{config.repeats} of repeated pairs", size.rows)

    low = None
    if config.has_low_ratings:
        low, frame = engine.keep(frame.filter(nw.col("low") == 1)), frame.filter(nw.col("low") == 0)
    if config.user_core > 1 or config.item_core > 1:
        cores = {"user_core": config.user_core, "item_core": config.item_core}
        for number, (core, rows) in enumerate(steps.k_core(frame, **cores, keep=engine.advance), 1):
            frame = core
            what = f"core of {config.user_core} a user, {config.item_core} an item"
            record(f"{what}, round {number}", _some(rows, "the core"))
    if low is not None:
        users = frame.select("user").unique()
        frame = nw.concat([frame, low.join(users, on="user", how="semi")])
    engine.advance_by_users(frame, steps.in_order, size)
    assert engine.latest is not None
    tables_in_order = []
    for kind, numbers in tables.items():
        file = engine.path()
        engine.write(numbers.rename({kind: "id"}).sort("number"), file)
        tables_in_order.append(parquet_parts(file))
    return Ordered(parquet_parts(engine.latest), *tables_in_order)


def _without_repeats(frame: nw.LazyFrame, config: PrepareConfig, before: tuple[str, ...]) -> nw.LazyFrame:
    if config.has_low_ratings and config.repeats == "last":
        frame = frame.with_columns((-nw.col("low")).alias("_high"))
        return steps.without_repeats(frame, "last", before=("_high",)).drop("_high")
    return steps.without_repeats(frame, config.repeats, before=before)


def _some(rows: int, step: str) -> int:
    if rows == 0:
        raise DataError(f"nothing is left of the log after {step}: lower --min_rating, --user_core or --item_core")
    return rows


def make_split(ordered: Ordered, config: PrepareConfig) -> Split:
    """The split of a configuration."""
    match config.split:
        case "by_time":
            return by_time(config.parts)
        case "leave_one_out":
            return leave_one_out
        case "random":
            return at_random(config.parts, seed=config.split_seed)
        case "users":
            return by_users(config.parts, input_share=config.input_share, seed=config.split_seed)
        case "given":
            return as_given
    times = [columns["time"][columns["low"] == 0] if "low" in columns else columns["time"]
             for columns in read_in_order(ordered.rows)]  # fmt: skip
    return at_times(*time_points(np.concatenate(times), config.parts))


def _sorted_by_items(ordered: Ordered) -> bool:
    """Whether each user's rows, of a log that is split those of each part, are in the order of items."""
    num_pairs = num_rising = 0
    for columns in read_in_order(ordered.rows):
        users = columns["user"].astype(np.int64) * len(SPLITS) + columns.get("part", 0)
        pairs, rising = item_order(users, columns["item"])
        num_pairs, num_rising = num_pairs + pairs, num_rising + rising
        if 0 < num_rising < num_pairs:
            return False
    return is_sorted_by_items(num_pairs, num_rising)


def _write_parts(
    ordered: Ordered, config: PrepareConfig, folder: Path, has_ratings: bool, has_times: bool, shuffles: bool
) -> tuple[dict[str, int], dict[str, str]]:
    """Writes the arrays and the ids: counts, and digests of the arrays."""
    split = make_split(ordered, config)
    num_users, num_items = (sum(_num_rows(path) for path in paths) for paths in (ordered.users, ordered.items))
    user_stays, item_stays, all_whole = np.zeros(num_users, bool), np.zeros(num_items, bool), True
    counts: dict[str, int] = dict.fromkeys(SPLITS, 0)

    def labelled() -> Iterator[Labelled]:
        for columns in read_in_order(ordered.rows):
            if shuffles:
                order = random_order(columns["user"], columns["item"])
                columns = {name: column[order] for name, column in columns.items()}
            rows = label(columns, split)
            yield rows.where(rows.parts < len(SPLITS))

    for rows in labelled():
        user_stays[rows.users], item_stays[rows.items] = True, True
        all_whole = all_whole and bool(np.all(rows.times == np.floor(rows.times)))
    new_user, new_item = ((np.cumsum(stays) - 1).astype(np.int32) for stays in (user_stays, item_stays))
    total_items = int(item_stays.sum())

    def numbered() -> Iterator[Labelled]:
        for rows in labelled():
            rows = dataclasses.replace(rows, users=new_user[rows.users], items=new_item[rows.items])
            yield (
                add_random_items(rows, config.noise_rate, total_items, config.split_seed) if config.noise_rate else rows
            )

    for rows in numbered():
        for part, count in enumerate(np.bincount(rows.parts, minlength=len(SPLITS))):
            counts[SPLITS[part]] += int(count)
    _check_counts(counts)
    digests = _write_arrays(numbered, counts, folder, has_ratings, np.int64 if all_whole else np.float64, has_times)
    if config.split == "users":
        digests[HELD_OUT] = _write_held_out(numbered, folder)
    write_ids(ordered.users, user_stays, folder / "users.parquet")
    write_ids(ordered.items, item_stays, folder / "items.parquet")
    return counts | {"users": int(user_stays.sum()), "items": total_items}, digests


def _write_held_out(blocks: Blocks, folder: Path) -> str:
    """The file of users with rows in valid or test: its digest."""
    held_out = np.concatenate([np.unique(rows.users[rows.parts != TRAIN]) for rows in blocks()])
    file = ArrayFile(folder / HELD_OUT, held_out.shape, np.int32)
    file.append(held_out)
    return file.close()


def _num_rows(path: Path) -> int:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path).metadata.num_rows


def _check_counts(counts: dict[str, int]) -> None:
    for split in ("train", "test"):
        if not counts[split]:
            raise DataError(f"the split leaves {split} empty: take other --ratios, or another --split")


def _write_arrays(
    blocks: Blocks, counts: dict[str, int], folder: Path, has_ratings: bool, time_type: type, has_times: bool
) -> dict[str, str]:
    """The official files, times and ratings, a split after the other within each block: their SHA-256."""
    files: dict[str, ArrayFile] = {}
    columns: list[dict[str, Callable[[Labelled], np.ndarray]]] = []
    for split in SPLITS:
        pairs, times, ratings = split_files(split)
        own: dict[str, Callable[[Labelled], np.ndarray]] = {}
        if counts[split]:
            files[pairs] = ArrayFile(folder / pairs, (counts[split], 2), np.int32)
            own[pairs] = lambda rows: np.stack([rows.users, rows.items], axis=1)
            if has_times:
                files[times] = ArrayFile(folder / times, (counts[split],), time_type)
                own[times] = lambda rows: rows.times
            if has_ratings:
                files[ratings] = ArrayFile(folder / ratings, (counts[split],), np.float32)
                own[ratings] = lambda rows: rows.ratings
        columns.append(own)
    for rows in blocks():
        for part, own in enumerate(columns):
            of_part = rows.where(rows.parts == part)
            for name, column in own.items():
                files[name].append(column(of_part))
    return {name: file.close() for name, file in files.items()}
