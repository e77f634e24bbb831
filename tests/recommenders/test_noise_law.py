"""A noise law reaches training, inference and the fold of every model that diffuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.diffusion import NOISE_LAWS, register_noise_law
from diffrec_jax.recommenders import DiffRecConfig, LDiffRecConfig, StepContext, make_diffrec, make_l_diffrec
from diffrec_jax.rows import row_keys
from tests.reference import assert_close
from tests.reference import diffrec_numpy as reference

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=20, num_items=30, num_interactions=200, num_clusters=3)).train
CONFIG = DiffRecConfig(dims=(8,), num_timesteps=3, noise_scale=0.5, noise_min=0.1, noise_max=0.6, dropout=0.0)
CLOCK = StepContext(step=np.int32(0), epoch=np.int32(0), key=jax.random.key(0))
BATCH = make_row_batch(TRAIN, np.arange(20))
KEYS = row_keys(jax.random.key(2), BATCH)


@pytest.fixture
def ones():
    """A law without chance, so that x_t is known: sqrt(abar) x_0 + sqrt(1 - abar)."""
    register_noise_law("ones", lambda key, shape: jnp.ones(shape))
    yield "ones"
    del NOISE_LAWS["ones"]


def losses_of(config, make=lambda config: make_diffrec(config, 30)):
    recommender = make(config)
    params = recommender.init_params(jax.random.key(1))
    losses, info = recommender.loss_fn(params, recommender.init_model_state(), BATCH, KEYS, CLOCK)
    return params, losses, info


@pytest.mark.parametrize("lean", [{}, {"loss_impl": "blocked", "loss_block_size": 7}, {"loss_impl": "gram"}], ids=str)
def test_training_rows_are_noised_by_the_law(ones, lean):
    config = dataclasses.replace(CONFIG, noise_law=ones, reweight=False, **lean)
    params, losses, (t, _) = losses_of(config)
    schedule, x_0 = config.make_schedule(), TRAIN.toarray().astype(np.float64)
    t = np.asarray(t)
    x_t = np.asarray(schedule.sqrt_alphas_cumprod)[t][:, None] * x_0 + np.asarray(schedule.sqrt_variances)[t][:, None]
    assert_close(losses, np.mean((reference.mlp_denoiser(params, x_t, t) - x_0) ** 2, axis=1))


def test_latent_vectors_are_noised_by_the_law():
    config = LDiffRecConfig(dims=(8,), in_dims=(6,), noise_scale=0.5, noise_min=0.1, noise_max=0.6)
    found = [
        losses_of(dataclasses.replace(config, noise_law=law), lambda config: make_l_diffrec(config, np.arange(30) % 2))[
            1
        ]
        for law in ("gaussian", "laplace", "gaussian")
    ]
    assert_close(found[2], found[0])  # a GPU leaves the order of the encoders' sums open
    assert not np.allclose(found[0], found[1], rtol=1e-3)


@pytest.mark.parametrize("drawn", [{"num_inference_noise_steps": 2}, {"sampling_noise": True}], ids=str)
def test_what_is_drawn_at_inference_is_of_the_law_and_then_not_folded(ones, drawn):
    config = dataclasses.replace(CONFIG, noise_law=ones, **drawn)
    folded, plain = (make_diffrec(dataclasses.replace(config, folded=choice), 30) for choice in (True, False))
    params = plain.init_params(jax.random.key(1))
    assert folded.prepare_scoring(params)[1] is None
    scores = folded.score_fn(folded.prepare_scoring(params), BATCH, KEYS)
    assert_close(scores, plain.score_fn(plain.prepare_scoring(params), BATCH, KEYS))
    schedule, x = config.make_schedule(), TRAIN.toarray().astype(np.float64)
    if "num_inference_noise_steps" in drawn:
        x = np.asarray(schedule.sqrt_alphas_cumprod)[1] * x + np.asarray(schedule.sqrt_variances)[1]
    for t in (2, 1, 0):
        x_0_hat = reference.mlp_denoiser(params, x, np.full(20, t))
        x = np.asarray(schedule.posterior_coef_x0)[t] * x_0_hat + np.asarray(schedule.posterior_coef_xt)[t] * x
        if "sampling_noise" in drawn and t:
            x = x + np.sqrt(np.asarray(schedule.posterior_variances)[t])
    assert_close(scores, x)


def test_without_noise_at_inference_every_law_is_folded():
    recommender = make_diffrec(dataclasses.replace(CONFIG, noise_law="laplace"), 30)
    assert recommender.prepare_scoring(recommender.init_params(jax.random.key(1)))[1] is not None


def test_unknown_laws_and_sketches_of_other_laws_are_refused():
    with pytest.raises(
        ValueError, match="noise_law is 'cauchy': choose one of gaussian, laplace, student_t, rademacher"
    ):
        dataclasses.replace(CONFIG, noise_law="cauchy")
    with pytest.raises(ValueError, match="noise_sketch draws Gaussian noise"):
        dataclasses.replace(CONFIG, noise_law="laplace", noise_sketch=4)
