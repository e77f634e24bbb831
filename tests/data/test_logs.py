import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffrec_jax.data import DataError, from_interactions, split_by_time

LOG = {
    "user": ["u2", "u1", "u2", "u1", "u2", "u1"],
    "item": ["b", "c", "a", "b", "d", "a"],
    "time": [5, 3, 1, 2, 9, 3],
}
ROWS = {"u1": ["b", "c", "a"], "u2": ["a", "b", "d"]}


def rows_of(dataset, split="train"):
    """Each user's items in the stored order, by their own ids."""
    matrix = getattr(dataset, split)
    return {
        user: dataset.original_item_ids[matrix.indices[start:end]].tolist()
        for user, start, end in zip(dataset.original_user_ids.tolist(), matrix.indptr, matrix.indptr[1:])
    }


@pytest.mark.parametrize("lazy", [False, True])
def test_a_frame_becomes_rows_in_time_order_with_its_own_ids(lazy):
    frame = pl.DataFrame(LOG).rename({"user": "who"})
    dataset = from_interactions(frame.lazy() if lazy else frame, user="who", time="time")
    assert rows_of(dataset) == ROWS and dataset.warnings == ()
    assert dataset.valid.nnz == dataset.test.nnz == 0


def test_arrays_dates_and_numbers_do_as_well():
    dates = [datetime.datetime(2020, 1, day) for day in LOG["time"]]
    for time in (LOG["time"], np.array(LOG["time"], float), np.array(dates, "datetime64[s]")):
        assert rows_of(from_interactions(user=LOG["user"], item=LOG["item"], time=time)) == ROWS
    zone = datetime.timezone(datetime.timedelta(hours=5))
    for own in (dates, [date.replace(tzinfo=zone) for date in dates], [date.date() for date in dates]):
        assert rows_of(from_interactions(user=LOG["user"], item=LOG["item"], time=own)) == ROWS
    here = from_interactions(user=[1], item=[1], time=[datetime.datetime(1970, 1, 1, 5, tzinfo=zone)])
    assert here.times["train"].tolist() == [0.0]
    numbers = from_interactions(user=[10, 7, 10], item=[3, 3, 900], time=None)
    assert rows_of(numbers) == {7: [3], 10: [3, 900]}


def test_a_sparse_matrix_keeps_its_order():
    matrix = sparse.csr_array((np.ones(3), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    assert rows_of(from_interactions(matrix)) == {0: [2, 0], 1: [1]}
    log = sparse.coo_array((np.ones(4), ([0, 1, 0, 0], [2, 1, 0, 2])), shape=(2, 3))
    assert rows_of(from_interactions(log)) == {0: [2, 0], 1: [1]}
    assert from_interactions(log, repeats="sum").train.data.tolist() == [2, 1, 1]
    with pytest.raises(DataError, match="1 interactions repeat a pair"):
        from_interactions(log, repeats="error")


@pytest.mark.parametrize(
    "columns", [{"user": np.arange(3)}, {"weight": np.ones(3)}, {"time": "time"}, {"rating": np.ones(3)}], ids=str
)
def test_a_sparse_matrix_has_no_other_columns(columns):
    (kind,) = columns
    with pytest.raises(DataError, match=f"{kind} beside a sparse matrix.*weight=m.data"):
        from_interactions(sparse.csr_array(np.eye(3)), **columns)


def test_a_log_sorted_by_items_is_no_order_of_time():
    """By number, the items of the highest would be the newest: no model could predict them."""
    rng = np.random.default_rng(1)
    matrix = sparse.csr_array((rng.random((200, 50)) < 0.4).astype(float))
    dataset = from_interactions(matrix)
    assert any("were put into a random order" in warning for warning in dataset.warnings)
    assert np.array_equal(dataset.train.toarray(), matrix.toarray())
    split = split_by_time(dataset)
    assert abs(split.test.indices.mean() - split.train.indices.mean()) < 2
    log = matrix.tocoo()
    falling = from_interactions(user=log.row[::-1], item=log.col[::-1])
    repeated = from_interactions(user=np.append(log.row[0], log.row), item=np.append(log.col[0], log.col))
    for other in (falling, repeated):
        assert any("give times" in warning for warning in other.reading_warnings)
    shuffled = rng.permutation(matrix.nnz)
    assert not from_interactions(user=log.row[shuffled], item=log.col[shuffled]).reading_warnings
    with_times = from_interactions(user=matrix.tocoo().row, item=matrix.tocoo().col, time=matrix.tocoo().col)
    assert not with_times.reading_warnings and np.array_equal(with_times.train.indices, matrix.indices)


def test_repeats_are_counted_and_one_of_them_stays():
    log = {"user": ["u", "u", "u", "u"], "item": ["a", "b", "a", "c"], "time": [1, 2, 3, 4]}
    first, last = (from_interactions(pl.DataFrame(log), time="time", repeats=repeats) for repeats in ("first", "last"))
    assert rows_of(first) == {"u": ["a", "b", "c"]} and rows_of(last) == {"u": ["b", "a", "c"]}
    assert first.warnings == ("1 interactions repeat a pair of user and item: the first of each is kept",)
    assert split_by_time(first, (2, 1)).warnings[0] == first.warnings[0]
    with pytest.raises(DataError, match="1 interactions repeat a pair"):
        from_interactions(pl.DataFrame(log), time="time", repeats="error")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": pl.DataFrame(LOG), "user": "who"}, "there is no column 'who': the frame has user, item, time"),
        ({"data": 5}, "int is no data frame that Narwhals knows"),
        ({"data": pl.DataFrame({"user": ["a", None], "item": [1, 2]})}, "column 'user' has 1 missing values"),
        ({"user": [1.5], "item": [1]}, "users are float64"),
        ({"user": [1, 2], "item": [1]}, r"the columns differ in length \(2 of user, 1 of item\)"),
        ({"user": [], "item": []}, "holds no interaction"),
        ({"user": [1, 1], "item": [1, 2], "time": [1.0, np.nan]}, "1 times are missing, the first in row 1"),
        ({"user": [1], "item": [1], "time": ["noon"]}, "times are object: give numbers or dates"),
        ({"user": ["a", None], "item": [1, 2]}, "users: 1 are missing, the first in row 1"),
        ({"user": ["a"], "item": ["b" * 1001]}, "items: an id has 1,001 characters, bbb"),
        ({"user": [1], "item": [1], "time": "time"}, "time='time' names a column, but there is no data frame"),
        ({}, "user='user' names a column, but there is no data frame"),
        ({"data": pl.DataFrame(LOG), "user": LOG["user"]}, "user is no name of a column, and there is a data frame"),
        (
            {"user": [1], "item": [1], "repeats": "all"},
            "repeats 'all' is unknown: choose one of first, last, sum, error",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_log_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        from_interactions(**arguments)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from([(7, 1, 2), (8, 1, 1), (3, 1), (0.9, 0.1)])
)
def test_a_split_cuts_every_row_in_time(lengths, ratios):
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([np.arange(length) for length in lengths])
    order = np.random.default_rng(0).permutation(len(users))
    dataset = split_by_time(from_interactions(user=users[order], item=items[order], time=items[order]), ratios)
    parts = [rows_of(dataset, split) for split in ("train", "valid", "test")]
    share = ratios[0] / sum(ratios)
    for user, length in enumerate(lengths):
        assert parts[0][user] + parts[1][user] + parts[2][user] == list(range(length))
        assert len(parts[0][user]) == max(1, round(share * length))
        assert len(ratios) == 3 or not parts[1][user]


def test_only_whole_datasets_are_split_and_only_by_ratios():
    dataset = from_interactions(user=[1] * 10, item=np.arange(10))
    with pytest.raises(DataError, match="is split already"):
        split_by_time(split_by_time(dataset))
    for ratios in ((1,), (1, 0, 2), (1, 2, 3, 4), (1, float("nan"))):
        with pytest.raises(DataError, match="ratios have to be two or three numbers above 0"):
            split_by_time(dataset, ratios)


def test_ml_100k_keeps_its_ids_and_its_time(data_dir):
    path = data_dir / "raw" / "ml-100k" / "u.data"
    frame = pl.read_csv(path, separator="\t", has_header=False, new_columns=["user", "item", "rating", "time"])
    dataset = split_by_time(from_interactions(frame, time="time", name="ml-100k"))
    assert (dataset.num_users, dataset.num_items, dataset.train_and_valid.nnz + dataset.test.nnz) == (
        943,
        1682,
        100_000,
    )
    assert dataset.original_user_ids.tolist() == list(range(1, 944))
    mine = frame.filter(pl.col("user") == 196).sort("time", maintain_order=True)["item"].to_list()
    assert rows_of(dataset)[196] + rows_of(dataset, "valid")[196] + rows_of(dataset, "test")[196] == mine


def test_weights_follow_their_interactions_and_repeats_add_up():
    users, items, times = ["b", "a", "b", "b", "a"], [1, 2, 1, 3, 9], [5, 1, 2, 4, 0]
    weight = [0.5, 2.0, 1.5, 4.0, 3.0]
    first = from_interactions(user=users, item=items, time=times, weight=weight)
    assert first.weighted and first.train.toarray().tolist() == [[0, 2.0, 0, 3.0], [1.5, 0, 4.0, 0]]
    assert first.train.data.tolist() == [3.0, 2.0, 1.5, 4.0]
    last = from_interactions(user=users, item=items, time=times, weight=weight, repeats="last")
    assert last.train[[1]].data.tolist() == [4.0, 0.5]
    total = from_interactions(user=users, item=items, time=times, weight=weight, repeats="sum")
    assert total.train[[1]].data.tolist() == [2.0, 4.0] and "their weights are added up" in total.warnings[0]
    counts = from_interactions(user=users, item=items, time=times, repeats="sum")
    assert counts.weighted and counts.train.toarray().tolist() == [[0, 1, 0, 1], [2, 0, 1, 0]]
    halves = split_by_time(total, (1, 1))
    assert (halves.weighted, halves.train[[1]].data.tolist(), halves.test[[1]].data.tolist()) == (True, [2.0], [4.0])
    with pytest.raises(DataError, match="weights are object: give numbers"):
        from_interactions(user=users, item=items, weight=list("abcde"))
    with pytest.raises(DataError, match="weights that are not finite and above 0, the first 0.0"):
        from_interactions(user=users, item=items, weight=[0, 1, 1, 1, 1])
