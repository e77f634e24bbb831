import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import make_row_batch, parse_recency
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import (
    CDAEConfig,
    MultiDAEConfig,
    MultiDAEPlusConfig,
    MultiVAEConfig,
    StepContext,
    make_autoencoder,
)
from diffrec_jax.rows import row_keys
from tests.reference import comparators_numpy as reference
from tests.reference import l_diffrec_numpy

pytestmark = pytest.mark.once

DATASET = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4))
TRAIN = DATASET.train
CONFIGS = {
    "cdae": CDAEConfig(dims=(6,)),
    "multidae": MultiDAEConfig(dims=(5, 9)),
    "multidae_pp": MultiDAEPlusConfig(dims=(5, 9), input_noise=0.1),
    "multivae": MultiVAEConfig(dims=(5, 9), kl_weight_steps=10),
}
SUM_ORDER = 1e-6
"""Of a loss: what two runs of one program may differ by on a GPU, which leaves the order of sums open."""
any_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def context(step):
    return StepContext(step=jnp.int32(step), epoch=jnp.int32(0), key=jax.random.key(0))


def losses(config, users, *, step=0, seed=7, matrix=TRAIN, batch_size=None):
    recommender = make_autoencoder(config, DATASET)
    params = recommender.init_params(jax.random.key(0))
    batch = make_row_batch(matrix, np.array(users), batch_size=batch_size)
    return recommender.loss_fn(params, (), batch, row_keys(jax.random.key(seed), batch), context(step))[0]


@any_config
def test_losses_do_not_depend_on_the_other_rows(config):
    together = losses(config, [3, 5, 9], step=5)
    np.testing.assert_allclose(losses(config, [9, 3, 5], step=5), together[jnp.array([2, 0, 1])], rtol=1e-4)
    np.testing.assert_allclose(losses(config, [5], step=5)[0], together[1], rtol=1e-4)
    assert np.all(np.isfinite(together)) and np.all(together > 0)


@any_config
def test_a_padding_row_and_an_empty_one_give_finite_losses_and_gradients(config):
    recommender = make_autoencoder(config, DATASET)
    params = recommender.init_params(jax.random.key(0))
    batch = make_row_batch(sparse.csr_array((2, TRAIN.shape[1])), np.array([1]), batch_size=3)
    keys = row_keys(jax.random.key(0), batch)
    gradient = jax.grad(lambda p: recommender.loss_fn(p, (), batch, keys, context(3))[0].sum())(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "gaussian"])
@pytest.mark.parametrize("recency", ["none", "linear:0:1"])
def test_without_corruption_the_loss_is_the_references_likelihood(likelihood, recency):
    config = MultiDAEConfig(dims=(5, 9), likelihood=likelihood, dropout=0.0)
    weighted = parse_recency(recency).weigh(TRAIN)
    recommender = make_autoencoder(config, DATASET)
    params = recommender.init_params(jax.random.key(0))
    rows = weighted.toarray()[:4].astype(np.float64)
    logits = reference.autoencoder(params["params"], rows / np.linalg.norm(rows, axis=1, keepdims=True))
    expected = {
        "multinomial": lambda: l_diffrec_numpy.multinomial_nll(logits, rows),
        "bernoulli": lambda: (np.log1p(np.exp(logits)) - rows * logits).sum(1),
        "gaussian": lambda: 0.5 * ((logits - rows) ** 2).sum(1),
    }[likelihood]()
    np.testing.assert_allclose(losses(config, range(4), matrix=weighted), expected, rtol=1e-5)


def test_the_divergence_is_annealed():
    """Between two steps the loss differs by the weight's change times the divergence alone: the draws are the rows'."""
    config = CONFIGS["multivae"]
    at = {step: np.asarray(losses(config, [1, 2], step=step)) for step in (0, 5, 10, 50)}
    np.testing.assert_allclose(at[10] - at[0], 2 * (at[5] - at[0]), rtol=1e-2)
    np.testing.assert_allclose(at[10], at[50], rtol=SUM_ORDER)
    assert np.all(np.abs(at[5] - at[10]) > 100 * SUM_ORDER * at[10])
    assert np.all(at[10] > at[0])
    constant = dataclasses.replace(config, kl_weight_steps=0)
    np.testing.assert_allclose(losses(constant, [1, 2]), at[10], rtol=1e-5)


def test_the_input_noise_is_drawn_anew_and_none_is_drawn_for_a_variance_of_0():
    quiet, noisy = (dataclasses.replace(CONFIGS["multidae_pp"], input_noise=v, dropout=0.0) for v in (0.0, 0.1))
    same = losses(quiet, [1, 2, 3], seed=1)
    np.testing.assert_allclose(losses(quiet, [1, 2, 3], seed=2), same, rtol=SUM_ORDER)
    first, second = (losses(noisy, [1, 2, 3], seed=seed) for seed in (1, 2))
    assert np.all(np.abs(first - second) > 100 * SUM_ORDER * first)


@any_config
def test_scores_are_those_of_the_normalised_row_and_user(config):
    recommender = make_autoencoder(config, DATASET)
    params = recommender.init_params(jax.random.key(3))
    users = np.array([8, 2])
    batch = make_row_batch(TRAIN, users, batch_size=3)
    rows = TRAIN.toarray()[users].astype(np.float64)
    if config.normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = params["params"]
    vectors = np.float64(values["user_vectors"])[users] if config.has_user_vectors else 0.0
    activation = (lambda x: 1 / (1 + np.exp(-x))) if config.activation == "sigmoid" else np.tanh
    expected = reference.autoencoder(values, rows, vectors, activation=activation, variational=config.variational)
    scores = recommender.score_fn(params, batch, row_keys(jax.random.key(0), batch))
    np.testing.assert_allclose(scores[:2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"dims": ()}, {"likelihood": "poisson"}, {"dropout": 1.0}, {"activation": "sin"}])
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MultiDAEConfig(**wrong)
