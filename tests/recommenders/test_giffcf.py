import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from diffrec_jax import assembly
from diffrec_jax.config import ConfigError, DataConfig, EvaluationConfig, RunConfig
from diffrec_jax.data import SyntheticSpec, make_row_batch, make_synthetic
from diffrec_jax.data.similarity import BLOCK_BYTES
from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.models.graph_denoiser import GraphDenoiser, Mixer
from diffrec_jax.recommenders import GiffCFConfig, StepContext, make_giffcf
from diffrec_jax.recommenders.diffusing import DROPOUT_PLACE
from diffrec_jax.recommenders.giffcf import LATENT_DROPOUT_PLACE, item_statistics, make_graph
from diffrec_jax.rows import dropout_entries, fold_each, row_keys, to_dense
from diffrec_jax.training.train_config import TrainConfig
from tests.reference import comparators_numpy as reference

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=30, num_items=18, num_interactions=200, num_clusters=3)).train
X = TRAIN.toarray()
CONFIG = GiffCFConfig(embedding_size=5)
BATCH = make_row_batch(TRAIN, np.arange(6), batch_size=7)
KEYS = row_keys(jax.random.key(0), BATCH)
CLOCK = StepContext(step=np.int32(0), epoch=np.int32(0), key=jax.random.key(0))


def moved(params):
    """Parameters away from their start, where no mixer is linear."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.float32(leaf + 0.5 * rng.normal(size=leaf.shape)), params)


def make(**changes):
    recommender = make_giffcf(dataclasses.replace(CONFIG, **changes), TRAIN)
    params = recommender.init_params(jax.random.key(0))
    return recommender, recommender.warm_start(params | {"network": moved(params["network"])})


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_graph_is_that_of_its_publication(weight):
    config = dataclasses.replace(CONFIG, ideal_weight=weight, ideal_rank=4)
    expected = reference.giffcf_graph(X, weight, 4)
    np.testing.assert_allclose(make_graph(config, TRAIN)["similarity"], expected, atol=1e-5)
    assert np.linalg.norm(expected, 2) == pytest.approx(1)
    factors = make_graph(dataclasses.replace(config, rank=18), TRAIN)["factors"]
    np.testing.assert_allclose(factors @ factors.T, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"rank": 6}, {"item_statistics": True, "num_timesteps": 1, "smoothing": 0.7, "residual_decay": 1.0}]
)
def test_scores_agree_with_float64(changes):
    recommender, params = make(**changes)
    graph = params["graph"]
    similarity = (
        np.float64(graph["factors"]) @ np.float64(graph["factors"]).T if "factors" in graph else graph["similarity"]
    )
    config = dataclasses.replace(CONFIG, **changes)
    network = jax.tree.map(np.float64, params["network"]["params"])
    expected = reference.giffcf_scores(
        network, similarity, X[:6], config.num_timesteps, config.smoothing, config.residual_decay
    )
    scores = recommender.score_fn(params, BATCH, KEYS)
    np.testing.assert_allclose(scores[:6], expected, rtol=1e-3, atol=1e-4)


def test_a_mixer_begins_as_a_weighted_sum():
    values = [np.random.default_rng(place).normal(size=(4, 3)).astype(np.float32) for place in range(3)]
    found = Mixer((1.0, -0.5, 2.0)).init_with_output(jax.random.key(0), *values)[0]
    np.testing.assert_allclose(found, values[0] - 0.5 * values[1] + 2 * values[2], rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_row_is_half_its_squared_error_and_needs_no_other_row():
    recommender, params = make(dropout=0.0, num_timesteps=1)
    losses = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    similarity = np.float64(params["graph"]["similarity"])
    network = jax.tree.map(np.float64, params["network"]["params"])
    smooth = X[:6] @ similarity
    z_1 = X[:6] + 1.5 * (smooth - X[:6])
    x_hat = reference.giffcf_denoise(network, z_1, X[:6], smooth, 1)
    errors = np.square(x_hat - X[:6]) / 2
    np.testing.assert_allclose(losses[:6], errors.sum(1), rtol=1e-3)
    recommender, params = make(noise_scale=0.1)
    together = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    last = make_row_batch(TRAIN, np.array([4]))
    alone = recommender.loss_fn(params, (), last, row_keys(jax.random.key(0), last), CLOCK)[0]
    np.testing.assert_allclose(alone[0], together[4], rtol=1e-4)
    other = recommender.loss_fn(params, (), last, row_keys(jax.random.key(1), last), CLOCK)[0]
    assert abs(other[0] - alone[0]) > 1e-3


def test_errors_at_what_the_denoiser_is_told_may_be_left_out():
    """Of the same draw of the dropout as it is told of."""
    recommender, params = make(dropout=0.5, num_timesteps=1, observed_error_weight=0.0)
    losses = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    shown = dropout_entries(BATCH, fold_each(KEYS, DROPOUT_PLACE), 0.5)
    known = np.asarray(to_dense(shown, 18), np.float64)[:6]
    assert 0 < np.count_nonzero(known) < np.count_nonzero(X[:6])
    similarity = np.float64(params["graph"]["similarity"])
    network = jax.tree.map(np.float64, params["network"]["params"])
    z_1 = X[:6] + 1.5 * (X[:6] @ similarity - X[:6])
    x_hat = reference.giffcf_denoise(network, z_1, known, known @ similarity, 1)
    expected = (np.square(x_hat - X[:6]) / 2 * (known == 0)).sum(1)
    np.testing.assert_allclose(losses[:6], expected, rtol=1e-3)
    with pytest.raises(ValueError, match="leaves no item to learn without dropout"):
        GiffCFConfig(dropout=0.0, observed_error_weight=0.0)


def test_what_is_smoothed_may_be_the_row_that_the_denoiser_is_told():
    """Then what dropout took is nowhere to be seen; without dropout both rows are the same."""
    losses = {}
    for changes in ({"dropout": 0.5}, {"dropout": 0.5, "smooth_shown": True}, {"dropout": 0.0, "smooth_shown": True}):
        recommender, params = make(num_timesteps=1, **changes)
        losses[tuple(changes.values())] = np.asarray(recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0][:6])
    plain = make(num_timesteps=1, dropout=0.0)
    np.testing.assert_array_equal(losses[0.0, True], plain[0].loss_fn(plain[1], (), BATCH, KEYS, CLOCK)[0][:6])
    known = np.asarray(to_dense(dropout_entries(BATCH, fold_each(KEYS, DROPOUT_PLACE), 0.5), 18), np.float64)[:6]
    similarity = np.float64(params["graph"]["similarity"])
    network = jax.tree.map(np.float64, params["network"]["params"])
    z_1 = known + 1.5 * (known @ similarity - known)
    x_hat = reference.giffcf_denoise(network, z_1, known, known @ similarity, 1)
    np.testing.assert_allclose(losses[0.5, True], (np.square(x_hat - X[:6]) / 2).sum(1), rtol=1e-3)
    assert np.abs(losses[0.5, True] - losses[0.5,]).max() > 1e-3


def test_dropout_of_latent_values_is_of_each_row_and_of_the_training_alone():
    recommender, params = make(latent_dropout=0.4, dropout=0.0, num_timesteps=1)
    losses = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    factors = np.asarray(row_dropout(fold_each(KEYS, LATENT_DROPOUT_PLACE), jnp.ones((7, 5)), 0.4))[:6]
    assert 0 < np.count_nonzero(factors) < factors.size
    similarity = np.float64(params["graph"]["similarity"])
    network = jax.tree.map(np.float64, params["network"]["params"])
    smooth = X[:6] @ similarity
    z_1 = X[:6] + 1.5 * (smooth - X[:6])
    x_hat = reference.giffcf_denoise(network, z_1, X[:6], smooth, 1, factors)
    np.testing.assert_allclose(losses[:6], (np.square(x_hat - X[:6]) / 2).sum(1), rtol=1e-3)
    plain = make(dropout=0.0, num_timesteps=1)[0]
    np.testing.assert_array_equal(recommender.score_fn(params, BATCH, KEYS), plain.score_fn(params, BATCH, KEYS))


def test_users_weigh_by_their_items():
    found = [make(user_weight_power=power)[0].loss_fn(make()[1], (), BATCH, KEYS, CLOCK)[0] for power in (0.0, 0.5)]
    np.testing.assert_allclose(found[1][:6], found[0][:6] * np.sqrt(X[:6].sum(1)), rtol=1e-5)


def test_the_statistics_of_items_start_as_popularity_and_activity_of_their_users():
    users = X.sum(1, keepdims=True)
    expected = np.log1p([X.sum(0), (X * users).sum(0) / X.sum(0)])
    expected = (expected - expected.mean(1, keepdims=True)) / expected.std(1, keepdims=True)
    np.testing.assert_allclose(
        make(item_statistics=True)[1]["network"]["params"]["item_statistics"], expected, rtol=1e-4
    )
    same = sparse.csr_array(np.ones((3, 4), np.float32))
    np.testing.assert_array_equal(item_statistics(same), 0)


def test_a_new_network_knows_neither_the_time_nor_the_statistics_of_items():
    """Both are told to the mixers as 0, or with weight 0."""
    for changes in ({}, {"item_statistics": True}):
        recommender = make_giffcf(dataclasses.replace(CONFIG, **changes), TRAIN)
        params = recommender.warm_start(recommender.init_params(jax.random.key(0)))
        found = [
            GraphDenoiser(18, 5, **changes).apply(params["network"], X[:6], X[:6], X[:6], jnp.full(6, t))
            for t in (1, 3)
        ]
        np.testing.assert_array_equal(*found)
        vectors = np.float64(params["network"]["params"]["item_vectors"])
        latent = X[:6] @ vectors / 18 + X[:6] @ vectors / X[:6].sum(1, keepdims=True)
        np.testing.assert_allclose(found[0], latent @ vectors.T + X[:6], atol=1e-4)


def test_the_graph_is_held():
    recommender, params = make()
    gradients = jax.grad(lambda p: recommender.loss_fn(p, (), BATCH, KEYS, CLOCK)[0].sum())(params)
    np.testing.assert_array_equal(gradients["graph"]["similarity"], 0)
    optimizer = TrainConfig(lr=0.1, weight_decay=0.1).make_optimizer(held_params=recommender.held_params)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    np.testing.assert_array_equal(updates["graph"]["similarity"], 0)


def test_too_little_memory_for_the_graph_says_what_to_do(monkeypatch):
    spec = {"num_users": 60, "num_items": 40, "num_interactions": 800, "seed": 0}
    data = DataConfig("synthetic", "clean", None, spec)
    config = RunConfig("giffcf", "plain", data, EvaluationConfig(), CONFIG, TrainConfig())
    monkeypatch.setattr(assembly, "available_bytes", lambda: BLOCK_BYTES + 12 * 40 * 40 - 1)
    with pytest.raises(ConfigError, match=r"GiffCF needs about .* for 40 items .*\(rank 500, say\)"):
        assembly.check_fit_memory(config, data.load())
    ranked = dataclasses.replace(config, recommender=dataclasses.replace(CONFIG, rank=8))
    assembly.check_fit_memory(ranked, data.load())


def test_an_ideal_filter_beyond_the_rank_is_refused():
    with pytest.raises(ValueError, match="ideal_rank must be at most rank 100, got 200"):
        GiffCFConfig(rank=100, ideal_weight=0.1)
