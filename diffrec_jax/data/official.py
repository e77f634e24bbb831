"""Reader of the released layout: ``train_list.npy``, ``valid_list.npy``, ``test_list.npy`` in one folder.

Each file holds an integer array [n, 2] of (user, item), in time order per user, with ids from 0 over all splits.
"""

from pathlib import Path

import numpy as np

from diffrec_jax.data.interactions import SPLITS, DataError, Dataset, coverage_warnings, csr_from_pairs

# Ids may have gaps (users without interactions), but an id far beyond their number is a raw id or a damaged file, and
# would size every matrix and network.
MAX_ID_GAP_FACTOR = 10
MIN_ID_RANGE = 1000


def _read_pairs(path: Path) -> np.ndarray:
    try:
        pairs = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: a dataset folder holds {', '.join(f'{s}_list.npy' for s in SPLITS)}"
        ) from None
    except (ValueError, EOFError, OSError) as error:
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
    return pairs


def _check_id_range(pairs: dict[str, np.ndarray], folder: Path) -> tuple[int, int]:
    sizes = []
    for column, kind in enumerate(("user", "item")):
        ids = np.concatenate([split[:, column] for split in pairs.values()])
        num_distinct, largest = len(np.unique(ids)), int(ids.max())
        if largest >= max(MAX_ID_GAP_FACTOR * num_distinct, MIN_ID_RANGE):
            where = next(name for name, split in pairs.items() if int(split[:, column].max()) == largest)
            raise DataError(
                f"{folder / f'{where}_list.npy'} has {kind} id {largest:,} but only {num_distinct:,} {kind}s: "
                f"renumber the {kind}s from 0 without large gaps"
            )
        sizes.append(largest + 1)
    return sizes[0], sizes[1]


def _check_repeats(pairs: dict[str, np.ndarray], num_items: int, folder: Path) -> None:
    codes = {name: split[:, 0].astype(np.int64) * num_items + split[:, 1] for name, split in pairs.items()}
    for name, split_codes in codes.items():
        values, counts = np.unique(split_codes, return_counts=True)
        repeated = values[counts > 1]
        if repeated.size:
            pair = list(divmod(int(repeated[0]), num_items))
            raise DataError(
                f"{folder / f'{name}_list.npy'} holds {repeated.size:,} pairs more than once, the first {pair}: "
                "keep one interaction for each user and item"
            )
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = np.intersect1d(codes[first], codes[second], assume_unique=True)
        if shared.size:
            pair = list(divmod(int(shared[0]), num_items))
            raise DataError(
                f"{folder}: {shared.size:,} pairs are in both {first} and {second}, the first {pair}: "
                "put each interaction into one split"
            )


def read_official(folder: str | Path, *, name: str | None = None) -> Dataset:
    """Reads and checks the three splits of a folder; users and items are numbered over all of them.

    Raises:
      DataError: a file is missing, is no integer array [n, 2], is empty or pickled, has negative or far too large ids,
        or a pair occurs twice, in one split or in two.
    """
    folder = Path(folder)
    pairs = {split: _read_pairs(folder / f"{split}_list.npy") for split in SPLITS}
    num_users, num_items = _check_id_range(pairs, folder)
    _check_repeats(pairs, num_items, folder)
    splits = {split: csr_from_pairs(array, num_users, num_items) for split, array in pairs.items()}
    return Dataset(name=name or folder.name, warnings=coverage_warnings(**splits), **splits)


def find_dataset_folder(dataset: str, setting: str, data_dir: str | Path) -> Path:
    """``<data_dir>/<dataset>_<setting>``, or ``dataset`` itself where it is the path of a folder.

    Raises:
      DataError: neither exists; the message lists what the data folder does hold.
    """
    named = Path(data_dir) / f"{dataset}_{setting}"
    for folder in (named, Path(dataset)):
        if folder.is_dir():
            return folder
    parent = Path(data_dir)
    found = sorted(path.parent.name for path in parent.glob("*/train_list.npy")) if parent.is_dir() else []
    there = f"holds {', '.join(found) or 'no dataset'}" if parent.is_dir() else "does not exist"
    raise DataError(
        f"dataset {dataset!r} (setting {setting!r}) is not at {named} and {dataset!r} is no folder; {parent} {there}: "
        "set --data_dir or DIFFREC_DATA_DIR, give a folder's path, or use --dataset=synthetic"
    )
