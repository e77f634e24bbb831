import json

import numpy as np
import polars as pl
import pytest

import diffrec_jax as dr
from diffrec_jax.config import ConfigError
from diffrec_jax.data import DataError
from tests.test_api import SPLIT

MODEL = dr.fit("ease", SPLIT, ks=(5,))


def read(path):
    """user -> [(item, score)], best first."""
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return {record["user"]: list(zip(record["items"], record["scores"])) for record in records}
    frame = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    assert frame.columns == ["user", "item", "rank", "score"]
    found = {}
    for user, item, rank, score in frame.rows():
        found.setdefault(user, []).append((item, score))
        assert rank == len(found[user])
    return found


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_holds_what_recommend_gives_whatever_the_chunks(tmp_path, ending):
    path = tmp_path / f"lists.{ending}"
    assert dr.write_recommendations(path, MODEL, chunk_size=7, k=4) == SPLIT.num_users
    expected = dr.recommend(MODEL, k=4)
    found = read(path)
    assert list(found) == expected.users.tolist()
    for user, items, scores in zip(expected.users, expected.items, expected.scores):
        assert [item for item, _ in found[user]] == items.tolist()
        np.testing.assert_allclose([score for _, score in found[user]], scores, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_new_users_and_short_lists_are_written_too(tmp_path):
    histories = {f"new {number}": [f"item {number}", "item 9"] for number in range(3)}
    allowed = {"allow": ["item 9", "item 20", "item 21"]}
    assert dr.write_recommendations(tmp_path / "a.csv", MODEL, histories=histories, k=10, chunk_size=2, **allowed) == 3
    found = read(tmp_path / "a.csv")
    assert list(found) == list(histories)
    assert all({item for item, _ in items} == {"item 20", "item 21"} for items in found.values())


def test_every_chunk_is_allowed_the_same(tmp_path):
    """An iterator could be gone through for the first one alone."""
    for name, chosen in (("allow", ["item 9", "item 20"]), ("block", ["item 1", "item 2"])):
        for count, given in enumerate((chosen, iter(chosen), (item for item in chosen))):
            dr.write_recommendations(tmp_path / f"{name}{count}.csv", MODEL, chunk_size=7, k=4, **{name: given})
        contents = {(tmp_path / f"{name}{count}.csv").read_text() for count in range(3)}
        assert len(contents) == 1


def test_names_of_any_type_are_written_where_a_file_can_hold_them(tmp_path):
    histories = {1: ["item 1"], "b": ["item 2"], ("c", 3): ["item 4"]}
    assert list(dr.recommend(MODEL, histories=histories, k=2).lists()) == list(histories)
    dr.write_recommendations(tmp_path / "a.jsonl", MODEL, histories=histories, k=2)
    assert [json.loads(line)["user"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, "b", ["c", 3]]
    numbered = {number: [f"item {number}"] for number in np.arange(3)}
    assert list(dr.recommend(MODEL, histories=numbered, k=2).lists()) == [0, 1, 2]
    for ending in ("jsonl", "csv", "parquet"):
        dr.write_recommendations(tmp_path / f"b.{ending}", MODEL, histories=numbered, k=2, chunk_size=1)
        assert list(read(tmp_path / f"b.{ending}")) == [0, 1, 2]
        (tmp_path / f"b.{ending}").unlink()
    for chunk_size in (1, 3):
        with pytest.raises(DataError, match="users' names have several"):
            dr.write_recommendations(tmp_path / "a.parquet", MODEL, histories=histories, k=2, chunk_size=chunk_size)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_nobody_and_no_chunk_are_refused(tmp_path):
    for nobody in ({"users": []}, {"histories": {}}):
        with pytest.raises(DataError, match="there is nobody to recommend to"):
            dr.write_recommendations(tmp_path / "a.parquet", MODEL, **nobody)
    for chunk_size in (1, 2, 3):
        with pytest.raises(DataError, match="is asked for twice"):
            users = ["user 1", "user 2", "user 1"]
            dr.write_recommendations(tmp_path / "a.csv", MODEL, users=users, chunk_size=chunk_size)
    with pytest.raises(ConfigError, match="chunk_size has to be at least 1, got 0"):
        dr.write_recommendations(tmp_path / "a.parquet", MODEL, chunk_size=0)
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="nobody"):
        dr.write_recommendations(tmp_path / "a.csv", MODEL, users=["user 1", "nobody"], chunk_size=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="ends with '.xlsx': choose one of .csv, .jsonl, .parquet"):
        dr.write_recommendations(tmp_path / "a.xlsx", MODEL)
    with pytest.raises(ConfigError, match="not both"):
        dr.write_recommendations(tmp_path / "a.csv", MODEL, users=[], histories={})
    with pytest.raises(OSError, match="No such file"):
        dr.write_recommendations(tmp_path / "nowhere" / "a.csv", MODEL)
