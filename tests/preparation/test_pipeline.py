import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from diffrec_jax.data import DataError, add_random_noise, read_official
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.engines import Polars, _check_java
from diffrec_jax.preparation.pipeline import prepare

CSV = {"format": "csv", "rating_col": "rating", "time_col": "time"}


def make_log(path, num_rows=3000, num_users=80, num_items=60, seed=0):
    """A log with repeats, ties of time and gapped ids; its rows (user, item, rating, time)."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{3 * user}", f"i{int(item)}", int(rating), int(time))
        for user, item, rating, time in zip(
            (num_users * rng.random(num_rows) ** 2).astype(int),
            num_items * rng.random(num_rows) ** 2,
            rng.integers(1, 6, size=num_rows),
            rng.integers(50, size=num_rows),
        )
    ]
    path.write_text("user,item,rating,time\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows))
    return rows


def by_hand(rows, *, min_rating, core, keep):
    """The users' items in order, by plain Python."""
    rows = [(*row, line) for line, row in enumerate(rows) if row[2] >= min_rating]
    rows.sort(key=lambda row: (row[3], row[4]), reverse=keep == "last")
    kept = {}
    for row in rows:
        kept.setdefault(row[:2], row)
    rows = list(kept.values())
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        left = [row for row in rows if users[row[0]] >= core and items[row[1]] >= core]
        if len(left) == len(rows):
            break
        rows = left
    rows.sort(key=lambda row: (row[3], row[4]))
    found = {}
    for user, item, *_ in rows:
        found.setdefault(user, []).append(item)
    return found


def sets_of(dataset):
    """By user, the items of each split in their order."""
    users, items = dataset.original_user_ids.tolist(), dataset.original_item_ids
    found = {user: {} for user in users}
    for split in SPLITS:
        matrix = getattr(dataset, split)
        for row, user in enumerate(users):
            found[user][split] = items[matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]].tolist()
    return found


def contents(folder):
    """Every file but meta.json."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "meta.json"}


@pytest.mark.parametrize("keep", ["first", "last"])
def test_a_dataset_is_what_plain_python_makes_of_the_log(tmp_path, keep):
    rows = make_log(tmp_path / "log.csv")
    config = PrepareConfig(**CSV, min_rating=3, user_core=9, item_core=9, repeats=keep)
    made = prepare(tmp_path / "log.csv", "shop", tmp_path / "data", config)
    expected = by_hand(rows, min_rating=3, core=9, keep=keep)
    found = sets_of(read_official(made.folder))
    assert 20 < len(expected) < 80  # the core has left some out
    assert {user: list(chain(*parts.values())) for user, parts in found.items()} == expected
    for user, items in expected.items():
        ends = [round(0.7 * len(items)), round(0.8 * len(items))]
        assert found[user] == dict(zip(SPLITS, (items[: ends[0]], items[ends[0] : ends[1]], items[ends[1] :])))


def test_times_and_ratings_lie_beside_the_lists(tmp_path):
    rows = make_log(tmp_path / "log.csv")
    made = prepare(tmp_path / "log.csv", "shop", tmp_path, PrepareConfig(**CSV))
    known = {(user, item, rating, time) for user, item, rating, time in rows}
    dataset = read_official(made.folder)
    for split in SPLITS:
        pairs, times, ratings = (np.load(made.folder / f"{split}_{kind}.npy") for kind in ("list", "times", "ratings"))
        assert times.dtype == np.int64 and ratings.dtype == np.float32
        ids = zip(dataset.original_user_ids[pairs[:, 0]].tolist(), dataset.original_item_ids[pairs[:, 1]].tolist())
        assert all((*pair, rating, time) in known for pair, rating, time in zip(ids, ratings.tolist(), times.tolist()))
        assert np.all(np.diff(times)[np.diff(pairs[:, 0]) == 0] >= 0)


CONFIGS = {
    "core": PrepareConfig(**CSV, min_rating=3, user_core=9, item_core=9),
    "noisy": PrepareConfig(**CSV, min_rating=4, user_core=5, repeats="last", setting="noisy"),
    "global": PrepareConfig(**CSV, split="global_time", ratios="8:1:1"),
    "random": PrepareConfig(**CSV, setting="noisy", noise_rate=0.3),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_duckdb_writes_the_same_bytes(tmp_path, case):
    pytest.importorskip("duckdb", reason="DuckDB is missing: pip install 'diffrec-jax[bigdata]'")
    make_log(tmp_path / "log.csv")
    made = [prepare(tmp_path / "log.csv", "x", tmp_path / e, CONFIGS[case], engine=e) for e in ("polars", "duckdb")]
    assert contents(made[0].folder) == contents(made[1].folder)


BY_SPARK = """
import json, sys
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.pipeline import prepare
prepare(sys.argv[1], "x", sys.argv[2], PrepareConfig(**json.loads(sys.argv[3])), engine="spark")
"""


def test_spark_writes_the_same_bytes(tmp_path):
    """In a process of its own: starting Java forks, which threads of JAX do not allow."""
    pytest.importorskip("pyspark", reason="PySpark is missing: pip install 'diffrec-jax[spark]'")
    try:
        _check_java()
    except DataError as error:
        pytest.skip(str(error))
    make_log(tmp_path / "log.csv", num_rows=600)
    config = dataclasses.replace(CONFIGS["noisy"], user_core=1)  # each round of the core takes Spark seconds
    ours = prepare(tmp_path / "log.csv", "x", tmp_path / "polars", config)
    command = [
        sys.executable,
        "-c",
        BY_SPARK,
        str(tmp_path / "log.csv"),
        str(tmp_path / "spark"),
        json.dumps(dataclasses.asdict(config)),
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    assert contents(ours.folder) == contents(tmp_path / "spark" / "x_noisy")


@pytest.mark.parametrize("case", ["core", "random"])
def test_ranges_of_users_make_no_difference(tmp_path, monkeypatch, case):
    make_log(tmp_path / "log.csv")
    whole = prepare(tmp_path / "log.csv", "whole", tmp_path, CONFIGS[case])
    monkeypatch.setattr(Polars, "rows_at_once", 100)
    monkeypatch.setattr("diffrec_jax.preparation.parts.BLOCK_ROWS", 64)
    parts = prepare(tmp_path / "log.csv", "parts", tmp_path, CONFIGS[case])
    assert contents(whole.folder) == contents(parts.folder)


def test_low_ratings_join_train_and_valid_and_leave_the_test_alone(tmp_path):
    make_log(tmp_path / "log.csv")
    settings = {**CSV, "min_rating": 4, "user_core": 5, "item_core": 5}
    clean, noisy = (
        sets_of(
            read_official(prepare(tmp_path / "log.csv", "x", tmp_path, PrepareConfig(**settings, setting=s)).folder)
        )
        for s in ("clean", "noisy")
    )
    assert clean.keys() == noisy.keys()
    assert all(clean[user]["test"] == noisy[user]["test"] for user in clean)
    for split in ("train", "valid"):
        assert all(set(clean[user][split]) <= set(noisy[user][split]) for user in clean)
    assert sum(len(noisy[user]["train"]) - len(clean[user]["train"]) for user in clean) > 300
    times = np.load(tmp_path / "x_noisy" / "valid_times.npy")
    users = np.load(tmp_path / "x_noisy" / "valid_list.npy")[:, 0]
    test_users, first = np.unique(np.load(tmp_path / "x_noisy" / "test_list.npy")[:, 0], return_index=True)
    begins = dict(zip(test_users.tolist(), np.load(tmp_path / "x_noisy" / "test_times.npy")[first].tolist()))
    assert all(time <= begins.get(user, time) for user, time in zip(users.tolist(), times.tolist()))


@pytest.mark.parametrize("columns", [CSV, {}], ids=["with times", "in the order of the log"])
def test_random_items_are_those_that_are_added_to_the_clean_data(tmp_path, columns):
    make_log(tmp_path / "log.csv", num_users=40, num_items=400)
    configs = PrepareConfig(**columns), PrepareConfig(**columns, setting="noisy", noise_rate=0.5, split_seed=3)
    clean, noisy = (read_official(prepare(tmp_path / "log.csv", "x", tmp_path, config).folder) for config in configs)
    assert noisy.fingerprint == add_random_noise(clean, 0.5, seed=3).fingerprint != clean.fingerprint


def test_every_step_is_told_and_recorded(tmp_path):
    make_log(tmp_path / "log.csv")
    told = []
    made = prepare(tmp_path / "log.csv", "shop", tmp_path, CONFIGS["core"], tell=told.append)
    meta = json.loads((made.folder / "meta.json").read_text())
    assert [step["step"] for step in meta["steps"]][:3] == ["read", "rating of at least 3", "first of repeated pairs"]
    assert meta["steps"][0]["rows"] == 3000 and "read: 3,000 rows" in told[0]
    written = sum(len(np.load(made.folder / f"{split}_list.npy")) for split in SPLITS)
    assert meta["steps"][-1] == {
        "step": "written", "rows": written, "users": meta["counts"]["users"], "items": meta["counts"]["items"],
    }  # fmt: skip
    assert set(meta["files"]) == set(contents(made.folder))
    assert meta["config"]["user_core"] == 9 and meta["inputs"].keys() == {"log.csv"}


def test_a_changed_file_is_not_read(tmp_path):
    make_log(tmp_path / "log.csv")
    made = prepare(tmp_path / "log.csv", "shop", tmp_path, PrepareConfig(**CSV))
    path = made.folder / "train_list.npy"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DataError, match=r"train_list\.npy is not what was prepared"):
        read_official(made.folder)
    path.unlink()
    with pytest.raises(DataError, match=r"train_list\.npy is missing"):
        read_official(made.folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rating": 9}, "nothing is left of the log after the threshold"),
        ({"user_core": 3000}, "nothing is left of the log after the core"),
        ({"ratios": "1:1:0.0001", "user_core": 1, "split": "leave_one_out"}, None),
        ({"ratios": "7:1"}, None),
        ({"ratios": "1000000:1:1"}, "the split leaves test empty"),
    ],
)
def test_nothing_is_left_behind_by_an_error(tmp_path, settings, message):
    make_log(tmp_path / "log.csv")
    config = PrepareConfig(**(CSV | settings))
    if message is None:
        prepare(tmp_path / "log.csv", "shop", tmp_path / "data", config)
    else:
        with pytest.raises(DataError, match=message):
            prepare(tmp_path / "log.csv", "shop", tmp_path / "data", config)
    left = [path.name for path in (tmp_path / "data").iterdir()]
    assert left == ([] if message else ["shop_clean"])


def test_a_dataset_that_is_there_is_not_overwritten(tmp_path):
    make_log(tmp_path / "log.csv")
    (tmp_path / "shop_clean").mkdir()
    with pytest.raises(DataError, match="shop_clean exists already: choose another --name or --out"):
        prepare(tmp_path / "log.csv", "shop", tmp_path, PrepareConfig(**CSV))


def test_logs_sorted_by_items_are_put_into_a_random_order(tmp_path):
    """The newest items of all would be those of the highest numbers; also where the log is split already."""
    rng, told = np.random.default_rng(1), []
    own = [np.flatnonzero(rng.random(60) < 0.4) for _ in range(80)]
    (tmp_path / "log.csv").write_text(
        "user,item\n" + "".join(f"{user},{item}\n" for user, items in enumerate(own) for item in items)
    )
    made = prepare(tmp_path / "log.csv", "x", tmp_path, PrepareConfig(), tell=told.append)
    dataset = read_official(made.folder)
    assert made.meta["shuffled"] and any("were put into a random order" in line for line in told)
    assert abs(dataset.test.indices.mean() - dataset.train.indices.mean()) < 3
    for name, chosen in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        lines = (f"{user} {' '.join(map(str, items[chosen]))}\n" for user, items in enumerate(own))
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    given = prepare(tmp_path, "y", tmp_path, PrepareConfig(format="lightgcn", split="given"))
    first = own[0][::2].tolist()
    row = read_official(given.folder).train[[0]].indices
    assert given.meta["shuffled"] and sorted(row.tolist()) == first != row.tolist()
    in_time = prepare(tmp_path / "log.csv", "z", tmp_path, PrepareConfig(time_col="item"))
    assert not in_time.meta["shuffled"]


def test_a_log_of_low_ratings_alone_says_so(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,rating\na,b,1\na,c,2\n")
    with pytest.raises(DataError, match="leaves train empty"):
        prepare(tmp_path / "log.csv", "x", tmp_path, PrepareConfig(rating_col="rating", setting="noisy", min_rating=4))


def test_a_log_without_ratings_or_times_says_so(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\na,b\na,c\na,d\n")
    with pytest.raises(DataError, match="min_rating needs ratings"):
        prepare(tmp_path / "log.csv", "x", tmp_path, PrepareConfig(min_rating=1))
    with pytest.raises(DataError, match="needs times"):
        prepare(tmp_path / "log.csv", "x", tmp_path, PrepareConfig(split="global_time"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratios": "7,1,2"}, "write 7:1:2 or 8:2"),
        ({"ratios": "7:0:2"}, "two or three numbers above 0"),
        ({"setting": "noisy"}, "give that, or a noise_rate"),
        ({"noise_rate": 0.1}, "choose setting noisy too"),
        ({"setting": "noisy", "min_rating": 4, "split": "random"}, "low ratings are added by time"),
        ({"format": "lightgcn"}, "is split already: choose split given"),
        ({"split": "given"}, "is not split: choose a split"),
        ({"user_core": 0}, "user_core must be at least 1"),
        ({"format": "recbole", "user_col": "uid"}, "format recbole has columns of its own: leave user_col out"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**settings)


KILLED = """
import os, signal, sys
from diffrec_jax.preparation import PrepareConfig, pipeline
at = sys.argv[3]
real = getattr(pipeline, at)
def die(*args, **kwargs):
    real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(pipeline, at, die)
pipeline.prepare(sys.argv[1], "shop", sys.argv[2], PrepareConfig(rating_col="rating", time_col="time"))
"""


@pytest.mark.once
@pytest.mark.parametrize("at", ["write_spool", "order_log", "write_ids", "write_meta"])
def test_a_killed_process_leaves_nothing_that_counts_and_the_next_cleans_up(tmp_path, at):
    make_log(tmp_path / "log.csv")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "log.csv"), str(tmp_path / "data"), at]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, check=False, cwd=root).returncode == -9
    assert not (tmp_path / "data" / "shop_clean").exists()
    assert len(list((tmp_path / "data").iterdir())) == 1
    prepare(tmp_path / "log.csv", "shop", tmp_path / "data", PrepareConfig(**CSV))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["shop_clean"]


LIMITED = """
import resource, sys
from diffrec_jax.data import DataError
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.pipeline import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    prepare(sys.argv[1], "shop", sys.argv[2], PrepareConfig(rating_col="rating", time_col="time"), engine=sys.argv[3])
except (DataError, OSError) as error:
    print(f"one line: {error}")
"""


@pytest.mark.once
@pytest.mark.parametrize(("engine", "size"), [("polars", 100), ("polars", 8_000), ("duckdb", 8_000)])
def test_files_that_cannot_be_written_end_in_an_error_and_leave_nothing(tmp_path, engine, size):
    """No file may grow beyond a size: as on a full disk, a write fails in the middle."""
    make_log(tmp_path / "log.csv")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "log.csv"), str(tmp_path / "data"), engine, str(size)]
    found = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert found.stdout.startswith("one line: ") and not found.stderr, found.stderr
    assert not list((tmp_path / "data").iterdir())


def test_old_java_is_named(tmp_path, monkeypatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"Spark needs Java 17 or newer, and .*java is version 11\.0\.2"):
        _check_java()
    shutil.rmtree(java.parent)
    with pytest.raises(DataError, match="there is no Java"):
        _check_java()


@pytest.mark.once
@pytest.mark.skipif("DIFFREC_DATA_DIR" not in os.environ, reason="DIFFREC_DATA_DIR is not set: real data")
def test_ml_1m_prepared_again_from_a_log_of_its_arrays(tmp_path):
    """The released split is about 7:2:1 by time: with those ratios each user's same row, cut at most an interaction
    away (its train is 0 or 1 longer than ours, by no one rule of rounding)."""
    source = Path(os.environ["DIFFREC_DATA_DIR"]).expanduser() / "ml-1m_clean"
    arrays = {split: np.load(source / f"{split}_list.npy") for split in SPLITS}
    with (tmp_path / "log.csv").open("w") as file:
        file.write("user,item,time\n")
        time = 0
        for split in SPLITS:
            for user, item in arrays[split].tolist():
                file.write(f"{user},{item},{time}\n")
                time += 1
    made = prepare(tmp_path / "log.csv", "again", tmp_path, PrepareConfig(time_col="time", ratios="7:2:1"))
    lengths = {split: np.bincount(arrays[split][:, 0], minlength=5949) for split in SPLITS}
    whole = sum(lengths.values())
    found = {split: np.load(made.folder / f"{split}_list.npy") for split in SPLITS}
    dataset = read_official(made.folder)
    assert dataset.num_users == np.count_nonzero(whole)
    own = {split: np.bincount(dataset.original_user_ids[found[split][:, 0]], minlength=5949) for split in SPLITS}
    assert set((lengths["train"] - own["train"]).tolist()) == {0, 1}
    assert np.abs(own["test"] - lengths["test"]).max() <= 1
    order = {user: [] for user in range(5949)}
    again = {user: [] for user in range(5949)}
    for split in SPLITS:
        for user, item in arrays[split].tolist():
            order[user].append(item)
        for user, item in found[split].tolist():
            again[int(dataset.original_user_ids[user])].append(int(dataset.original_item_ids[item]))
    assert again == order


def test_users_are_held_out(tmp_path):
    rows = make_log(tmp_path / "log.csv")
    config = PrepareConfig(**CSV, user_core=5, split="users", ratios="3:1:1", input_share=0.7)
    made = prepare(tmp_path / "log.csv", "shop", tmp_path / "data", config)
    dataset = read_official(made.folder)
    whole = by_hand(rows, min_rating=0, core=1, keep="first")
    whole = {user: items for user, items in whole.items() if len(items) >= 5}
    held_out = dataset.original_user_ids[dataset.held_out_users].tolist()
    assert 5 < len(held_out) < len(whole) - 5
    for user, parts in sets_of(dataset).items():
        evaluated = parts["valid"] + parts["test"]
        assert parts["train"] + evaluated == whole[user]
        assert bool(evaluated) == (user in held_out) and not (parts["valid"] and parts["test"])
        assert not evaluated or len(parts["train"]) == max(1, round(0.7 * len(whole[user])))
    (made.folder / "held_out_users.npy").write_bytes(b"other")
    with pytest.raises(DataError, match="held_out_users.npy is not what was prepared"):
        read_official(made.folder)
