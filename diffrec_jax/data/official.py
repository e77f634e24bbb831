"""Reader of the released layout: ``train_list.npy``, ``valid_list.npy`` (may be missing), ``test_list.npy``.

Each file holds an integer array [n, 2] of (user, item), in time order per user. An id means the same in all three.
Ratings may lie beside them, in ``train_ratings.npy`` and so on: a number for each row of the list.
"""

import hashlib
import json
from io import BufferedReader
from pathlib import Path

import numpy as np

from diffrec_jax.data.interactions import SPLITS, Dataset, gap_warnings
from diffrec_jax.data.matrices import DataError, csr_from_pairs
from diffrec_jax.files import UNREADABLE, safe_name

META = "meta.json"
"""Of a prepared dataset: how it was made, and the SHA-256 of its files."""

HELD_OUT = "held_out_users.npy"
"""Of a prepared dataset that holds out users: their numbers."""


def _read_pairs(path: Path) -> np.ndarray:
    try:
        pairs = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: a dataset folder holds {', '.join(f'{s}_list.npy' for s in SPLITS)}"
        ) from None
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as a plain NumPy array ({error}): save an integer array [n, 2] with np.save"
        ) from None
    if not isinstance(pairs, np.ndarray) or pairs.dtype.kind not in "iu":
        kind = getattr(pairs, "dtype", type(pairs).__name__)
        raise DataError(f"{path} holds {kind}, not integers: save (user, item) ids as int64")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DataError(f"{path} has shape {list(pairs.shape)}, not [n, 2]: save one (user, item) pair a row")
    if len(pairs) == 0:
        raise DataError(f"{path} is empty: every split needs at least one interaction; check how the data was split")
    negative = np.flatnonzero((pairs < 0).any(axis=1))
    if negative.size:
        row = negative[0]
        raise DataError(
            f"{path} has {negative.size:,} rows with a negative id, the first {pairs[row].tolist()} in row {row}: "
            "count ids from 0"
        )
    if pairs.max() > np.iinfo(np.int64).max:
        raise DataError(f"{path} has ids up to {pairs.max()}, beyond int64: number users and items from 0")
    return pairs.astype(np.int64, copy=False)  # of several types, NumPy would compare them as float64


def _read_ratings(path: Path, pairs: np.ndarray) -> np.ndarray:
    """The ratings [n] of pairs [n, 2], float32, in the order that ``csr_from_pairs`` stores them in."""
    try:
        ratings = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: ratings lie beside the lists of a log that has them (prepare it with its ratings, "
            "--rating_col)"
        ) from None
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as a plain NumPy array ({error}): save numbers [n] with np.save"
        ) from None
    if not isinstance(ratings, np.ndarray) or ratings.dtype.kind not in "iuf" or ratings.shape != (len(pairs),):
        found = f"{ratings.dtype} {list(ratings.shape)}" if isinstance(ratings, np.ndarray) else type(ratings).__name__
        raise DataError(f"{path} holds {found}, not {len(pairs):,} numbers: one rating for each row of the list")
    return ratings.astype(np.float32)[np.argsort(pairs[:, 0], kind="stable")]


def _distinct(ids: list[np.ndarray]) -> np.ndarray:
    """The ids, at least 0, that occur, in ascending order."""
    largest = max((int(own.max()) for own in ids if len(own)), default=-1)
    if largest > sum(map(len, ids)):
        return np.unique(np.concatenate(ids))
    occurs = np.zeros(largest + 1, bool)  # several times faster than to sort or hash them
    for own in ids:
        occurs[own] = True
    return np.flatnonzero(occurs)


def _places(of: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The place of each id among ids in ascending order."""
    if ids[-1] > 2 * len(ids) + len(of):
        return np.searchsorted(ids, of)
    table = np.zeros(ids[-1] + 1, np.int64)
    table[ids] = np.arange(len(ids))
    return table[of]


def read_official(
    folder: str | Path, *, name: str | None = None, strict_ids: bool = False, ratings: bool = False
) -> Dataset:
    """Reads and checks the splits of a folder; users and items are numbered over all of them.

    Without valid_list.npy nothing chooses the best epoch: a trained model goes through all of them.

    Ids that occur in no split are left out: they would count as users with recall 0 and as items that are never
    recommended, in every average. A warning counts them, and the dataset keeps the ids.

    With ``ratings`` those that lie beside the lists are read too.

    Raises:
      DataError: a file is missing, is no integer array [n, 2], is empty or pickled, has ids that are negative or beyond
        int64, or a pair occurs twice, in one split or in two; or ids are left out and ``strict_ids``; or ratings are
        asked for and are missing, not as many as the pairs, or not finite.
    """
    folder = Path(folder)
    name = name or folder.name
    if (folder / META).exists():
        return _read_prepared(folder, name, ratings=ratings)
    paths = {split: folder / f"{split}_list.npy" for split in SPLITS}
    has_valid = paths["valid"].exists() or not paths["train"].exists()
    pairs = {split: _read_pairs(path) for split, path in paths.items() if split != "valid" or has_valid}
    pairs = {"valid": np.zeros((0, 2), np.int64)} | pairs
    user_ids, item_ids = (_distinct([split[:, axis] for split in pairs.values()]) for axis in range(2))
    gaps = gap_warnings(user_ids, item_ids)
    if gaps and strict_ids:
        raise DataError(f"{folder}: {'; '.join(gaps)} (--strict_ids): number users and items from 0 without gaps")
    for split in pairs.values() if gaps else ():
        for axis, ids in enumerate((user_ids, item_ids)):
            split[:, axis] = _places(split[:, axis], ids)
    splits = {split: csr_from_pairs(array, len(user_ids), len(item_ids)) for split, array in pairs.items()}
    try:
        return Dataset(
            name=name,
            reading_warnings=gaps,
            user_ids=user_ids,
            item_ids=item_ids,
            ratings=_ratings_of(folder, pairs) if ratings else None,
            **splits,  # type: ignore[arg-type]
        )
    except DataError as error:
        raise DataError(f"{folder}: {str(error).removeprefix(f'{name}: ')}") from None


def _ratings_of(folder: Path, pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By split, the ratings of its pairs; a split without pairs needs no file."""
    return {split: _read_ratings(folder / f"{split}_ratings.npy", own) for split, own in pairs.items() if len(own)}


def _read_prepared(folder: Path, name: str, *, ratings: bool) -> Dataset:
    """A folder of ``experiments.prepare``: its files are those that meta.json says, and it has the original ids."""
    try:
        digests = json.loads((folder / META).read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / META} cannot be read ({error}): prepare the dataset again") from None
    for file, expected in digests.items():
        with _opened(folder / file) as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                raise DataError(f"{folder / file} is not what was prepared: prepare the dataset again")
    if ratings and "train_ratings.npy" not in digests:
        raise DataError(f"{folder} was made of a log without ratings: prepare it with them (--rating_col)")
    user_ids, item_ids = (_read_ids(folder / f"{kind}.parquet") for kind in ("users", "items"))
    nothing = np.zeros((0, 2), np.int32)
    files = {split: f"{split}_list.npy" for split in SPLITS}
    pairs = {
        split: np.load(folder / file, mmap_mode="r") if file in digests else nothing for split, file in files.items()
    }
    splits = {split: csr_from_pairs(own, len(user_ids), len(item_ids)) for split, own in pairs.items()}
    times = {split: folder / f"{split}_times.npy" for split in SPLITS}
    found = {split: np.load(path) if path.name in digests else np.zeros(0) for split, path in times.items()}
    has_times = times["train"].name in digests
    held_out = np.load(folder / HELD_OUT) if HELD_OUT in digests else None
    return Dataset(
        name,
        user_ids=user_ids,
        item_ids=item_ids,
        times=found if has_times else None,
        held_out_users=held_out,
        ratings=_ratings_of(folder, pairs) if ratings else None,
        **splits,  # type: ignore[arg-type]
    )


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: prepare the dataset again") from None


def _read_ids(path: Path) -> np.ndarray:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("the ids of a prepared dataset need pyarrow: pip install 'diffrec-jax[data]'") from error
    ids = parquet.read_table(path)["id"].to_numpy()
    return ids.astype(np.str_) if ids.dtype.kind == "O" else ids


def find_dataset_folder(dataset: str, setting: str, data_dir: str | Path) -> Path:
    """``<data_dir>/<dataset>_<setting>``, as a file name has it, or ``dataset`` itself where it is a folder's path.

    Raises:
      DataError: neither exists; the message lists what the data folder does hold.
    """
    named = Path(data_dir) / f"{dataset}_{setting}"
    for folder in (named, Path(data_dir) / safe_name(f"{dataset}_{setting}"), Path(dataset)):
        if folder.is_dir():
            return folder
    parent = Path(data_dir)
    found = sorted(path.parent.name for path in parent.glob("*/train_list.npy")) if parent.is_dir() else []
    there = f"holds {', '.join(found) or 'no dataset'}" if parent.is_dir() else "does not exist"
    raise DataError(
        f"dataset {dataset!r} (setting {setting!r}) is not at {named} and {dataset!r} is no folder; {parent} {there}: "
        "set --data_dir or DIFFREC_DATA_DIR, give a folder's path, or use --dataset=synthetic"
    )
