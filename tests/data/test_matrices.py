import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffrec_jax.data import DataError, append_rows, csr_from_pairs
from diffrec_jax.data.matrices import (
    check_no_repeats,
    check_structure,
    cut_rows,
    item_counts,
    item_shares,
    pair_codes,
    select_entries,
)

PAIRS = np.array([[1, 4], [0, 3], [1, 0], [1, 2], [0, 1]])


def test_rows_keep_the_order_of_time():
    matrix = csr_from_pairs(PAIRS, 3, 5)
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


def test_items_are_counted():
    matrix = csr_from_pairs(np.array([[0, 1], [1, 1], [3, 0]]), 4, 3)
    np.testing.assert_array_equal(item_counts(matrix), [1, 2, 0])
    np.testing.assert_array_equal(item_shares(matrix), np.float32([0.25, 0.5, 0.0]))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
def test_rows_are_cut_where_they_are_told_and_lose_nothing(rows):
    lengths, firsts, seconds = np.array([(length, min(a, length), min(a + b, length)) for length, a, b in rows]).T
    pairs = np.array([(row, 8 - place) for row, length in enumerate(lengths) for place in range(length)], int)
    matrix = csr_from_pairs(pairs.reshape(-1, 2), len(lengths), 9)
    parts = cut_rows(matrix, [firsts, seconds])
    for row in range(len(lengths)):
        cut = [part[[row]].indices.tolist() for part in parts]
        assert [len(part) for part in cut] == np.diff([0, firsts[row], seconds[row], lengths[row]]).tolist()
        assert [item for part in cut for item in part] == matrix[[row]].indices.tolist()


def test_chosen_entries_keep_their_order():
    matrix = csr_from_pairs(PAIRS, 3, 5)
    users = np.repeat(np.arange(3), np.diff(matrix.indptr))
    chosen = select_entries(matrix, users, np.array([False, True, True, False, True]))
    np.testing.assert_array_equal(chosen.indptr, [0, 1, 3, 3])
    np.testing.assert_array_equal(chosen.indices, [1, 4, 2])


def test_codes_say_row_and_column():
    np.testing.assert_array_equal(pair_codes(csr_from_pairs(PAIRS, 3, 5)), [3, 1, 9, 5, 7])


def broken(**changes):
    matrix = csr_from_pairs(PAIRS, 3, 5)
    for name, values in changes.items():
        setattr(matrix, name, np.array(values))
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "rows is ndarray: give a scipy.sparse.csr_array"),
        (sparse.coo_array(np.eye(3)), "rows is coo_array: give a scipy.sparse.csr_array"),
        (broken(indptr=[0, 3, 2, 5]), "indptr has to rise from 0"),
        (broken(indptr=[1, 2, 5, 5]), "indptr has to rise from 0"),
        (broken(indptr=[0, 2, 5, 6]), "indptr ends with 6, with 5 indices and 5 values"),
        (broken(indices=[3, 1, 4, 0, 5]), "column indices from 0 to 5, of 5 columns"),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(matrix, message):
    with pytest.raises(DataError, match=message):
        check_structure(matrix, "rows")


def test_an_entry_that_is_stored_twice_is_named():
    check_no_repeats(csr_from_pairs(PAIRS, 3, 5), "rows")
    twice = csr_from_pairs(np.concatenate([PAIRS, [[1, 2], [0, 3]]]), 3, 5)
    with pytest.raises(DataError, match="rows stores 2 entries more than once, the first in row 0, column 3"):
        check_no_repeats(twice, "rows")
