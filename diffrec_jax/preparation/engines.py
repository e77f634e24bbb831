"""Engines that run the steps: polars, DuckDB and Spark, each behind Narwhals.

An engine reads a Parquet file as a lazy frame, and writes a lazy frame to Parquet in its order: out of core where it
can.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import narwhals as nw

from diffrec_jax.data import DataError
from diffrec_jax.preparation.names import EngineName

GIB = 1 << 30
EXTRA = {"polars": "data", "duckdb": "bigdata", "pyspark": "spark"}


class Size(NamedTuple):
    """Of a frame: users are numbered from 0 to below ``users``."""

    rows: int
    users: int


Step = Callable[[nw.LazyFrame], nw.LazyFrame]


@dataclass
class Engine:
    """Lazy frames over Parquet files.

    Args:
      folder: for what does not fit into memory and for what is kept between steps.
    """

    folder: Path
    kept: int = field(default=0, init=False)
    latest: Path | None = field(default=None, init=False)
    """What the last step wrote, or the log: the next step replaces it."""

    def __post_init__(self) -> None:
        """Starts the engine."""

    def close(self) -> None:
        """Ends it."""

    def scan(self, path: Path) -> nw.LazyFrame:
        """A Parquet file (or what ``write`` made) as a lazy frame."""
        raise NotImplementedError

    def write(self, frame: nw.LazyFrame, path: Path) -> None:
        """Writes a frame as Parquet, in its order."""
        frame.sink_parquet(str(path))

    def path(self) -> Path:
        """Where the next frame is kept."""
        self.kept += 1
        return self.folder / f"kept-{self.kept}.parquet"

    def keep(self, frame: nw.LazyFrame) -> nw.LazyFrame:
        """The frame, computed once and kept on disk: a lazy frame has no cache."""
        path = self.path()
        self.write(frame, path)
        return self.scan(path)

    def begin(self, path: Path) -> nw.LazyFrame:
        """The log, a Parquet file, that the steps start from; it is removed once a step has read it."""
        self.latest = path
        return self.scan(path)

    def advance(self, frame: nw.LazyFrame) -> nw.LazyFrame:
        """Keeps what a step makes of the latest frame, and removes that: the disk holds two at most."""
        return self._advanced(lambda path: self.write(frame, path))

    def advance_by_users(self, frame: nw.LazyFrame, step: Step, size: Size) -> nw.LazyFrame:
        """The same for ``step(frame)``, a step that treats each user alone and keeps or makes their order."""
        return self._advanced(lambda path: self.write_by_users(frame, step, size, path))

    def _advanced(self, write: Callable[[Path], None]) -> nw.LazyFrame:
        path, before = self.path(), self.latest
        write(path)
        self.latest = path
        if before is not None and before.is_dir():
            shutil.rmtree(before)
        elif before is not None:
            before.unlink()
        return self.scan(path)

    def write_by_users(self, frame: nw.LazyFrame, step: Step, size: Size, path: Path) -> None:
        """Writes ``step(frame)``."""
        self.write(step(frame), path)


class Polars(Engine):
    """polars' streaming engine. What it would sort in memory is done for some users after the other."""

    rows_at_once = 6_000_000

    def __post_init__(self) -> None:
        """Finds the package."""
        import polars

        self.scan_parquet = polars.scan_parquet

    def scan(self, path: Path) -> nw.LazyFrame:
        """A lazy scan."""
        return nw.from_native(self.scan_parquet(parquet_parts(path), glob=False))

    def write_by_users(self, frame: nw.LazyFrame, step: Step, size: Size, path: Path) -> None:
        """A folder of parts, each of a range of users."""
        num_parts = max(1, -(-size.rows // self.rows_at_once))
        edges = [size.users * part // num_parts for part in range(num_parts + 1)]
        path.mkdir()
        for part, (start, end) in enumerate(zip(edges, edges[1:])):
            own = frame.filter((nw.col("user") >= start) & (nw.col("user") < end))
            self.write(step(own), path / f"part-{part:05d}.parquet")


@dataclass
class DuckDB(Engine):
    """DuckDB in memory, with a limit beyond which it spills to the folder."""

    memory_bytes: int = 5 * GIB // 4
    num_threads: int | None = None

    def __post_init__(self) -> None:
        """Connects."""
        import duckdb

        self.connection = duckdb.connect()
        spill = str(self.folder / "spill").replace("'", "''")
        self.connection.execute(f"SET memory_limit = '{self.memory_bytes // 1_000_000}MB'")
        self.connection.execute(f"SET temp_directory = '{spill}'")
        self.connection.execute("SET enable_progress_bar = false")
        if self.num_threads:
            self.connection.execute(f"SET threads = {self.num_threads}")

    def close(self) -> None:
        """Closes the connection: the memory is free."""
        self.connection.close()

    def scan(self, path: Path) -> nw.LazyFrame:
        """A relation."""
        return nw.from_native(self.connection.read_parquet(str(path)))


class Spark(Engine):
    """A Spark session: the active one, or a local one."""

    def __post_init__(self) -> None:
        """Starts it."""
        from pyspark.sql import SparkSession

        session: Any = SparkSession.getActiveSession()
        self.owns = session is None
        if session is None:
            _check_java()
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            builder: Any = SparkSession.builder
            session = (
                builder.master("local[*]")
                .appName("diffrec-jax")
                .config("spark.ui.enabled", "false")
                .config("spark.ui.showConsoleProgress", "false")
                .config("spark.log.level", "ERROR")
                .config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
                .config("spark.local.dir", str(self.folder))
                .config("spark.driver.memory", "2g")
                .getOrCreate()
            )
        self.session = session

    def close(self) -> None:
        """Stops a session that was started here."""
        if self.owns:
            self.session.stop()

    def scan(self, path: Path) -> nw.LazyFrame:
        """A Spark frame."""
        return nw.from_native(self.session.read.parquet(str(path)))


def _check_java() -> None:
    """Raises DataError without Java 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    said, what_to_do = "there is no Java", "install Java 17 and set JAVA_HOME, or take --engine=polars or duckdb"
    if java and Path(java).exists():
        found = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        version = (found.stderr or found.stdout).partition('"')[2].partition('"')[0]
        major = version.partition(".")[0]
        if major.isdigit() and int(major) >= 17:
            return
        said = f"{java} is version {version or 'unknown'}"
    raise DataError(f"Spark needs Java 17 or newer, and {said}: {what_to_do}")


@contextmanager
def open_engine(name: EngineName, folder: Path, *, memory_bytes: int | None = None) -> Iterator[Engine]:
    """An engine that keeps its files in a folder.

    Raises:
      DataError: the package, or Java for Spark, is missing.
    """
    classes = {"polars": Polars, "duckdb": DuckDB, "spark": Spark}
    limit = {"memory_bytes": memory_bytes} if name == "duckdb" and memory_bytes else {}
    try:
        engine = classes[name](folder, **limit)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        raise DataError(f"--engine={name} needs {package}: pip install 'diffrec-jax[{EXTRA[package]}]'") from error
    try:
        yield engine
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("polars", "duckdb", "pyspark", "py4j", "_duckdb"):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "No space left" in str(error):
            raise DataError(
                f"no space is left for {folder}, where {name} keeps its files: choose another --out"
            ) from error
        hint = "; give it more with --memory_gib" if "Out of Memory" in said else ""
        raise DataError(f"{name} stopped: {said.strip()}{hint}") from error
    finally:
        engine.close()


def parquet_parts(path: Path) -> list[Path]:
    """The Parquet files of what an engine wrote, in order."""
    return sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
