import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse, stats

from diffrec_jax.data.batching import make_row_batch
from diffrec_jax.models import MLPDenoiser, can_fold, fold_denoiser
from diffrec_jax.models.folding import decoding_denoise_fn, folded_denoise_fn, folded_noise
from diffrec_jax.recommenders import DiffRecConfig, make_diffrec
from diffrec_jax.rows import row_keys as make_row_keys
from tests.reference import SCHEDULES, assert_close, random_params
from tests.reference import diffrec_numpy as reference

B, D = 6, 30
STEPS = np.array([0, 1, 2, 3, 4, 0], np.int32)

any_dims = pytest.mark.parametrize("dims", [(8,), (6, 12)], ids=str)


def input_kernel(params):
    return np.asarray(params["params"]["input_kernel"], np.float64)


def config_for(schedule="linear-var", **changes):
    settings = {key: value for key, value in SCHEDULES[schedule].items() if key != "kind"}
    return DiffRecConfig(**{"noise_schedule": schedule, "beta_fixed": False, **settings, **changes})


def model_for(config, num_items=D):
    return config.make_denoiser(num_items, linear_units=config.linear_rank)


@functools.cache
def make_scorer(config, num_items):
    recommender = make_diffrec(config, num_items, fit_linear=lambda *_: None)
    return jax.jit(lambda params, batch, keys: recommender.score_fn(recommender.prepare_scoring(params), batch, keys))


def score(config, params, matrix, user_ids, *, folded, seed=0):
    """Scores by the recommender's own functions."""
    batch = make_row_batch(matrix, user_ids)
    row_keys = make_row_keys(jax.random.key(seed), batch)
    scorer = make_scorer(dataclasses.replace(config, folded=folded), matrix.shape[1])
    return np.asarray(scorer(params, batch, row_keys))


def random_matrix(seed=0):
    """Rows of weights in (0, 1], one of them empty."""
    rng = np.random.default_rng(seed)
    dense = (rng.random((B, D)) < 0.3) * rng.uniform(0.2, 1, (B, D))
    dense[2] = 0
    return sparse.csr_array(dense.astype(np.float32))


@any_dims
def test_folded_parts_agree_with_reference(dims):
    model = MLPDenoiser(width=D, dims=dims)
    params = random_params(model)
    folded = fold_denoiser(params)
    w_in, output = input_kernel(params), params["params"]["output_layer"]
    assert_close(folded.kernel, np.asarray(output["table"], np.float64).T @ w_in)
    assert_close(folded.bias, np.asarray(output["bias"], np.float64) @ w_in)
    assert folded.noise_root is None
    x_t = np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)
    u_t = jnp.asarray(x_t @ w_in, jnp.float32)
    x_0_hat = reference.mlp_denoiser(params, x_t, STEPS)
    assert_close(jax.jit(folded_denoise_fn(model, params, folded))(u_t, STEPS), x_0_hat @ w_in)
    assert_close(jax.jit(decoding_denoise_fn(model, params))(u_t, STEPS), x_0_hat)


@pytest.mark.parametrize("num_items", [D, 5], ids=["more items than units", "fewer"])
def test_noise_root_is_a_root(num_items):
    params = random_params(MLPDenoiser(width=num_items, dims=(8,)))
    root = np.asarray(fold_denoiser(params, with_noise=True).noise_root, np.float64)
    w_in = input_kernel(params)
    assert_close(root.T @ root, w_in.T @ w_in)


def test_folded_noise_has_the_law_of_projected_white_noise():
    count = 4000
    params = random_params(MLPDenoiser(width=D, dims=(5,)))
    folded, w_in = fold_denoiser(params, with_noise=True), input_kernel(params)
    draw = jax.jit(functools.partial(folded_noise, folded))
    row_keys = jax.random.split(jax.random.key(0), count)
    noise = np.asarray(draw(row_keys, jnp.int32(3)))
    assert noise.shape == (count, 5)
    covariance = w_in.T @ w_in
    deviations = np.sqrt(np.diag(covariance))
    for column, deviation in zip(noise.T, deviations):
        assert stats.kstest(column / deviation, "norm").pvalue > 0.01
    # Standard error of a sample covariance of normals: sqrt((c_ii c_jj + c_ij^2) / n).
    error = np.sqrt((np.outer(deviations, deviations) ** 2 + covariance**2) / count)
    assert np.all(np.abs(np.cov(noise.T) - covariance) < 4 * error)
    assert np.all(np.abs(noise.mean(0)) < 4 * deviations / count**0.5)
    # Another step's noise is independent of it.
    later = np.asarray(draw(row_keys, jnp.int32(4)))
    assert np.abs(np.corrcoef(noise.T, later.T)[:5, 5:]).max() < 4 / count**0.5


def test_folded_noise_of_a_row_depends_on_its_own_key_only():
    folded = fold_denoiser(random_params(MLPDenoiser(width=D, dims=(5,))), with_noise=True)
    row_keys = jax.random.split(jax.random.key(0), 4)
    draw = jax.jit(functools.partial(folded_noise, folded))
    together = draw(row_keys, jnp.int32(1))
    order = np.array([2, 0, 3, 1])
    assert_close(draw(row_keys[order], jnp.int32(1)), together[order])


def test_folding_without_noise_cannot_draw():
    folded = fold_denoiser(random_params(MLPDenoiser(width=D, dims=(5,))))
    with pytest.raises(ValueError, match=r"call fold_denoiser\(..., with_noise=True\)"):
        folded_noise(folded, jax.random.split(jax.random.key(0), 2), jnp.int32(0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_folded_scores_are_the_plain_ones(schedule):
    config = config_for(schedule, dims=(6, 12))
    params, matrix = random_params(model_for(config)), random_matrix()
    user_ids = np.array([5, 2, 0, 3])
    plain, folded = (score(config, params, matrix, user_ids, folded=flag) for flag in (False, True))
    assert not np.array_equal(plain, folded), "both were computed in the same way"
    assert_close(folded, plain)
    np.testing.assert_array_equal(jax.lax.top_k(folded, 10)[1], jax.lax.top_k(plain, 10)[1])
    betas = reference.make_betas(
        schedule, num_timesteps=5, **{k: v for k, v in SCHEDULES[schedule].items() if k != "kind"}
    )
    expected = reference.p_sample_loop(
        betas, lambda x_t, t: reference.mlp_denoiser(params, x_t, t), matrix.toarray()[user_ids]
    )
    assert_close(plain, expected)
    assert_close(folded, expected)


def test_linear_units_fold_too():
    config = config_for("linear", dims=(6, 12), linear_rank=4)
    params, matrix = random_params(model_for(config)), random_matrix()
    plain, folded = (score(config, params, matrix, np.arange(B), folded=flag) for flag in (False, True))
    assert not np.array_equal(plain, folded), "both were computed in the same way"
    assert_close(folded, plain)


def test_amazon_book_setting():
    # The released setting, where the chain moves x_t least: the hidden space must not lose what is left of it.
    config = DiffRecConfig(dims=(8,))
    params, matrix = random_params(model_for(config)), random_matrix()
    plain, folded = (score(config, params, matrix, np.arange(B), folded=flag) for flag in (False, True))
    assert_close(folded, plain)
    np.testing.assert_array_equal(jax.lax.top_k(folded, 10)[1], jax.lax.top_k(plain, 10)[1])


@pytest.mark.parametrize("changes", [{"prediction_type": "epsilon"}, {"normalize": True}], ids=str)
def test_what_cannot_fold_is_scored_plainly(changes):
    config = config_for("linear", dims=(8,), **changes)
    model = model_for(config)
    assert can_fold(model) == (not config.normalize)
    params, matrix = random_params(model), random_matrix()
    plain, folded = (score(config, params, matrix, np.arange(B), folded=flag) for flag in (False, True))
    np.testing.assert_array_equal(folded, plain)
    expected = reference.p_sample_loop(
        reference.make_betas(num_timesteps=5, **SCHEDULES["linear"]),
        lambda x_t, t: reference.mlp_denoiser(params, x_t, t, normalize=config.normalize),
        matrix.toarray(),
        prediction_type=config.prediction_type,
    )
    assert_close(plain, expected)


def covariance_and_error(sample):
    """The sample covariance and the standard error of each of its entries."""
    centred = sample - sample.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    return products.mean(0), products.std(0) / len(sample) ** 0.5


@pytest.mark.parametrize(("sampling_noise", "num_noise_steps"), [(True, 0), (False, 3), (True, 3)])
def test_noisy_scores_are_equal_in_distribution(sampling_noise, num_noise_steps):
    # Many users with the same row, another key for each way of scoring.
    count, num_items = 3000, 6
    config = config_for(
        "linear",
        dims=(4,),
        activation="tanh",
        num_timesteps=4,
        sampling_noise=sampling_noise,
        num_inference_noise_steps=num_noise_steps,
    )
    params = random_params(model_for(config, num_items))
    matrix = sparse.csr_array(np.tile(np.array([[1, 0, 0, 1, 1, 0]], np.float32), (count, 1)))
    plain, folded = (
        score(config, params, matrix, np.arange(count), folded=flag, seed=int(flag)).astype(np.float64)
        for flag in (False, True)
    )
    for first, second in zip(plain.T, folded.T):
        assert stats.ks_2samp(first, second).pvalue > 0.01
    error = np.sqrt((plain.var(0) + folded.var(0)) / count)
    assert np.all(np.abs(plain.mean(0) - folded.mean(0)) < 4 * error)
    (cov_plain, error_plain), (cov_folded, error_folded) = covariance_and_error(plain), covariance_and_error(folded)
    assert np.all(np.abs(cov_plain - cov_folded) < 4 * np.hypot(error_plain, error_folded))
    # The noise is not lost in the chain: it spreads the scores, and a tenth less of it would be seen above.
    assert np.all(np.diag(cov_plain) > 20 * np.diag(error_plain))


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
def test_noisy_scores_do_not_depend_on_the_batch(folded):
    config = config_for("linear", dims=(8,), sampling_noise=True, num_inference_noise_steps=2)
    params, matrix = random_params(model_for(config)), random_matrix()
    order = np.array([3, 5, 0, 4, 1, 2])
    together = score(config, params, matrix, np.arange(B), folded=folded)
    assert_close(score(config, params, matrix, order, folded=folded), together[order])
    assert not np.allclose(together, score(config, params, matrix, np.arange(B), folded=folded, seed=1))


def test_a_residual_denoiser_cannot_be_folded():
    """It adds x_t itself to the output layer's output: the folded chain would leave that out."""
    model = MLPDenoiser(width=D, dims=(8,), residual=True)
    assert not can_fold(model) and can_fold(MLPDenoiser(width=D, dims=(8,)))
    params = random_params(model)
    x_t, t = np.random.default_rng(0).normal(size=(B, D)).astype(np.float32), jnp.zeros(B, jnp.int32)
    u_t = jnp.asarray(x_t @ input_kernel(params), jnp.float32)
    folded = folded_denoise_fn(model, params, fold_denoiser(params))(u_t, t)
    assert not np.allclose(folded, model.apply(params, x_t, t) @ input_kernel(params), atol=0.1)
