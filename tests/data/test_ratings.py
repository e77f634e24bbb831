import dataclasses
import json

import numpy as np
import pytest

from diffrec_jax.data import DataError, Dataset, from_interactions, hold_out_users, read_official, split_by_time
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.data.matrices import split_rows
from diffrec_jax.data.recency import RowWeighting, parse_recency
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.pipeline import prepare
from tests.rated_data import DATASET, DENSE

LISTS = {
    "train": np.array([[2, 1], [0, 3], [0, 0], [2, 0]]),  # not in the order of users
    "valid": np.array([[1, 1], [0, 1]]),
    "test": np.array([[0, 2], [1, 0]]),
}


def rating_of(pairs):
    return 1.0 + pairs[:, 0] + 10 * pairs[:, 1]


def write(folder):
    folder.mkdir()
    for split, pairs in LISTS.items():
        np.save(folder / f"{split}_list.npy", pairs)
        np.save(folder / f"{split}_ratings.npy", rating_of(pairs))
    return folder


def is_rated_right(dataset, split):
    """Every entry has the rating of its own user and item."""
    rated = dataset.rated(split)
    users = np.repeat(np.arange(dataset.num_users), np.diff(rated.indptr))
    pairs = np.stack([dataset.original_user_ids[users], dataset.original_item_ids[rated.indices]], axis=1)
    np.testing.assert_array_equal(rated.data, rating_of(pairs))
    assert rated.nnz == getattr(dataset, split).nnz and rated.dtype == np.float32


def test_ratings_beside_the_lists_go_to_their_pairs_and_only_when_asked_for(tmp_path):
    folder = write(tmp_path / "tiny")
    dataset, plain = read_official(folder, ratings=True), read_official(folder)
    for split in (*SPLITS, "train_and_valid"):
        is_rated_right(dataset, split)
        assert np.all(getattr(dataset, split).data == 1)
    assert plain.ratings is None and plain.fingerprint == dataclasses.replace(dataset, ratings=None).fingerprint
    with pytest.raises(DataError, match=r"tiny has no ratings: give them \(--ratings"):
        plain.rated("train")


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (None, "train_ratings.npy does not exist: ratings lie beside the lists"),
        (np.ones(3), r"train_ratings.npy holds float64 \[3\], not 4 numbers: one rating for each row of the list"),
        (np.ones((4, 1)), r"holds float64 \[4, 1\]"),
        (np.array(["a"] * 4), "holds <U1"),
        (np.array([1.0, np.nan, 2, 3]), "1 ratings of train are missing or not finite"),
        (np.array([1.0, np.inf, 2, 3]), "finite"),
        (np.array([None] * 4), "cannot be read as a plain NumPy array"),
    ],
    ids=["missing", "short", "shape", "text", "nan", "inf", "objects"],
)
def test_ratings_that_do_not_fit_are_refused(tmp_path, ratings, message):
    path = write(tmp_path / "tiny") / "train_ratings.npy"
    path.unlink() if ratings is None else np.save(path, ratings)
    with pytest.raises(DataError, match=message):
        read_official(tmp_path / "tiny", ratings=True)
    read_official(tmp_path / "tiny")


def make_log(path, columns="user,item,rating,time"):
    rng = np.random.default_rng(0)
    rows = {(int(user), int(item)) for user, item in zip(rng.integers(20, size=400), rng.integers(15, size=400))}
    pairs = rng.permutation(np.array(sorted(rows)))
    known = {
        "user": pairs[:, 0],
        "item": pairs[:, 1],
        "rating": rating_of(pairs),
        "time": rng.integers(9, size=len(pairs)),
    }
    lines = zip(*(known[name].tolist() for name in columns.split(",")))
    path.write_text("\n".join([columns, *(",".join(map(str, line)) for line in lines)]) + "\n")
    return path


def prepared(tmp_path, columns="user,item,rating,time", **settings):
    log = make_log(tmp_path / "log.csv", columns)
    named = {f"{name}_col": name for name in columns.split(",")[2:]}
    return prepare(log, "x", tmp_path, PrepareConfig(**named, **settings)).folder


def test_a_prepared_dataset_has_the_ratings_of_its_log(tmp_path):
    folder = prepared(tmp_path)
    dataset = read_official(folder, ratings=True)
    for split in SPLITS:
        is_rated_right(dataset, split)
    ratings = np.load(folder / "test_ratings.npy")
    np.save(folder / "test_ratings.npy", ratings[::-1])
    with pytest.raises(DataError, match="test_ratings.npy is not what was prepared"):
        read_official(folder, ratings=True)


def test_a_prepared_dataset_without_ratings_says_so(tmp_path):
    folder = prepared(tmp_path, "user,item,time")
    np.save(folder / "train_ratings.npy", np.ones(3))  # of nobody knows whom: meta.json does not have it
    assert "train_ratings.npy" not in json.loads((folder / "meta.json").read_text())["files"]
    with pytest.raises(DataError, match="was made of a log without ratings"):
        read_official(folder, ratings=True)


def test_random_items_have_no_rating(tmp_path):
    folder = prepared(tmp_path, setting="noisy", noise_rate=0.5)
    with pytest.raises(
        DataError, match="ratings of train are missing .*: if it is theirs, prepare the data without noise_rate"
    ):
        read_official(folder, ratings=True)


def test_ratings_go_with_their_entries_through_every_split():
    rng = np.random.default_rng(1)
    pairs = np.array(sorted({(int(u), int(i)) for u, i in zip(rng.integers(12, size=200), rng.integers(9, size=200))}))
    columns = {"user": pairs[:, 0], "item": pairs[:, 1], "rating": rating_of(pairs)}
    whole = from_interactions(**columns, time=rng.permutation(len(pairs)))
    split = split_by_time(whole, (2, 1, 1))
    held_out = hold_out_users(whole, (2, 1, 1), seed=3)
    for dataset in (whole, split, split.tuning_holdout(0.4), held_out, held_out.learnt):
        for part in (*SPLITS, "train_and_valid"):
            is_rated_right(dataset, part)
    assert held_out.learnt.num_users < whole.num_users
    with pytest.raises(DataError, match="ratings are <U1: give numbers"):
        from_interactions(**columns | {"rating": np.array(["x"] * len(pairs))})


def test_of_repeated_pairs_the_rating_is_that_of_the_one_that_stays():
    columns = {"user": [0, 0, 1], "item": [5, 5, 5], "rating": [2.0, 4.0, 3.0], "time": [1, 2, 3]}
    assert from_interactions(**columns).ratings["train"].tolist() == [2, 3]
    assert from_interactions(**columns, repeats="last").ratings["train"].tolist() == [4, 3]


def test_the_fingerprint_knows_the_ratings_and_what_is_relevant():
    other = {split: values.copy() for split, values in DATASET.ratings.items()}
    other["test"][0] = 9 - other["test"][0]
    made = [
        dataclasses.replace(DATASET, **changes).fingerprint
        for changes in ({}, {"ratings": None}, {"ratings": other}, {"min_relevant_rating": 4})
    ]
    made.append(dataclasses.replace(DATASET, min_relevant_rating=3).fingerprint)
    assert len(set(made)) == 5


def test_what_is_relevant_is_what_is_rated_so_high():
    assert DATASET.relevant("test") is DATASET.test
    strict = dataclasses.replace(DATASET, min_relevant_rating=4)
    for split in ("valid", "test"):
        np.testing.assert_array_equal(strict.relevant(split).toarray() > 0, DENSE[split] >= 4)
        assert getattr(strict, split).nnz == getattr(DATASET, split).nnz
    with pytest.raises(DataError, match="no rating of valid is 5.5 or more: lower min_relevant_rating"):
        dataclasses.replace(DATASET, min_relevant_rating=5.5)
    with pytest.raises(DataError, match="min_relevant_rating needs ratings"):
        dataclasses.replace(DATASET, ratings=None, min_relevant_rating=4)


def test_rows_hold_ratings_where_they_are_asked_for():
    ones, rated = RowWeighting(), RowWeighting(of_ratings=True)
    assert ones.rows(DATASET, "train", ones.infer) is DATASET.train
    np.testing.assert_array_equal(rated.rows(DATASET, "train", rated.infer).toarray(), np.nan_to_num(DENSE["train"]))
    both = rated.rows(DATASET, "train_and_valid", rated.infer).toarray()
    np.testing.assert_array_equal(both, np.nan_to_num(DENSE["train"]) + np.nan_to_num(DENSE["valid"]))
    recency = parse_recency("exp:3")
    np.testing.assert_array_equal(ones.rows(DATASET, "train", recency).data, recency.weigh(DATASET.train).data)


def test_ratings_are_checked_in_every_split():
    values = DATASET.ratings
    for split in SPLITS:
        with pytest.raises(DataError, match=f"rated: ratings of {split} have to be"):
            dataclasses.replace(DATASET, ratings=values | {split: values[split][1:]})
    old, new = split_rows(DATASET.rated("train"), 0.3)
    inner = DATASET.tuning_holdout(0.3)
    np.testing.assert_array_equal(inner.rated("train").toarray(), old.toarray())
    np.testing.assert_array_equal(inner.rated("valid").toarray(), new.toarray())
    assert isinstance(inner, Dataset) and inner.rated("test").nnz == DATASET.valid.nnz
