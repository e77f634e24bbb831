"""noise_scale 0: a plain autoencoder, as the released code runs it. Here against closed forms of loss and chain."""

import dataclasses

import jax
import numpy as np
import pytest

from diffrec_jax.data import Recency, make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.diffusion import make_noise_schedule, p_sample_loop, q_posterior, q_sample
from diffrec_jax.recommenders import DiffRecConfig, LDiffRecConfig, StepContext, make_diffrec, make_l_diffrec
from diffrec_jax.rows import row_keys
from tests.reference import assert_close
from tests.reference import diffrec_numpy as reference

pytestmark = pytest.mark.once

DATASET = make_synthetic(SyntheticSpec(num_users=20, num_items=30, num_interactions=200, num_clusters=3))
RECENCY = Recency("linear", w_min=0.1, w_max=1.0)
NO_NOISE = {"noise_scale": 0.0, "num_timesteps": 4, "dims": (8,)}
CLOCK = StepContext(step=np.int32(7), epoch=np.int32(1), key=jax.random.key(0))


def schedule(kind="linear-var", **changes):
    return make_noise_schedule(kind, num_timesteps=4, noise_scale=0.0, **changes)


@pytest.mark.parametrize("kind", ["linear", "linear-var", "cosine", "binomial"])
@pytest.mark.parametrize("beta_fixed", [True, False])
def test_nothing_is_added_and_nothing_is_kept_of_x_t(kind, beta_fixed):
    x_0 = jax.random.normal(jax.random.key(0), (3, 5))
    tables = schedule(kind, noise_min=0.1, noise_max=0.2, beta_fixed=beta_fixed)
    for t in range(4):
        np.testing.assert_array_equal(q_sample(tables, x_0, np.full(3, t), 9 * np.ones((3, 5))), x_0)
        mean, variance = q_posterior(tables, x_0, 7 * x_0, np.full(3, t))
        np.testing.assert_array_equal(mean, x_0)
        np.testing.assert_array_equal(variance, 0)
    assert all(np.isfinite(table).all() for table in tables)


def test_the_chain_applies_the_network_t_times():
    x_T = jax.random.normal(jax.random.key(0), (3, 5))
    found = p_sample_loop(schedule(), lambda x_t, t: 0.5 * x_t + t[:, None], x_T, noise_fn=lambda t: 1e9 * x_T)
    expected = np.asarray(x_T, np.float64)
    for t in (3, 2, 1, 0):
        expected = 0.5 * expected + t
    assert_close(found, expected)


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("weigh", [False, True], ids=["DiffRec", "T-DiffRec"])
@pytest.mark.parametrize(
    "lean", [{}, {"loss_impl": "blocked", "loss_block_size": 7}, {"loss_impl": "gram"}, {"noise_sketch": 5}], ids=str
)
def test_the_loss_is_the_mean_squared_error_of_the_reconstruction(weigh, reweight, lean):
    config = DiffRecConfig(**NO_NOISE, dropout=0.0, reweight=reweight, **lean)
    recommender = make_diffrec(config, DATASET.num_items)
    params = recommender.init_params(jax.random.key(1))
    rows = RECENCY.weigh(DATASET.train) if weigh else DATASET.train
    batch = make_row_batch(rows, np.arange(20))
    losses, (t, _) = recommender.loss_fn(
        params, recommender.init_model_state(), batch, row_keys(jax.random.key(2), batch), CLOCK
    )
    x_0 = rows.toarray().astype(np.float64)
    expected = np.mean((reference.mlp_denoiser(params, x_0, np.asarray(t)) - x_0) ** 2, axis=1)
    assert_close(losses, expected)
    assert len(set(np.asarray(t).tolist())) > 1


@pytest.mark.parametrize("weigh", [False, True], ids=["L-DiffRec", "LT-DiffRec"])
def test_the_latent_loss_is_the_closed_form(weigh):
    """lambda (z_0_hat - z_0)^2 + nll of the decoded z_0_hat + gamma KL, of the encoder's mean."""
    config = LDiffRecConfig(
        **NO_NOISE, in_dims=(6,), dropout=0.0, encoder_dropout=0.0, reparameterize=False, kl_weight=0.2
    )
    recommender = make_l_diffrec(config, np.arange(30) % 2)
    params = recommender.init_params(jax.random.key(1))
    rows = RECENCY.weigh(DATASET.train) if weigh else DATASET.train
    batch = make_row_batch(rows, np.arange(20))
    losses, (t, _) = recommender.loss_fn(
        params, recommender.init_model_state(), batch, row_keys(jax.random.key(2), batch), CLOCK
    )
    own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["autoencoder"]["params"])
    x = rows.toarray().astype(np.float64)
    means, log_variances, logits = [], [], np.zeros_like(x)
    for group in (0, 1):
        items = np.arange(30) % 2 == group
        out = np.tanh(x[:, items] @ own[f"encoder_{group}_0_kernel"] + own[f"encoder_{group}_0_bias"])
        means.append(out[:, :3])
        log_variances.append(out[:, 3:])
    z_0, log_variance = np.concatenate(means, axis=1), np.concatenate(log_variances, axis=1)
    z_0_hat = reference.mlp_denoiser(params["denoiser"], z_0, np.asarray(t))
    for group in (0, 1):
        items = np.arange(30) % 2 == group
        logits[:, items] = z_0_hat @ own[f"output_{group}_table"].T + own[f"output_{group}_bias"]
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nll = -(x * log_probabilities).sum(axis=1)
    kl = -0.5 * (1 + log_variance - z_0**2 - np.exp(log_variance)).sum(axis=1)
    diffusion = np.mean((z_0_hat - z_0) ** 2, axis=1)
    weight = max((1 - 2 / 500) * config.diffusion_loss_weight, config.diffusion_loss_weight_min)
    kl_weight = min(config.kl_weight, 7 / config.kl_weight_steps)
    assert_close(losses, weight * diffusion + nll + kl_weight * kl)


@pytest.mark.parametrize("extra", [{}, {"num_inference_noise_steps": 3}, {"sampling_noise": True}], ids=str)
def test_folded_and_plain_scores_agree_and_draw_nothing(extra):
    config = DiffRecConfig(**NO_NOISE, **extra)
    params = make_diffrec(config, DATASET.num_items).init_params(jax.random.key(1))
    batch = make_row_batch(DATASET.train, np.arange(20))
    found = []
    for folded in (True, False):
        recommender = make_diffrec(dataclasses.replace(config, folded=folded), DATASET.num_items)
        found.append(
            recommender.score_fn(recommender.prepare_scoring(params), batch, row_keys(jax.random.key(3), batch))
        )
    expected = DATASET.train.toarray().astype(np.float64)
    for t in (3, 2, 1, 0):
        expected = reference.mlp_denoiser(params, expected, np.full(20, t))
    for scores in found:
        assert_close(scores, expected)


def test_there_is_no_noise_to_predict():
    with pytest.raises(ValueError, match="noise_scale 0 leaves no noise to predict"):
        DiffRecConfig(noise_scale=0.0, prediction_type="epsilon")
