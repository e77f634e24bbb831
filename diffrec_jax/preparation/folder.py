"""Writes a prepared dataset: the official files, and what those lose."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.data import DataError
from diffrec_jax.data.official import META
from diffrec_jax.files import naming
from diffrec_jax.preparation.batches import import_pyarrow


class ArrayFile:
    """A .npy file of a known shape that is written part by part."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any):
        self.path, self.dtype, self.digest = path, np.dtype(dtype), hashlib.sha256()
        self.file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.file.flush()
        self.digest.update(path.read_bytes())

    def append(self, part: np.ndarray) -> None:
        """The next rows."""
        content = np.ascontiguousarray(part, self.dtype).tobytes()
        self.file.write(content)
        self.digest.update(content)

    def close(self) -> str:
        """Ends the file: its SHA-256."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return self.digest.hexdigest()


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears at its place once all is there, and not at all after an error.

    What a killed process left is removed.

    Raises:
      DataError: the place is taken.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already: choose another --name or --out, or remove it")
    with naming(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark = f".{folder.name}.preparing-"
        for left in folder.parent.glob(f"{mark}*"):
            if not _is_running(left.name.removeprefix(mark)):
                shutil.rmtree(left, ignore_errors=True)
        temporary = folder.parent.resolve() / f"{mark}{os.getpid()}"
        temporary.mkdir()
    try:
        with naming(folder):
            yield temporary
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def write_ids(source: list[Path], kept: np.ndarray, path: Path) -> None:
    """users.parquet or items.parquet: ``number`` and the original ``id`` of those kept, in the order of numbers.

    Args:
      source: Parquet files of ``id`` and ``number``, in the order of numbers.
      kept: whether each number stays, [n]; they are numbered anew.
      path: of the file.
    """
    pa, writer, number = import_pyarrow(), None, 0
    for file in source:
        for batch in pa.parquet.ParquetFile(file).iter_batches(1 << 20):
            stays = pa.array(kept[batch.column("number").to_numpy(zero_copy_only=False).astype(np.int64)])
            ids = batch.column("id").filter(stays)
            if pa.types.is_large_string(ids.type) or pa.types.is_string_view(ids.type):
                ids = ids.cast(pa.string())
            numbers = pa.array(np.arange(number, number + len(ids), dtype=np.int32))
            number += len(ids)
            table = pa.table({"number": numbers, "id": ids})
            writer = writer or pa.parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    if writer is not None:
        writer.close()


def write_meta(folder: Path, meta: dict[str, Any], digests: dict[str, str]) -> None:
    """meta.json: how the folder was made, and the SHA-256 of its files."""
    for name in ("users.parquet", "items.parquet"):
        digests[name] = sha256(folder / name)
    with (folder / META).open("w") as file:
        json.dump(meta | {"files": dict(sorted(digests.items()))}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def split_files(split: str) -> tuple[str, str, str]:
    """Names of a split's pairs, times and ratings."""
    return f"{split}_list.npy", f"{split}_times.npy", f"{split}_ratings.npy"
