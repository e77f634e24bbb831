"""The library as a notebook uses it: strings as ids, no flags, no run directory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import sparse

import diffrec_jax as dr
from diffrec_jax.config import ConfigError
from diffrec_jax.data import DataError, SyntheticSpec, make_synthetic, parse_recency
from diffrec_jax.evaluation import ScoresError
from diffrec_jax.recommenders import DiffRecConfig, EaseConfig
from diffrec_jax.registry import MODELS
from diffrec_jax.serving.model_files import ModelFileError
from diffrec_jax.training.run_directory import RunDirectory, RunDirectoryError
from diffrec_jax.training.train_config import TrainConfig
from tests.experiments.scripts import run
from tests.test_registry import RATED, each, small_settings

QUICK = {"epochs": 2, "eval_every": 1, "batch_size": 20, "ks": (5,)}


def make_split(num_users=60, num_items=40):
    whole = make_synthetic(SyntheticSpec(num_users, num_items, 15 * num_users, num_clusters=4))
    rows = whole.train.tocoo()
    frame = pl.DataFrame(
        {
            "who": [f"user {number}" for number in rows.row],
            "what": [f"item {number}" for number in rows.col],
            "when": np.arange(len(rows.row)),
        }
    )
    return dr.split_by_time(dr.Dataset.from_interactions(frame, user="who", item="what", time="when"), (7, 1, 2))


SPLIT = make_split()


def small(model):
    """Keyword arguments that make a model quick."""
    family = MODELS[model]
    own = small_settings(model)
    own |= {"row_values": "ones"} if model in RATED else {}
    return own | (QUICK if family.is_trained else {"ks": (5,)})


@pytest.fixture(scope="module")
def t_diffrec():
    return dr.fit("t_diffrec", SPLIT, seed=1, infer_recency="exp:3", dims=(8,), **QUICK)


def test_the_whole_job_in_ten_lines(t_diffrec, tmp_path):
    found = dr.evaluate(t_diffrec, SPLIT, ks=(5, 10))
    assert "test recall@10: " in str(found) and str(found).count("[") == 8
    low, high = found.interval("recall@10")
    assert low < found.mean()["recall@10"] < high
    assert found.mean()["recall@10"] == pytest.approx(found.per_user("recall@10").mean())
    lists = dr.recommend(t_diffrec, users=["user 7", "user 3"], k=4)
    assert lists.users.tolist() == ["user 7", "user 3"] and lists.items.shape == (2, 4)
    assert np.all(np.diff(lists.scores, axis=1) <= 0)
    rows = SPLIT.train[[SPLIT.original_user_ids.tolist().index("user 7")]].indices
    assert not set(lists.lists()["user 7"]) & set(SPLIT.original_item_ids[rows].tolist())
    dr.save(t_diffrec, tmp_path / "model")
    loaded = dr.load(tmp_path / "model")
    again = dr.recommend(loaded, users=["user 7", "user 3"], k=4)
    np.testing.assert_array_equal(again.items, lists.items)
    np.testing.assert_array_equal(again.scores, lists.scores)
    assert dr.evaluate(loaded, SPLIT, ks=(5, 10)).mean() == found.mean()
    assert loaded.config == t_diffrec.config and loaded.dataset.fingerprint == SPLIT.fingerprint


@pytest.mark.once
@pytest.mark.parametrize("model", each(MODELS))
def test_every_model_is_fitted_recommends_and_is_saved(model, tmp_path):
    """A training user's list is the same by its id and by its items, for every model that reads them."""
    fitted = dr.fit(model, SPLIT, **small(model))
    users = SPLIT.original_user_ids[[0, 5, 9]].tolist()
    by_id = dr.recommend(fitted, users=users, k=6)
    assert by_id.items.shape == (3, 6) and np.all(np.isfinite(by_id.scores))
    histories = {
        user: SPLIT.original_item_ids[SPLIT.train[[place]].indices].tolist() for user, place in zip(users, (0, 5, 9))
    }
    by_items = dr.recommend(fitted, histories=histories, k=6)
    if MODELS[model].needs_known_users:
        assert np.all(np.isfinite(by_items.scores))
        assert all(not set(found) & set(histories[user]) for user, found in by_items.lists().items())
    else:
        np.testing.assert_allclose(by_items.scores, by_id.scores, rtol=1e-5, atol=1e-6)
        assert by_items.lists() == by_id.lists()
    dr.save(fitted, tmp_path / "model")
    again = dr.recommend(dr.load(tmp_path / "model"), users=users, k=6)
    np.testing.assert_array_equal(again.items, by_id.items)
    np.testing.assert_array_equal(again.scores, by_id.scores)


def test_lists_hold_what_they_are_allowed_to(t_diffrec):
    items, user = SPLIT.original_item_ids.tolist(), SPLIT.original_user_ids[4]
    seen = set(SPLIT.original_item_ids[SPLIT.train[[4]].indices].tolist())
    whole = dr.recommend(t_diffrec, users=[user], k=1000)
    assert set(whole.lists()[user]) == set(items) - seen and np.isnan(whole.scores).sum() == len(seen)
    repeats = dr.recommend(t_diffrec, users=[user], k=1000, exclude_seen=False)
    assert set(repeats.lists()[user]) == set(items)
    some = dr.recommend(t_diffrec, users=[user], k=1000, allow=items[:9], block=items[3:5], exclude_seen=False)
    assert set(some.lists()[user]) == set(items[:9]) - set(items[3:5])
    least = float(np.sort(whole.scores[0])[3])
    assert [score for _, _, score in dr.recommend(t_diffrec, users=[user], k=1000, min_score=least)] == [
        score for _, _, score in whole if score >= least
    ]


def test_batches_of_any_size_give_the_same_lists(t_diffrec):
    whole, parts = (dr.recommend(t_diffrec, k=5, batch_size=size) for size in (400, 7))
    assert len(whole.users) == SPLIT.num_users
    np.testing.assert_array_equal(whole.items, parts.items)
    np.testing.assert_allclose(whole.scores, parts.scores, rtol=1e-5)


def test_unknown_ids_and_empty_histories_are_named(t_diffrec):
    for arguments, message in (
        (
            {"users": ["user 7", "nobody"]},
            "1 of 2 users are not known, the first 'nobody': .* strings such as 'user 0'",
        ),
        ({"users": [7]}, "users are not known, the first 7"),
        ({"histories": {"new": ["item 1", "item X"]}}, "1 of 2 items are not known, the first 'item X'"),
        ({"histories": {"new": []}}, "the history of 'new' is empty"),
        ({"histories": {"new": ["item 1", "item 1"]}}, "names an item twice"),
        ({"histories": {}}, "there are no histories"),
        ({"users": ["user 7"], "histories": {"new": ["item 1"]}}, "give users or histories, not both"),
        ({"block": ["item X"]}, "items are not known"),
        ({"users": ["user 7", "user 7"]}, "a user is asked for twice"),
        ({"histories": {"new": ["item 1"]}, "weights": {"new": [2.0]}}, "the model's data have no weights"),
        ({"weights": {"new": [2.0]}}, "weights are of histories"),
    ):
        with pytest.raises(DataError, match=message):
            dr.recommend(t_diffrec, **arguments)
    with pytest.raises(ConfigError, match="k and batch_size must be at least 1"):
        dr.recommend(t_diffrec, k=0)
    assert len(dr.recommend(t_diffrec, users=[]).users) == 0


def test_a_dataset_that_is_known_by_its_folders_name_gets_its_preset():
    known, other = (dataclasses.replace(SPLIT, name=name) for name in ("ml-1m_clean", "mine"))
    presets = [dr.fit("t_ease", dataset).config for dataset in (known, other)]
    assert presets[0].recency.infer_recency == "exp:5" and presets[0].recommender != presets[1].recommender


def test_settings_are_checked():
    for arguments, message in (
        ({"model": "oracle"}, "model 'oracle' is unknown: choose one of diffrec"),
        ({"model": "ease", "lr": 1.0}, "EASE has no setting lr: leave it out"),
        ({"model": "diffrec", "noise_min": 0.5, "noise_max": 0.1}, "need 0 < noise_min <= noise_max"),
        ({"model": "diffrec", "train_recency": "quadratic"}, "'quadratic' is not understood"),
        ({"model": "diffrec", "seed": -1}, "seed must be between 0"),
        ({"model": "mf", "train_recency": "exp:5"}, "MF has no setting train_recency"),
    ):
        with pytest.raises(ConfigError, match=message):
            dr.fit(**{"dataset": SPLIT} | arguments)
    with pytest.raises(ConfigError, match="config of DiffRec has to be DiffRecConfig, TrainConfig, .*, not 'tuned'"):
        dr.fit("diffrec", SPLIT, config="tuned")


def test_a_configuration_object_stands_for_its_settings():
    config = DiffRecConfig(dims=(8,), num_timesteps=3)
    by_object = dr.fit(
        "diffrec", SPLIT, config=(config, TrainConfig(metric="recall@5", epochs=2, eval_every=1)), ks=(5,)
    )
    assert by_object.config.recommender == config and by_object.config.training.epochs == 2
    by_name = dr.fit("ease", SPLIT, config=EaseConfig(l2=7.0), user_weight_power=0.5)
    assert by_name.config.recommender == EaseConfig(l2=7.0, user_weight_power=0.5)


def test_without_a_valid_split_the_last_epoch_is_taken(tmp_path):
    """What is trained equals the last state of a run that may choose among its epochs."""
    empty = sparse.csr_array(SPLIT.valid.shape, dtype=np.float32)
    without_valid = dataclasses.replace(SPLIT, valid=empty, times=None)
    settings = {"dims": (8,), "epochs": 3, "eval_every": 1, "batch_size": 20, "patience": 1, "ks": (5,)}
    last = dr.fit("diffrec", without_valid, **settings, run_dir=tmp_path / "run")
    assert [record["event"] for record in RunDirectory(tmp_path / "run").records()] == ["epoch"] * 3
    chosen = dr.fit(
        "diffrec", dataclasses.replace(SPLIT, test=empty, times=None), **settings | {"patience": 0, "eval_every": 3}
    )
    jax.tree.map(np.testing.assert_array_equal, last.parameters, chosen.parameters)
    assert set(dr.evaluate(last, without_valid, ks=(5,)).splits) == {"test"}
    only_train = dataclasses.replace(without_valid, test=empty)
    assert len(dr.recommend(dr.fit("ease", only_train), users=["user 7"], k=3).items[0]) == 3
    with pytest.raises(DataError, match="has neither valid nor test interactions"):
        dr.evaluate(last, only_train)


def test_weights_are_learnt_and_what_is_stored_is_seen(tmp_path):
    rng = np.random.default_rng(0)
    ones = SPLIT.train
    values = rng.uniform(0.2, 3.0, ones.nnz).astype(np.float32)
    train = sparse.csr_array((values, ones.indices, ones.indptr), shape=ones.shape)
    weighted = dataclasses.replace(SPLIT, train=train, weighted=True)
    assert weighted.fingerprint != SPLIT.fingerprint and weighted.without_weights().fingerprint == SPLIT.fingerprint
    model = dr.fit("ease", weighted)
    dense = values_of(train)
    gram = dense.T.astype(np.float64) @ dense
    inverse = np.linalg.inv(gram + 500.0 * np.eye(len(gram)))
    expected = dense @ (np.eye(len(gram)) - inverse / np.diag(inverse))
    expected[dense > 0] = -np.inf
    found = dr.recommend(model, k=5)
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-3, atol=1e-5)
    dr.save(model, tmp_path / "model")
    np.testing.assert_array_equal(dr.recommend(dr.load(tmp_path / "model"), k=5).scores, found.scores)
    items, starts = weighted.original_item_ids[train.indices], train.indptr
    histories = {str(user): items[starts[user] : starts[user + 1]].tolist() for user in range(9)}
    weights = {str(user): values[starts[user] : starts[user + 1]].tolist() for user in range(9)}
    again = dr.recommend(model, histories=histories, weights=weights, k=5)
    np.testing.assert_allclose(again.scores, found.scores[:9], rtol=1e-5)
    assert np.abs(dr.recommend(model, histories=histories, k=5).scores - found.scores[:9]).max() > 0.01
    with pytest.raises(DataError, match="the weights of '0' have to be numbers above 0"):
        dr.recommend(model, histories=histories, weights=weights | {"0": [0] * len(weights["0"])})
    # A diffusion reconstructs the weighted row; recency weights multiply what is there.
    dr.fit("diffrec", weighted, dims=(8,), **QUICK)
    np.testing.assert_allclose(
        parse_recency("linear:0:2").weigh(train).data, parse_recency("linear:0:2").weights(ones) * values
    )
    with pytest.raises(ConfigError, match="has weights, and MF cannot use them"):
        dr.fit("mf", weighted)
    for wrong in (0.0, -1.0, np.nan):
        values[3] = wrong
        with pytest.raises(DataError, match="train holds 1 weights that are not finite and above 0"):
            dataclasses.replace(SPLIT, train=train, weighted=True)


def values_of(matrix):
    return matrix.toarray().astype(np.float64)


def test_histories_are_put_into_the_order_of_their_times(t_diffrec):
    items = ["item 1", "item 2", "item 3", "item 4"]
    asked = {"histories": {"new": items}, "k": 5}
    plain = dr.recommend(t_diffrec, **asked)
    same = dr.recommend(t_diffrec, **asked, times={"new": [1, 1, 2, 3]})
    np.testing.assert_array_equal(same.scores, plain.scores)
    backwards = dr.recommend(
        t_diffrec, **asked, times={"new": np.array(["2024-04", "2024-03", "2024-02", "2024-01"], "M8")}
    )
    reversed_items = dr.recommend(t_diffrec, histories={"new": items[::-1]}, k=5)
    np.testing.assert_array_equal(backwards.scores, reversed_items.scores)
    assert np.abs(backwards.scores - plain.scores).max() > 0
    for times in ({}, {"new": [1, 2]}):
        with pytest.raises(DataError, match="the times of 'new' have to be 4 numbers or dates"):
            dr.recommend(t_diffrec, **asked, times=times)
    with pytest.raises(DataError, match="the history of 'new': times are <U1: give numbers or dates"):
        dr.recommend(t_diffrec, **asked, times={"new": ["a", "b", "c", "d"]})
    pandas_like = pl.Series(items)  # by place, whatever else it is indexed by
    as_series = dr.recommend(t_diffrec, histories={"new": pandas_like}, k=5, times={"new": pl.Series([4, 3, 2, 1])})
    np.testing.assert_array_equal(as_series.scores, backwards.scores)
    with pytest.raises(DataError, match="times are of histories"):
        dr.recommend(t_diffrec, times={"new": [1]})


def test_a_model_is_evaluated_on_the_users_and_items_it_knows(t_diffrec):
    with pytest.raises(DataError, match="has other users than the model"):
        dr.evaluate(t_diffrec, make_split(50))


def test_scores_that_are_no_numbers_are_an_error(t_diffrec):
    broken = dataclasses.replace(t_diffrec, parameters=jax.tree.map(lambda a: a * jnp.nan, t_diffrec.parameters))
    with pytest.raises(ScoresError, match="NaN or infinite"):
        dr.recommend(broken, k=3)


def test_a_run_directory_keeps_the_work(tmp_path):
    settings = {"dims": (8,), **QUICK}
    first = dr.fit("diffrec", SPLIT, run_dir=tmp_path / "run", **settings)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    longer = dr.fit("diffrec", SPLIT, run_dir=tmp_path / "run", **settings | {"epochs": 4})
    at_once = dr.fit("diffrec", SPLIT, **settings | {"epochs": 4})
    jax.tree.map(np.testing.assert_array_equal, longer.parameters, at_once.parameters)
    assert first.config.training.epochs == 2
    with pytest.raises(RunDirectoryError, match="training.lr"):
        dr.fit("diffrec", SPLIT, run_dir=tmp_path / "run", **settings | {"lr": 0.5})
    with pytest.raises(ConfigError, match="EASE is fitted at once and has no run"):
        dr.fit("ease", SPLIT, run_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match="say where they are by find_data"):
        dr.load_run(tmp_path / "run")


def test_a_new_users_draws_do_not_depend_on_who_else_is_asked_for():
    noisy = {"noise_scale": 0.5, "num_inference_noise_steps": 3, "num_timesteps": 3}
    model = dr.fit("diffrec", SPLIT, dims=(8,), noise_min=0.1, noise_max=0.5, **noisy, **QUICK)
    histories = {name: ["item 1", f"item {place}"] for place, name in enumerate("abc", start=2)}
    whole = dr.recommend(model, histories=histories, k=5)
    alone = dr.recommend(model, histories={"c": histories["c"]}, k=5)
    np.testing.assert_allclose(alone.scores[0], whole.scores[2], rtol=1e-5)


def test_damaged_and_foreign_folders_are_refused(t_diffrec, tmp_path):
    with pytest.raises(ModelFileError, match="holds no whole model"):
        dr.load(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelFileError, match="is there already"):
        dr.save(t_diffrec, tmp_path / "taken")
    dr.save(t_diffrec, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["arrays.npz", "model.json"]
    archive = tmp_path / "model" / "arrays.npz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="is damaged: its SHA-256"):
        dr.load(tmp_path / "model")
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ModelFileError, match="is of format 99, this version reads 1"):
        dr.load(tmp_path / "model")


@pytest.mark.once
def test_scripts_and_library_give_the_same_bits(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        matrix = getattr(SPLIT, split).tocoo()
        np.save(folder / f"{split}_list.npy", np.stack([matrix.row, matrix.col], axis=1).astype(np.int64))
    flags = ["--dims=8", "--batch_size=20", "--epochs=2", "--eval_every=1", "--ks=5", "--nobaseline", "--seed=3"]
    run(tmp_path, "train", f"--dataset={folder}", *flags, f"--run_dir={tmp_path / 'run'}", "--max_devices=1")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    dataset = dr.read_official(folder)
    found = dr.evaluate(dr.fit("diffrec", dataset, seed=3, dims=(8,), **QUICK), dataset, ks=(5,))
    assert found.mean("valid") == results["valid"] and found.mean() == results["test"]


@pytest.mark.once
@pytest.mark.parametrize("model", ["diffrec", "l_diffrec", "lightgcn", "cdae", "ease"])
def test_nothing_is_learnt_of_held_out_users(model, tmp_path):
    nothing = sparse.csr_array(SPLIT.train.shape, dtype=np.float32)
    whole = dataclasses.replace(SPLIT, train=SPLIT.train_and_valid, valid=nothing, test=nothing, times=None)
    split = dr.hold_out_users(whole, (3, 1, 1))
    settings = small(model) | ({"epochs": 1, "mode": "relevant_users"} if MODELS[model].is_trained else {})
    fitted = dr.fit(model, split, **settings)
    alone = dr.fit(model, split.learnt, **settings | {"mode": "official"} if MODELS[model].is_trained else settings)
    for one, other in zip(jax.tree.leaves(fitted.parameters), jax.tree.leaves(alone.parameters), strict=True):
        np.testing.assert_array_equal(one, other)
    users = split.original_user_ids[split.held_out_users]
    rows = [split.train[user : user + 1].indices for user in split.held_out_users]
    histories = {user: split.original_item_ids[row].tolist() for user, row in zip(users, rows)}
    lists = dr.recommend(fitted, users=users, k=5)
    assert np.array_equal(lists.items, dr.recommend(alone, histories=histories, k=5).items)
    found = dr.evaluate(fitted, split, ks=(5,), mode="relevant_users")
    assert np.array_equal(found.splits["test"].user_ids, split.held_out_users)
    with pytest.raises(ValueError, match="use mode relevant_users"):
        dr.evaluate(fitted, split, ks=(5,))
    with pytest.raises(DataError, match="has learnt of users"):
        dr.evaluate(dr.fit("popularity", whole), split, ks=(5,), mode="relevant_users")
    dr.save(fitted, tmp_path / "model")
    again = dr.load(tmp_path / "model")
    assert again.dataset.fingerprint == split.fingerprint
    assert np.array_equal(dr.recommend(again, users=users, k=5).items, lists.items)


def test_recency_by_days_uses_the_times_of_data_models_and_histories(tmp_path):
    """The same items, long ago and lately, are other rows; a training user's own items and times are its row."""
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(60), 10), np.concatenate([rng.permutation(25)[:10] for _ in range(60)])
    days = rng.integers(0, 100, 600)
    times = np.datetime64("2024-01-01") + days
    data = dr.split_by_time(dr.Dataset.from_interactions(user=users, item=items, time=times))
    model = dr.fit("t_ease", data, train_recency="days:10", infer_recency="days:10", ks=(5,))
    dr.save(model, tmp_path / "model")
    loaded = dr.load(tmp_path / "model")
    by_id = dr.recommend(loaded, users=[7], k=5)
    own = np.sort(days[users == 7], kind="stable")
    start, end = data.train.indptr[7:9]
    history, when = data.train.indices[start:end].tolist(), data.times["train"][start:end]
    np.testing.assert_allclose(
        when, (np.datetime64("2024-01-01") + own[: end - start]).astype("datetime64[s]").astype(int)
    )
    by_items = dr.recommend(loaded, histories={"new": history}, times={"new": when}, k=5)
    np.testing.assert_array_equal(by_id.items, by_items.items)
    np.testing.assert_allclose(by_id.scores, by_items.scores, rtol=1e-5)
    long_ago = np.where(np.arange(len(history)) == len(history) - 1, when[-1] + 1e8, when)
    assert not np.allclose(
        dr.recommend(loaded, histories={"new": history}, times={"new": long_ago}, k=5).scores, by_id.scores
    )
    with pytest.raises(DataError, match="weighs items by days: give the times of the histories"):
        dr.recommend(loaded, histories={"new": history}, k=5)
    with pytest.raises(ConfigError, match="reads items without their times"):
        dr.export(loaded, tmp_path / "model.stablehlo", k=5)


def test_ratings_are_learnt_predicted_and_kept_with_the_model(tmp_path):
    """EASE on residuals: its scores are ratings; a run is selected by the least RMSE."""
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(50), 14), np.concatenate([rng.permutation(30)[:14] for _ in range(50)])
    ratings = np.clip(np.rint(3 + rng.normal(0, 1, 50)[users] + rng.normal(0, 0.5, 700)), 1, 5)
    data = dr.Dataset.from_interactions(user=users, item=items, rating=ratings, time=np.arange(700))
    split = dataclasses.replace(dr.split_by_time(data), min_relevant_rating=4)
    model = dr.fit("ease", split, row_values="residuals")
    found = dr.evaluate(model, split, ks=(5,))
    assert f"test rmse: {found.mean()['rmse']:.4f}" in str(found)
    assert found.mean()["rmse"] < dr.evaluate(dr.fit("global_mean", split), split, ks=(5,)).mean()["rmse"]
    dr.save(model, tmp_path / "model")
    loaded = dr.load(tmp_path / "model")
    assert loaded.dataset.fingerprint == split.fingerprint and loaded.dataset.min_relevant_rating == 4
    assert dr.evaluate(loaded, split, ks=(5,)).mean() == found.mean()
    lists = dr.recommend(loaded, users=[7], k=3)
    assert np.all(np.abs(lists.scores - ratings[users == 7].mean()) < 1)
    with pytest.raises(ConfigError, match="histories have no ratings"):
        dr.recommend(loaded, histories={"new": [1, 2]})
    with pytest.raises(ConfigError, match="reads items without their ratings"):
        dr.export(loaded, tmp_path / "model.stablehlo")
    with pytest.raises(ConfigError, match="has no ratings: give them"):
        dr.fit("ease", dataclasses.replace(split, ratings=None, min_relevant_rating=None), row_values="ratings")
    settings = QUICK | {"epochs": 4, "dims": (8,), "row_values": "residuals", "metric": "rmse", "lr": 0.05}
    trained = dr.fit("diffrec", split, run_dir=tmp_path / "run", **settings)
    records = [record for record in RunDirectory(tmp_path / "run").records() if record["event"] == "evaluation"]
    least = min(record["valid"]["rmse"] for record in records)
    assert len({record["valid"]["rmse"] for record in records}) > 1
    np.testing.assert_allclose(dr.evaluate(trained, split, ks=(5,)).mean("valid")["rmse"], least, rtol=1e-6)
