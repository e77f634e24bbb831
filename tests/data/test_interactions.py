import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.data import DataError, Dataset, append_rows, csr_from_pairs
from diffrec_jax.data.interactions import coverage_warnings, split_rows


def test_rows_keep_the_order_of_time():
    pairs = np.array([[1, 4], [0, 3], [1, 0], [1, 2], [0, 1]])
    matrix = csr_from_pairs(pairs, 3, 5)
    np.testing.assert_array_equal(matrix.indptr, [0, 2, 5, 5])
    np.testing.assert_array_equal(matrix.indices, [3, 1, 4, 0, 2])
    assert matrix.data.dtype == np.float32


def test_appended_rows_come_after_the_first_in_their_order():
    first = csr_from_pairs(np.array([[0, 3], [0, 1], [2, 0]]), 3, 5)
    second = csr_from_pairs(np.array([[0, 0], [1, 4], [2, 4], [2, 2]]), 3, 5)
    both = append_rows(first, second)
    np.testing.assert_array_equal(both.indptr, [0, 3, 4, 7])
    np.testing.assert_array_equal(both.indices, [3, 1, 0, 4, 0, 4, 2])
    np.testing.assert_array_equal(both.toarray(), first.toarray() + second.toarray())


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
    train = csr_from_pairs(pairs, len(lengths), 10)
    old, new = split_rows(train, share)
    for user, length in enumerate(lengths):
        kept = old[[user]].indices.tolist()
        assert kept + new[[user]].indices.tolist() == list(range(length))
        assert len(kept) == max(min(length, 1), length - round(share * length))
    valid, test = (csr_from_pairs(np.array([[0, item]]), len(lengths), 10) for item in (7, 8))
    dataset = Dataset("d", train, valid, test)
    if not new.nnz:
        with pytest.raises(DataError, match="no training row is long enough"):
            dataset.inner_split(share)
        return
    inner = dataset.inner_split(share)
    assert inner.test is valid
    assert inner.num_items == 10 and inner.valid.nnz == new.nnz
