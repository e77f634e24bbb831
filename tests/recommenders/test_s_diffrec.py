import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import sparse

from diffrec_jax.config import with_later_settings
from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models.conditional import ConditionalDenoiser
from diffrec_jax.recommenders import (
    SASRecConfig,
    SDiffRecConfig,
    StepContext,
    make_s_diffrec,
    make_sasrec,
    make_window_ridge,
)
from diffrec_jax.rows import row_keys
from diffrec_jax.training.train_config import TrainConfig

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)).train
CLOCK = StepContext(step=jnp.int32(0), epoch=jnp.int32(0), key=jax.random.key(0))
SIZES = {"embedding_size": 8, "num_heads": 2, "max_length": 6, "future_horizon": 3.0}
CONFIG = SDiffRecConfig(**SIZES, num_timesteps=4, dims=(16,), linear_l2=2.0, linear_scales=(1, 4))
BATCH = make_row_batch(TRAIN, np.arange(5))
KEYS = row_keys(jax.random.key(0), BATCH)


def make(**changes):
    """A recommender, and parameters away from where they start."""
    recommender = make_s_diffrec(dataclasses.replace(CONFIG, **changes), TRAIN)
    params = recommender.init_params(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    moved = [leaf + 0.3 * jax.random.normal(jax.random.key(n), leaf.shape) for n, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, moved)
    return recommender, recommender.warm_start(params) if recommender.warm_start else params


def test_without_diffusion_and_linear_part_it_is_a_sasrec():
    recommender, params = make(num_timesteps=0, linear_weight=0.0)
    sasrec = make_sasrec(SASRecConfig(**SIZES), TRAIN)
    assert set(params) == {"sequence"}
    found = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0], recommender.score_fn(params, BATCH, KEYS)
    own = params["sequence"]
    expected = sasrec.loss_fn(own, (), BATCH, KEYS, CLOCK)[0], sasrec.score_fn(own, BATCH, KEYS)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("form", [{}, {"linear_factors": 5}, {"linear_neighbors": 7}])
def test_the_linear_part_multiplies_what_the_network_expects(form):
    recommender, params = make(num_timesteps=0, **form)
    assert jax.tree.map(np.shape, recommender.init_params(jax.random.key(0))) == jax.tree.map(np.shape, params)
    linear = make_window_ridge(dataclasses.replace(CONFIG, **form).linear_part(TRAIN))
    expected = np.maximum(linear.score_fn(linear.fit(TRAIN), BATCH, KEYS), 0)
    alone, _ = make(num_timesteps=0, linear_weight=0.0)
    product = alone.score_fn({"sequence": params["sequence"]}, BATCH, KEYS) + 0.5 * np.log(expected + 5e-4)
    np.testing.assert_allclose(recommender.score_fn(params, BATCH, KEYS), product, rtol=1e-4, atol=1e-4)


def test_the_chain_agrees_with_plain_steps_in_float64():
    recommender, params = make()
    schedule, network = CONFIG.make_schedule(), ConditionalDenoiser((16,))
    sasrec = make_sasrec(SASRecConfig(**SIZES), TRAIN)
    vectors = np.float64(params["sequence"]["params"]["item_vectors"])
    # The state itself, from scores that are its products with the items' vectors.
    states = np.linalg.lstsq(vectors, np.float64(sasrec.score_fn(params["sequence"], BATCH, KEYS)).T)[0].T
    linear = make_window_ridge(CONFIG.linear_part(TRAIN))
    prior = 0.5 * np.log(np.maximum(np.float64(linear.score_fn(linear.fit(TRAIN), BATCH, KEYS)), 0) + 5e-4)
    scale, z, betas = np.sqrt(np.mean(vectors**2)), np.zeros_like(states), np.float64(schedule.betas)
    alphas_cumprod = np.cumprod(1 - betas)
    for t in range(3, -1, -1):
        given = jnp.float32(states), jnp.float32(z), jnp.full(len(z), t)
        logits = np.float64(network.apply(params["denoiser"], *given)) @ vectors.T + prior
        weights = np.exp(logits - logits.max(1, keepdims=True))
        z_0 = weights / weights.sum(1, keepdims=True) @ vectors / scale
        if t:
            before = alphas_cumprod[t - 1]
            of_z_0 = np.sqrt(before) * betas[t] / (1 - alphas_cumprod[t])
            z = of_z_0 * z_0 + np.sqrt(1 - betas[t]) * (1 - before) / (1 - alphas_cumprod[t]) * z
    np.testing.assert_allclose(recommender.score_fn(params, BATCH, KEYS), logits, rtol=1e-3, atol=2e-3)


def test_sampling_noise_depends_on_the_users_alone():
    recommender, params = make(sampling_noise=True)
    together = recommender.score_fn(params, BATCH, KEYS)
    last = make_row_batch(TRAIN, np.array([4]), batch_size=2)
    alone = recommender.score_fn(params, last, row_keys(jax.random.key(0), last))[0]
    np.testing.assert_allclose(alone, together[4], rtol=1e-3, atol=1e-3)
    other = recommender.score_fn(params, BATCH, row_keys(jax.random.key(1), BATCH))
    assert np.abs(other - together).max() > 1e-3


def test_a_denoiser_that_was_not_trained_changes_nothing():
    recommender = make_s_diffrec(CONFIG, TRAIN)
    params = recommender.init_params(jax.random.key(0))
    alone = make_s_diffrec(dataclasses.replace(CONFIG, num_timesteps=0), TRAIN)
    np.testing.assert_allclose(
        recommender.score_fn(params, BATCH, KEYS), alone.score_fn(params, BATCH, KEYS), rtol=1e-5
    )
    losses = [one.loss_fn(params, (), BATCH, KEYS, CLOCK)[0] for one in (recommender, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_losses_do_not_depend_on_the_other_rows():
    recommender, params = make()
    together = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    last = make_row_batch(TRAIN, np.array([4]))
    alone = recommender.loss_fn(params, (), last, row_keys(jax.random.key(0), last), CLOCK)[0]
    np.testing.assert_allclose(alone[0], together[4], rtol=1e-4)


def test_the_linear_part_is_held_and_has_no_moments():
    recommender, params = make()
    optimizer = TrainConfig(lr=0.1, weight_decay=0.1).make_optimizer(held_params=recommender.held_params)
    state = optimizer.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, after = optimizer.update(gradients, state, params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["linear"]["weights"], params["linear"]["weights"])
    assert all(
        np.any(one != other) for one, other in zip(*map(jax.tree.leaves, (moved["denoiser"], params["denoiser"])))
    )
    assert not any(leaf.shape == params["linear"]["weights"].shape for leaf in jax.tree.leaves(after))


def test_of_many_items_the_linear_part_has_neighbors():
    def neighbors(num_items, **settings):
        return SDiffRecConfig(**settings).linear_part(sparse.csr_array((9000, num_items))).num_neighbors

    assert (neighbors(6000), neighbors(6001)) == (0, 256)
    assert neighbors(6001, linear_neighbors=0) == neighbors(6001, linear_factors=64) == 0
    older = with_later_settings({"model": "s_diffrec", "recommender": {"linear_factors": 0}})
    assert older["recommender"]["linear_neighbors"] == 0


def test_memory_of_the_linear_part_is_known():
    whole, reduced = SDiffRecConfig(), SDiffRecConfig(linear_factors=16)
    assert whole.linear_bytes(TRAIN) > reduced.linear_bytes(TRAIN) > 0
    assert SDiffRecConfig(linear_weight=0.0).linear_bytes(TRAIN) == 0
    with pytest.raises(ValueError, match="linear_factors must be at most 40"):
        make_s_diffrec(SDiffRecConfig(linear_factors=41), TRAIN)
    with pytest.raises(ValueError, match="linear_factors and linear_neighbors are two ways to save memory"):
        SDiffRecConfig(linear_factors=4, linear_neighbors=4)
    with pytest.raises(ValueError, match="num_timesteps must be at least 0"):
        SDiffRecConfig(num_timesteps=-1)
