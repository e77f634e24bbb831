import numpy as np
import pytest

from diffrec_jax.data import DataError, find_dataset_folder, official, read_official

GOOD = {
    "train": np.array([[0, 1], [0, 0], [1, 2], [2, 1]]),
    "valid": np.array([[0, 2], [1, 0]]),
    "test": np.array([[0, 3], [3, 1]]),
}


def write(folder, splits):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in splits.items():
        np.save(folder / f"{name}_list.npy", pairs)
    return folder


@pytest.mark.parametrize("largest", [10, 60, 10**9])
def test_ids_are_found_and_numbered_alike_whether_they_lie_close_or_far_apart(largest):
    rng = np.random.default_rng(largest)
    ids = [rng.integers(largest + 1, size=size) for size in (40, 0, 30)]
    expected, places = np.unique(np.concatenate(ids), return_inverse=True)
    np.testing.assert_array_equal(official._distinct(ids), expected)
    np.testing.assert_array_equal(official._places(np.concatenate(ids), expected), places)


def test_reads_the_layout_in_time_order(tmp_path):
    dataset = read_official(write(tmp_path / "tiny_clean", GOOD))
    assert (dataset.name, dataset.num_users, dataset.num_items) == ("tiny_clean", 4, 4)
    np.testing.assert_array_equal(dataset.train.indices[:2], [1, 0])
    assert (dataset.train.nnz, dataset.valid.nnz, dataset.test.nnz) == (4, 2, 2)


def test_what_only_the_test_knows_is_kept_and_warned_of(tmp_path):
    dataset = read_official(write(tmp_path, GOOD))
    assert [warning.split(" occur")[0] for warning in dataset.warnings] == ["1 users", "1 items"]
    assert dataset.test.toarray()[3, 1] == 1
    assert dataset.user_ids is None and dataset.item_ids is None


@pytest.mark.parametrize(
    ("user", "item", "said"),
    [
        (lambda u: 7 * u + 3, lambda i: i, ["4 users have ids up to 24: 21 smaller ids"]),
        (lambda u: u + 1, lambda i: i + 1, ["4 users have ids up to 4: 1 smaller ids", "4 items have ids up to 4: 1"]),
        (lambda u: u, lambda i: i + 10**12, ["4 items have ids up to 1,000,000,000,003: 1,000,000,000,000 smaller"]),
    ],
    ids=["gaps", "from 1", "far away"],
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_that_do_not_occur_are_left_out_counted_and_remembered(tmp_path, user, item, said, dtype):
    plain = read_official(write(tmp_path / "plain", GOOD))
    renamed = {name: np.stack([user(pairs[:, 0]), item(pairs[:, 1])], axis=1) for name, pairs in GOOD.items()}
    folder = write(tmp_path / "renamed", {name: pairs.astype(dtype) for name, pairs in renamed.items()})
    dataset = read_official(folder)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(dataset, split).toarray(), getattr(plain, split).toarray())
        np.testing.assert_array_equal(getattr(dataset, split).indices, getattr(plain, split).indices)
    np.testing.assert_array_equal(dataset.original_user_ids, user(np.arange(4)))
    np.testing.assert_array_equal(dataset.original_item_ids, item(np.arange(4)))
    assert len(dataset.warnings) == len(said) + len(plain.warnings)
    for sentence, warning in zip(said, dataset.warnings):
        assert warning.startswith(sentence) and "have no interactions and are left out" in warning
    inner = dataset.tuning_holdout(0.4)
    assert inner.user_ids is dataset.user_ids
    assert inner.warnings[: len(said)] == dataset.warnings[: len(said)]
    with pytest.raises(DataError, match=r"have no interactions and are left out.*number users and items from 0"):
        read_official(folder, strict_ids=True)
    read_official(tmp_path / "plain", strict_ids=True)


@pytest.mark.parametrize("start", [0, 2**53, 2**62])
def test_files_of_several_types_hold_the_same_ids(tmp_path, start):
    """NumPy compares int64 with uint64 as float64, which does not tell 2^53 and 2^53 + 1 apart."""
    renamed = {name: pairs + np.array([0, start]) for name, pairs in GOOD.items()}
    renamed["valid"] = renamed["valid"].astype(np.uint64)
    dataset = read_official(write(tmp_path, renamed))
    np.testing.assert_array_equal(dataset.original_item_ids, start + np.arange(4))
    assert dataset.original_item_ids.dtype == np.int64


def test_pairs_that_occur_twice_are_named_by_their_own_ids(tmp_path):
    folder = write(tmp_path, {name: pairs + 100 for name, pairs in GOOD.items()})
    np.save(folder / "test_list.npy", np.array([[100, 102]]))
    with pytest.raises(DataError, match=r"1 pairs are in both valid and test, the first \[100, 102\]"):
        read_official(folder)


@pytest.mark.parametrize(
    ("split", "pairs", "message"),
    [
        ("train", np.array([[0.0, 1.0]]), "train_list.npy holds float64, not integers"),
        ("valid", np.array([0, 1]), r"valid_list.npy has shape \[2\], not \[n, 2\]"),
        ("valid", np.array([[0, 1, 2]]), r"shape \[1, 3\]"),
        ("test", np.zeros((0, 2), np.int64), "test_list.npy is empty"),
        ("test", np.array([[0, 3], [1, -2]]), r"1 rows with a negative id, the first \[1, -2\] in row 1"),
        (
            "train",
            np.array([[0, 1], [1, 2], [0, 1]]),
            r"train holds 1 pairs more than once, the first \[0, 1\]",
        ),
        ("test", np.array([[0, 2]]), r"1 pairs are in both valid and test, the first \[0, 2\]"),
        ("valid", np.array([[0, 1]]), r"1 pairs are in both train and valid"),
        ("train", np.array([{"a": 1}, None], dtype=object), "cannot be read as a plain NumPy array"),
        ("train", np.array([[True, False]]), "holds bool, not integers"),
        ("train", np.array([[0, 2**63]], np.uint64), "train_list.npy has ids up to 9223372036854775808, beyond int64"),
    ],
)
def test_malformed_splits_are_refused(tmp_path, split, pairs, message):
    folder = write(tmp_path, GOOD)
    np.save(folder / f"{split}_list.npy", pairs, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_official(folder)


def test_missing_and_torn_files_are_refused(tmp_path):
    folder = write(tmp_path, GOOD)
    path = folder / "train_list.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="train_list.npy cannot be read"):
        read_official(folder)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="train_list.npy cannot be read"):
        read_official(folder)
    path.unlink()
    with pytest.raises(DataError, match="train_list.npy does not exist"):
        read_official(folder)


def test_an_archive_is_no_array(tmp_path):
    folder = write(tmp_path, GOOD)
    with (folder / "train_list.npy").open("wb") as file:
        np.savez(file, pairs=GOOD["train"])
    with pytest.raises(DataError, match="not integers"):
        read_official(folder)


def test_folders_are_found_by_name_or_by_path(tmp_path):
    folder = write(tmp_path / "tiny_clean", GOOD)
    assert find_dataset_folder("tiny", "clean", tmp_path) == folder
    assert find_dataset_folder(str(folder), "clean", tmp_path / "elsewhere") == folder
    with pytest.raises(DataError, match=r"holds tiny_clean: set --data_dir"):
        find_dataset_folder("tiny", "noisy", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_dataset_folder("tiny", "clean", tmp_path / "elsewhere")


@pytest.mark.parametrize(("setting", "counts"), [("clean", (5949, 2810, 571_531)), ("noisy", (5949, 3494, 618_297))])
def test_ml_1m_has_the_published_counts(data_dir, setting, counts):
    dataset = read_official(find_dataset_folder("ml-1m", setting, data_dir))
    interactions = dataset.train.nnz + dataset.valid.nnz + dataset.test.nnz
    assert (dataset.num_users, dataset.num_items, interactions) == counts
    assert dataset.warnings == ()
