import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffrec_jax.data import DataError, Dataset, csr_from_pairs, from_interactions, split_by_time
from diffrec_jax.data.interactions import coverage_warnings
from diffrec_jax.data.matrices import split_rows


def test_what_training_does_not_know_is_counted():
    train = csr_from_pairs(np.array([[0, 0], [1, 1]]), 4, 4)
    valid = csr_from_pairs(np.array([[2, 1]]), 4, 4)
    test = csr_from_pairs(np.array([[3, 3], [0, 2]]), 4, 4)
    users, items = coverage_warnings(train, valid, test)
    assert users.startswith("2 users")
    assert items.startswith("2 items")
    assert coverage_warnings(train, train, train) == ()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.floats(0.05, 0.9))
def test_an_inner_split_parts_training_rows_and_never_sees_the_test(lengths, share):
    pairs = np.array([(user, item) for user, length in enumerate(lengths) for item in range(length)], int).reshape(
        -1, 2
    )
    train = csr_from_pairs(pairs, len(lengths), 12)
    old, new = split_rows(train, share)
    for user, length in enumerate(lengths):
        kept = old[[user]].indices.tolist()
        assert kept + new[[user]].indices.tolist() == list(range(length))
        assert len(kept) == max(min(length, 1), length - round(share * length))
    valid, test = (csr_from_pairs(np.array([[0, item]]), len(lengths), 12) for item in (10, 11))
    dataset = Dataset("d", train, valid, test)
    if not new.nnz:
        with pytest.raises(DataError, match="no training row is long enough"):
            dataset.tuning_holdout(share)
        return
    inner = dataset.tuning_holdout(share)
    assert inner.test is valid
    assert inner.num_items == 12 and inner.valid.nnz == new.nnz


def split(pairs, shape=(3, 5)):
    return csr_from_pairs(np.array(pairs), *shape)


GOOD = {"train": split([[0, 3], [0, 1], [1, 2]]), "valid": split([[0, 0], [1, 4]]), "test": split([[2, 0]])}


def with_arrays(matrix, **arrays):
    """The matrix with some of its arrays replaced, unchecked as a careless caller leaves it."""
    made = matrix.copy()
    for name, array in arrays.items():
        setattr(made, name, np.asarray(array))
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": split([[0, 0]], (3, 6))}, r"differ in shape \(train \[3, 5\], valid \[3, 6\], test \[3, 5\]\)"),
        ({"valid": split([[0, 0]], (4, 5))}, "differ in shape"),
        ({"train": split([[0, 3], [1, 2], [0, 3]])}, r"train holds 1 pairs more than once, the first \[0, 3\]"),
        ({"train": split([[0, 3], [0, 3], [0, 3]])}, "train holds 1 pairs more than once"),
        ({"test": split([[1, 4]])}, r"1 pairs are in both valid and test, the first \[1, 4\]"),
        ({"test": split([[0, 3], [0, 1]])}, r"2 pairs are in both train and test, the first \[0, 1\]"),
        ({"train": GOOD["train"].tocoo()}, r"train is coo_array: give a scipy.sparse.csr_array"),
        ({"train": GOOD["train"].toarray()}, "train is ndarray"),
        ({"train": 5 * GOOD["train"]}, "train holds 3 values that are not 1, the first 5.0"),
        ({"train": 0 * GOOD["train"]}, "train holds 3 values that are not 1, the first 0.0"),
        ({"train": np.nan * GOOD["train"]}, "the first nan"),
        ({"train": with_arrays(GOOD["train"], indptr=[0, 3, 2, 3])}, "indptr has to rise from 0"),
        ({"train": with_arrays(GOOD["train"], indptr=[0, 1, 2])}, "indptr has to rise from 0"),
        ({"train": with_arrays(GOOD["train"], indptr=[0, 1, 2, 9])}, "indptr ends with 9, with 3 indices"),
        ({"train": with_arrays(GOOD["train"], indices=[0, 1, 5])}, "column indices from 0 to 5, of 5 columns"),
        ({"user_ids": np.array([4, 4, 5])}, "user_ids have to be 3 different ids"),
        ({"item_ids": np.arange(4)}, "item_ids have to be 5 different ids"),
        ({"user_ids": np.array([0.5, 1, 2])}, "user_ids are float64, 1-dimensional: give a vector of integers or of"),
        ({"user_ids": np.array([[0, 1, 2]])}, "user_ids are int64, 2-dimensional"),
        ({"user_ids": ["a", "b", None]}, "user_ids: 1 are missing, the first in row 2"),
        ({"user_ids": np.array(["a", "b", 3], object)}, "user_ids are object"),
        ({"user_ids": ["a", "b", "c" * 1001]}, "an id has 1,001 characters, ccc"),
        ({"user_ids": ["a", "b", "a"]}, "user_ids have to be 3 different ids"),
        ({"user_ids": np.array([0, 1, 2**63], np.uint64)}, "beyond int64: give them as strings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dataset_says_what_is_wrong_with_it(changes, message):
    Dataset("d", **GOOD)
    with pytest.raises(DataError, match=f"d: .*{message}"):
        Dataset("d", **GOOD | changes)


def test_other_kinds_of_csr_are_taken_with_their_order():
    arrays = np.ones(3, np.int8), GOOD["train"].indices, GOOD["train"].indptr
    dataset = Dataset("d", **GOOD | {"train": sparse.csr_matrix(arrays, shape=(3, 5))})
    assert isinstance(dataset.train, sparse.csr_array) and dataset.train.dtype == np.float32
    np.testing.assert_array_equal(dataset.train.indices, [3, 1, 2])


def test_errors_name_the_original_ids():
    with pytest.raises(DataError, match=r"the first \[20, 9\]"):
        Dataset("d", **GOOD | {"test": split([[1, 4]])}, user_ids=np.array([10, 20, 30]), item_ids=np.arange(5, 10))


def test_the_fingerprint_is_that_of_the_interactions_and_their_order():
    first = Dataset("a", **GOOD).fingerprint
    assert Dataset("b", **GOOD, reading_warnings=("x",)).fingerprint == first
    others = [
        {"train": split([[0, 1], [0, 3], [1, 2]])},
        {"test": split([[2, 1]])},
        {"user_ids": np.array([1, 2, 3])},
        {name: split(np.argwhere(matrix.toarray()), (3, 6)) for name, matrix in GOOD.items()},
    ]
    assert len({first, *(Dataset("a", **GOOD | other).fingerprint for other in others)}) == 5


def test_the_fingerprint_is_as_written_down():
    """It is stored with every run: another formula would make strangers of them."""
    digest = hashlib.sha256(np.int64([3, 5]).tobytes())
    for matrix in GOOD.values():
        digest.update(np.int64(matrix.indptr).tobytes() + np.int64(matrix.indices).tobytes())
    assert Dataset("a", **GOOD).fingerprint == digest.hexdigest()
    digest.update(b"item_ids" + np.int64([1, 2, 3, 4, 9]).tobytes())
    assert Dataset("a", **GOOD, item_ids=np.array([1, 2, 3, 4, 9])).fingerprint == digest.hexdigest()


def test_the_fingerprint_knows_whose_the_ids_are_and_not_their_type():
    square = {name: split(np.argwhere(matrix.toarray()), (5, 5)) for name, matrix in GOOD.items()}
    ids = np.array([1, 2, 3, 4, 9])
    fingerprints = [
        Dataset("a", **square, **of).fingerprint
        for of in ({}, {"user_ids": ids}, {"item_ids": ids}, {"user_ids": ids, "item_ids": ids})
    ]
    assert len(set(fingerprints)) == 4
    assert Dataset("a", **square, user_ids=ids.astype(np.uint16)).fingerprint == fingerprints[1]
    plain = Dataset("a", **square, user_ids=np.arange(5))
    assert plain.user_ids is None and plain.fingerprint == fingerprints[0]


def test_importing_the_data_and_evaluation_layers_is_quick():
    """SciPy's statistics and scikit-learn take a second or more: they are imported where they are used."""
    code = "import sys, diffrec_jax.data, diffrec_jax.evaluation; print({'sklearn', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "set()\n"


def test_times_go_with_the_interactions_everywhere():
    users, items = np.repeat([0, 1], [6, 4]), np.arange(10)
    data = from_interactions(user=users, item=items, time=10.0 * items)
    split = split_by_time(data, (2, 1, 1))
    tuned = split.tuning_holdout(0.4)
    for dataset in (data, split, tuned):
        for part in ("train", "valid", "test", "train_and_valid"):
            matrix = getattr(dataset, part)
            np.testing.assert_array_equal(dataset.times_of(part), 10.0 * matrix.indices)
    assert (
        split.valid.nnz and tuned.valid.nnz and split.fingerprint != dataclasses.replace(split, times=None).fingerprint
    )


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "have to be 3 numbers"),
        ([1.0, np.nan, 2.0], "finite"),
        ([2.0, 1.0, 5.0], "not in the order of their times"),
    ],
)
def test_times_are_checked(times, message):
    train = csr_from_pairs(np.array([[0, 0], [0, 1], [1, 0]]), 2, 2)
    empty = csr_from_pairs(np.zeros((0, 2), np.int64), 2, 2)
    Dataset("x", train, empty, empty, times={"train": np.array([2.0, 3.0, 1.0])})
    with pytest.raises(DataError, match=message):
        Dataset("x", train, empty, empty, times={"train": np.array(times)})
