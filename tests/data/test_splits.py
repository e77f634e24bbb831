import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.data import DataError, from_interactions, split_dataset
from diffrec_jax.data.splits import (
    TEST,
    TRAIN,
    VALID,
    Rows,
    as_given,
    at_random,
    at_times,
    by_time,
    hashed,
    leave_one_out,
    time_points,
)


def rows_of(lengths, times=None):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return Rows(users, np.arange(len(users), dtype=np.float64) if times is None else np.array(times, np.float64))


def parts_of(rows, split):
    """Of each user."""
    parts = split(rows)
    return [parts[rows.users == user].tolist() for user in np.unique(rows.users)]


def test_leave_one_out_takes_the_newest_and_keeps_one():
    assert parts_of(rows_of([1, 2, 3, 5]), leave_one_out) == [
        [TRAIN], [TRAIN, TEST], [TRAIN, VALID, TEST], [TRAIN] * 3 + [VALID, TEST],
    ]  # fmt: skip


def test_ratios_round_to_even_halves():
    assert parts_of(rows_of([1, 5, 10]), by_time((1, 1))) == [
        [TRAIN], [TRAIN] * 2 + [TEST] * 3, [TRAIN] * 5 + [TEST] * 5,
    ]  # fmt: skip


def test_points_in_time_part_all_users_alike():
    times = [1, 5, 9, 2, 6, 7]
    split = at_times(*time_points(np.array(times, np.float64), (3, 1, 2)))
    assert parts_of(rows_of([3, 3], times), split) == [[TRAIN, TRAIN, TEST], [TRAIN, VALID, TEST]]
    with pytest.raises(DataError, match="needs the interactions' times"):
        split(rows_of([1], [np.nan]))
    with pytest.raises(DataError, match="is not split"):
        as_given(rows_of([2]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 2**63 - 1))
def test_a_random_split_has_the_sizes_of_the_one_by_time_in_any_blocks(lengths, seed):
    rows = rows_of(lengths)
    random, timed = (parts_of(rows, split) for split in (at_random(seed=seed), by_time()))
    assert [np.bincount(p, minlength=3).tolist() for p in random] == [
        np.bincount(p, minlength=3).tolist() for p in timed
    ]
    last = rows.users == len(lengths) - 1
    alone = at_random(seed=seed)(Rows(rows.users[last], rows.times[last]))
    assert alone.tolist() == random[-1]


def test_draws_are_uniform_and_differ_by_seed():
    numbers = np.arange(100_000)
    draws = hashed(1, numbers) / 2.0**64
    assert abs(draws.mean() - 0.5) < 0.005 and abs(np.histogram(draws, 10, (0, 1))[0] / 10_000 - 1).max() < 0.05
    assert not np.any(hashed(1, numbers) == hashed(2, numbers))
    assert len(np.unique(hashed(1, numbers[:, None][:300], numbers[None, :300]))) == 90_000


def test_datasets_are_split_by_any_of_them():
    data = from_interactions(user=["a"] * 4 + ["b"], item=[3, 1, 2, 5, 1])
    split = split_dataset(data, leave_one_out)
    assert [getattr(split, part).nnz for part in ("train", "valid", "test")] == [3, 1, 1]
    assert split.original_item_ids[split.test.indices].tolist() == [5]
    with pytest.raises(DataError, match="is split already"):
        split_dataset(split, leave_one_out)
