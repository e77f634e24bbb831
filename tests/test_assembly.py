import dataclasses

import numpy as np
import pytest
from scipy import sparse

from diffrec_jax import assembly
from diffrec_jax.config import (
    ConfigError,
    DataConfig,
    EvaluationConfig,
    GroupsConfig,
    RecencyConfig,
    RunConfig,
    baseline_config,
    baselines_of,
    embedding_run_config,
    with_settings,
)
from diffrec_jax.data import DataError, parse_recency
from diffrec_jax.data.clustering import group_items
from diffrec_jax.devices import DeviceStrategy
from diffrec_jax.recommenders import DiffRecConfig, EaseConfig, LDiffRecConfig, LinearFit, MFConfig
from diffrec_jax.training.run_directory import RunDirectory
from diffrec_jax.training.train_config import TrainConfig
from tests import rated_data
from tests.reference import comparators_numpy, ratings_numpy

DATA = DataConfig("synthetic", "clean", None, {"num_users": 60, "num_items": 40, "num_interactions": 900, "seed": 0})
EVALUATION = EvaluationConfig(ks=(5,))


@pytest.mark.once
def test_item_embeddings_of_a_lightgcn_that_is_trained_for_them(tmp_path, monkeypatch):
    """The groups are those of k-means on its vectors, the same again, and nothing of it is left behind."""
    preset = {"epochs": 2, "eval_every": 1, "lr": 0.05, "embedding_size": 4, "num_layers": 1}
    monkeypatch.setattr("diffrec_jax.config.presets.load_preset", lambda model, data, wanted: ("tuned", preset))
    config = RunConfig(
        "l_diffrec", "tuned", DATA, EVALUATION, LDiffRecConfig(), TrainConfig(metric="recall@5"),
        groups=GroupsConfig(num_groups=3, item_embeddings="lightgcn"),
    )  # fmt: skip
    dataset = DATA.load()
    groups = assembly.find_item_groups(config, dataset, RunDirectory(tmp_path / "run"), DeviceStrategy())
    lightgcn = embedding_run_config(config, "lightgcn")
    vectors = assembly.trained_item_embeddings(lightgcn, dataset, DeviceStrategy(), None)
    assert vectors.shape == (40, 4) and vectors.std() > 0.01
    np.testing.assert_array_equal(groups, group_items("kmeans", 3, train=dataset.train, embeddings=vectors, seed=0))
    assert not list(tmp_path.iterdir())


def test_a_trained_model_is_scored_from_other_weights():
    diffrec = RunConfig("diffrec", "tuned", DATA, EVALUATION, DiffRecConfig(), TrainConfig(metric="recall@5"))
    assert with_settings(diffrec, {}) == diffrec
    assert with_settings(diffrec, {"infer_recency": "exp:9"}).recency.make().infer == parse_recency("exp:9")
    with pytest.raises(ConfigError, match="'quadratic' is not understood"):
        with_settings(diffrec, {"infer_recency": "quadratic"})
    with pytest.raises(ConfigError, match="MF has no setting infer_recency"):
        with_settings(dataclasses.replace(diffrec, model="mf", recommender=MFConfig()), {"infer_recency": "exp:9"})


def test_rows_of_ratings_need_ratings_and_no_weights():
    config = RunConfig("ease", "none", DATA, EVALUATION, EaseConfig(), recency=RecencyConfig(row_values="ratings"))
    rated = rated_data.DATASET
    assembly.check_data(config, rated)
    with pytest.raises(ConfigError, match=r"row_values is ratings, and rated has no ratings: give them \(--ratings"):
        assembly.check_data(config, dataclasses.replace(rated, ratings=None))
    with pytest.raises(ConfigError, match="has weights, which ratings would replace"):
        assembly.check_data(config, dataclasses.replace(rated, weighted=True))
    with pytest.raises(DataError, match="synthetic data have no ratings"):
        dataclasses.replace(DATA, ratings=True).load()


def test_ratings_are_predicted_beside_simple_baselines():
    """Each clipped to the range of the ratings that are learnt of; popularity counts interactions."""
    rated = rated_data.DATASET
    config = RunConfig("ease", "none", DATA, EVALUATION, EaseConfig(), recency=RecencyConfig(row_values="residuals"))
    found = {}
    for name in baselines_of(config):
        own = baseline_config(config, name)
        found[name] = assembly.evaluate_fitted(own, own.make_fitted(rated), rated, DeviceStrategy())["test"].mean()
    expected, _ = ratings_numpy.residuals(rated_data.DENSE["train"], 5, 2)
    rmse, mae = ratings_numpy.errors(expected, rated_data.DENSE["test"], 1, 5)
    np.testing.assert_allclose((found["biases"]["rmse"], found["biases"]["mae"]), (rmse, mae), rtol=1e-4)
    mean = np.full(expected.shape, np.nanmean(rated_data.DENSE["train"]))
    rmse, _ = ratings_numpy.errors(mean, rated_data.DENSE["test"], 1, 5)
    np.testing.assert_allclose(found["global_mean"]["rmse"], rmse, rtol=1e-5)
    plain = dataclasses.replace(config, recency=RecencyConfig())
    assert baselines_of(plain) == ("popularity",) and "rmse" not in found["popularity"]
    own = baseline_config(plain, "popularity")
    counted = assembly.evaluate_fitted(own, own.make_fitted(rated), rated, DeviceStrategy())["test"].mean()
    assert counted == found["popularity"]
    recent = dataclasses.replace(config, recency=RecencyConfig(infer_recency="exp:5"))
    assert baseline_config(recent, "popularity").recency == RecencyConfig()
    assert baselines_of(dataclasses.replace(config, model="biases")) == ("popularity", "global_mean")


def test_a_linear_part_is_fitted_to_what_the_rows_hold():
    config = RunConfig(
        "diffrec", "none", DATA, EVALUATION, DiffRecConfig(linear_rank=4), TrainConfig(metric="rmse"),
        recency=RecencyConfig(row_values="residuals"),
    )  # fmt: skip
    fit = LinearFit(l2=10.0, dropout=0.0)
    groups = np.zeros(rated_data.NUM_ITEMS, np.int32)
    factors = assembly.make_fit_linear(config, rated_data.DATASET)(groups, (rated_data.NUM_ITEMS,), fit)
    _, residuals = ratings_numpy.residuals(rated_data.DENSE["train"], 5, 2)
    expected = comparators_numpy.ease(residuals, 10.0)
    np.testing.assert_allclose(factors.encoders[0] @ factors.decoder.T, expected, atol=2e-3)


def test_a_model_that_does_not_fit_into_memory_says_so_and_takes_none(monkeypatch):
    config = RunConfig("ease", "tuned", DATA, EVALUATION, EaseConfig())
    dataset = DATA.load()
    recommender = config.make_fitted(dataset)
    refused = recommender._replace(fit=lambda train: pytest.fail("was fitted"))
    monkeypatch.setattr(assembly, "available_bytes", lambda: recommender.fit_bytes(dataset.train) - 1)
    with pytest.raises(ConfigError, match=r"EASE needs about \d+\.\d GiB for 40 items and 60 users, and .* are free"):
        assembly.fit_scoring_state(config, refused, dataset)
    monkeypatch.setattr(assembly, "available_bytes", lambda: None)  # unknown: it is tried
    assert assembly.fit_scoring_state(config, recommender, dataset).shape == (40, 40)


def test_an_evaluation_of_nobody_is_refused_before_anything_is_made():
    dataset = DATA.load()
    nobody = dataclasses.replace(dataset, test=dataset.test[:0].__class__(dataset.test.shape, dtype=np.float32))
    sample = dataclasses.replace(EVALUATION, eval_users=5)
    others = np.setdiff1d(np.arange(60), sample.user_ids(dataset))
    keeps = sparse.diags_array(np.isin(np.arange(60), others).astype(np.float32)).tocsr()
    elsewhere = dataclasses.replace(dataset, test=sparse.csr_array(keeps @ dataset.test))
    for mode, refused in (("official", False), ("relevant_users", True)):
        with pytest.raises(ConfigError, match="has no test interactions to evaluate"):
            config = RunConfig("ease", "tuned", DATA, dataclasses.replace(EVALUATION, mode=mode), EaseConfig())
            assembly.check_evaluation(config, nobody)
        config = RunConfig("ease", "tuned", DATA, dataclasses.replace(sample, mode=mode), EaseConfig())
        if not refused:
            assembly.check_evaluation(config, elsewhere)
            continue
        with pytest.raises(ConfigError, match="none of the 5 evaluated users has relevant items in test"):
            assembly.check_evaluation(config, elsewhere)
    with pytest.raises(ConfigError, match="eval_users is 61, but synthetic has 60 users"):
        assembly.check_evaluation(
            RunConfig("ease", "tuned", DATA, EvaluationConfig(eval_users=61), EaseConfig()), dataset
        )


def test_a_trained_model_that_does_not_fit_into_memory_says_so(monkeypatch, tmp_path):
    """Before its run directory is made."""
    config = RunConfig("diffrec", "tuned", DATA, EVALUATION, DiffRecConfig(dims=(50,)), TrainConfig(metric="recall@5"))
    dataset, directory = DATA.load(), RunDirectory(tmp_path / "run")
    monkeypatch.setattr(assembly, "available_bytes", lambda: 4 * 4 * 2 * 40 * 50 - 1)  # four of two large tables
    with pytest.raises(ConfigError, match=r"DiffRec needs about 0\.0 GiB .*: take smaller dims"):
        assembly.prepare_trainer(config, dataset, directory, DeviceStrategy(), None, None)
    assert not directory.path.exists()
