"""How long does it take to make a dataset of a log, how much memory and disk, as it grows? pandas is the peer.

Each side runs in its own process on the same Parquet file: rating of at least 1 (all), first of repeated pairs, core of
5, order, split 7:1:2, arrays on disk. Both have to write the same arrays.

python -m benchmarks.prepare_log --rows=100000,1000000,10000000
"""

import contextlib
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.table import Table

from diffrec_jax.memory import GIB
from diffrec_jax.preparation import PrepareConfig
from experiments.cli import start
from experiments.console import make_console
from experiments.flag_parsers import IntListParser, IntListSerializer

FLAGS = flags.FLAGS
CORE, MIN_RATING, RATIOS = 5, 1.0, (7, 1, 2)
BLOCK = 1 << 20
POLL_S = 0.2
"""Between two looks at the disk."""


def make_log(path: Path, num_rows: int) -> None:
    """A Parquet log of 20 rows a user, its items skewed."""
    import pyarrow as pa
    from pyarrow import parquet

    rng, writer = np.random.default_rng(0), None
    num_users, num_items = max(num_rows // 20, 10), max(num_rows // 100, 10)
    for begin in range(0, num_rows, BLOCK):
        size = min(BLOCK, num_rows - begin)
        table = pa.table(
            {
                "user": rng.integers(num_users, size=size),
                "item": (num_items * rng.random(size) ** 2).astype(np.int64),
                "rating": rng.integers(1, 6, size=size).astype(np.float32),
                "time": rng.integers(10**9, 10**9 + 10**8, size=size),
            }
        )
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def by_pandas(log: Path, out: Path) -> None:
    """The peer: the same steps as one would write them in pandas."""
    import pandas as pd

    frame: Any = pd.read_parquet(log)
    frame["line"] = np.arange(len(frame))
    frame = frame[frame["rating"] >= MIN_RATING].sort_values(["user", "time", "line"])
    frame = frame.drop_duplicates(["user", "item"])
    while True:
        before = len(frame)
        for column in ("item", "user"):
            frame = frame[frame.groupby(column)[column].transform("size") >= CORE]
        if len(frame) == before:
            break
    for column in ("user", "item"):
        frame[column] = np.unique(frame[column], return_inverse=True)[1]
    place = frame.groupby("user").cumcount()
    length = frame.groupby("user")["user"].transform("size")
    ends = [np.rint(share * length) for share in np.cumsum(RATIOS)[:-1] / sum(RATIOS)]
    part = (place >= ends[0]).astype(int) + (place >= ends[1])
    out.mkdir()
    for number, split in enumerate(("train", "valid", "test")):
        np.save(out / f"{split}_list.npy", frame.loc[part == number, ["user", "item"]].to_numpy(np.int32))


def by_us(engine: str, log: Path, out: Path) -> None:
    """Ours."""
    from diffrec_jax.preparation.pipeline import prepare

    config = PrepareConfig(
        "parquet", rating_col="rating", time_col="time", min_rating=MIN_RATING, user_core=CORE, item_core=CORE
    )
    made = prepare(log, "log", out.parent, config, engine=engine)  # type: ignore[arg-type]
    made.folder.rename(out)


def measured(side: str, log: Path) -> dict[str, float | str]:
    """Seconds, peak bytes of memory and disk, and the digest of the arrays of one side."""
    command = [sys.executable, "-m", "benchmarks.prepare_log", f"--side={side}", f"--log={log}"]
    disk, before = 0, bytes_in(log.parent)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            disk = max(disk, bytes_in(log.parent) - before)
            time.sleep(POLL_S)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(lines[-1]) | {"disk": disk}


def bytes_in(folder: Path) -> int:
    """Of all files in a folder that others write to."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def run_side(side: str, log: Path) -> None:
    """In a process of its own, beside the log."""
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        out, started = Path(folder) / "out", time.perf_counter()
        if side == "pandas":
            by_pandas(log, out)
        else:
            by_us(side, log, out)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256()
        for split in ("train", "valid", "test"):
            digest.update(np.load(out / f"{split}_list.npy").tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "bytes": peak, "digest": digest.hexdigest()}))


def main() -> None:
    """A row a size and side."""
    if FLAGS.side:
        run_side(FLAGS.side, Path(FLAGS.log))
        return
    console = make_console()
    table = Table("rows", "side", "s", "µs a row", "GiB", "GiB on disk")
    with tempfile.TemporaryDirectory() as folder:
        for num_rows in FLAGS.rows:
            log = Path(folder) / f"{num_rows}.parquet"
            make_log(log, num_rows)
            found = {side: measured(side, log) for side in FLAGS.sides}
            if len({result["digest"] for result in found.values()}) > 1:
                raise AssertionError(f"{num_rows:,} rows: the sides do not write the same arrays")
            for side, result in found.items():
                seconds, sizes = float(result["seconds"]), (float(result[name]) / GIB for name in ("bytes", "disk"))
                table.add_row(
                    f"{num_rows:,}",
                    side,
                    f"{seconds:.2f}",
                    f"{seconds / num_rows * 1e6:.2f}",
                    *(f"{size:.2f}" for size in sizes),
                )
            log.unlink()
    console.print(table)


if __name__ == "__main__":
    flags.DEFINE(IntListParser(), "rows", (100_000, 1_000_000, 10_000_000), "Sizes of logs.",
                 serializer=IntListSerializer())  # fmt: skip
    flags.DEFINE_list("sides", ["polars", "duckdb", "pandas"], "Engines, and pandas.")
    flags.DEFINE_string("side", None, "For the processes that are measured.")
    flags.DEFINE_string("log", None, "For the processes that are measured.")
    start(main, __doc__ or "")
