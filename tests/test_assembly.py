import dataclasses

import numpy as np
import pytest
from scipy import sparse

from diffrec_jax import assembly
from diffrec_jax import config as configuration
from diffrec_jax.config import ConfigError, DataConfig, EvaluationConfig, GroupsConfig, RunConfig, with_settings
from diffrec_jax.data import parse_recency
from diffrec_jax.data.clustering import group_items
from diffrec_jax.devices import DeviceStrategy
from diffrec_jax.recommenders import DiffRecConfig, EaseConfig, LDiffRecConfig, MFConfig
from diffrec_jax.training.run_directory import RunDirectory
from diffrec_jax.training.train_config import TrainConfig

DATA = DataConfig("synthetic", "clean", None, {"num_users": 60, "num_items": 40, "num_interactions": 900, "seed": 0})
EVALUATION = EvaluationConfig(ks=(5,))


@pytest.mark.once
def test_item_embeddings_of_a_lightgcn_that_is_trained_for_them(tmp_path, monkeypatch):
    """The groups are those of k-means on its vectors, the same again, and nothing of it is left behind."""
    preset = {"epochs": 2, "eval_every": 1, "lr": 0.05, "embedding_size": 4, "num_layers": 1}
    monkeypatch.setattr(configuration, "load_preset", lambda model, data, wanted: ("tuned", preset))
    config = RunConfig(
        "l_diffrec", "tuned", DATA, EVALUATION, LDiffRecConfig(), TrainConfig(metric="recall@5"),
        groups=GroupsConfig(num_groups=3, item_embeddings="lightgcn"),
    )  # fmt: skip
    dataset = DATA.load()
    groups = assembly.find_item_groups(config, dataset, RunDirectory(tmp_path / "run"), DeviceStrategy())
    lightgcn = configuration.embedding_run_config(config, "lightgcn")
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
