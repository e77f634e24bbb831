import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.diffusion import (
    gaussian_noise_fn,
    make_noise_schedule,
    noise_for_inference,
    p_sample_loop,
    predict_x0,
    x0_denoise_fn,
)
from diffrec_jax.models import MLPDenoiser
from tests.reference import SCHEDULES, assert_close, random_params
from tests.reference import diffrec_numpy as reference

T, B, D = 5, 6, 11

any_schedule = pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES.keys())
any_dims = pytest.mark.parametrize("dims", [(8,), (6, 12)], ids=str)


def random_rows(seed=0):
    return (np.random.default_rng(seed).random((B, D)) < 0.4).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("model", "prediction_type", "num_noise_steps", "sampling_noise"))
def score(schedule, model, params, x_0, noise, prediction_type, num_noise_steps, sampling_noise):
    """The library's chain with given noise [T + 1, B, D]; all schedules share a compilation."""

    def noise_fn(t):
        return noise[t]

    def denoise_fn(x_t, t):
        return model.apply(params, x_t, t)

    if prediction_type == "epsilon":
        denoise_fn = x0_denoise_fn(schedule, denoise_fn)
    x_T = noise_for_inference(schedule, x_0, num_noise_steps, noise_fn)
    return p_sample_loop(schedule, denoise_fn, x_T, noise_fn=noise_fn if sampling_noise else None)


@any_schedule
@any_dims
@pytest.mark.parametrize("prediction_type", ["x0", "epsilon"])
@pytest.mark.parametrize(("num_noise_steps", "sampling_noise"), [(0, False), (3, True)], ids=["plain", "noise"])
def test_loop_with_the_mlp_agrees_with_reference(settings, dims, prediction_type, num_noise_steps, sampling_noise):
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    betas = reference.make_betas(**settings, num_timesteps=T)
    model = MLPDenoiser(width=D, dims=dims)
    params, x_0 = random_params(model), random_rows()
    noise = np.random.default_rng(1).standard_normal((T + 1, B, D), dtype=np.float32)
    actual = score(schedule, model, params, x_0, noise, prediction_type, num_noise_steps, sampling_noise)
    expected = reference.p_sample_loop(
        betas,
        lambda x_t, t: reference.mlp_denoiser(params, x_t, t),
        reference.noise_for_inference(betas, x_0, num_noise_steps, noise[T]),
        noise=noise if sampling_noise else None,
        prediction_type=prediction_type,
    )
    assert_close(actual, expected)


@any_schedule
def test_perfect_denoiser_returns_x_0(settings):
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    x_0 = random_rows()
    x_T = np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)
    result = p_sample_loop(schedule, lambda x_t, t: jnp.asarray(x_0), jnp.asarray(x_T))
    np.testing.assert_array_equal(result, x_0)


@any_schedule
def test_chain_of_the_true_noise_returns_x_0(settings):
    # A network that always names the noise between x_0 and the present x_t.
    schedule = make_noise_schedule(**settings, num_timesteps=T, dtype=np.float64)
    x_0 = random_rows()
    x_T = np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)

    def epsilon_fn(x_t, t):
        signal = jnp.asarray(schedule.sqrt_alphas_cumprod)[t][:, None] * x_0
        return (x_t - signal) / jnp.asarray(schedule.sqrt_variances)[t][:, None]

    result = p_sample_loop(schedule, x0_denoise_fn(schedule, epsilon_fn), jnp.asarray(x_T))
    assert_close(result, x_0, rtol=1e-4)


def test_noise_of_the_last_step_is_not_added():
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    x_0 = jnp.asarray(random_rows())
    noisy = p_sample_loop(schedule, lambda x_t, t: x_0, x_0, noise_fn=lambda t: jnp.full((B, D), 100.0))
    np.testing.assert_array_equal(noisy, x_0)


def test_every_timestep_is_visited_once_from_the_last():
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    visited = []

    def denoise_fn(x_t, t):
        jax.debug.callback(lambda step: visited.append(np.asarray(step).tolist()), t, ordered=True)
        return x_t

    jax.block_until_ready(jax.jit(lambda x: p_sample_loop(schedule, denoise_fn, x))(jnp.zeros((2, D))))
    jax.effects_barrier()
    assert visited == [[t, t] for t in reversed(range(T))]


def test_single_timestep_is_one_prediction():
    schedule = make_noise_schedule(**SCHEDULES["linear-var"], num_timesteps=1)
    x_T = jnp.asarray(random_rows())
    result = p_sample_loop(schedule, lambda x_t, t: 2.0 * x_t + t[:, None], x_T, noise_fn=lambda t: x_T)
    np.testing.assert_array_equal(result, 2.0 * x_T)


def test_final_denoise_fn_makes_the_last_step_only():
    schedule = make_noise_schedule(**SCHEDULES["binomial"], num_timesteps=T)
    x_T = jnp.asarray(random_rows())

    def to_fewer(x_t, t):
        assert t.shape == (B,) and t.dtype == jnp.int32
        return x_t[:, :3] + t[:, None]

    plain = p_sample_loop(schedule, lambda x_t, t: 0.5 * x_t, x_T)
    shortened = p_sample_loop(schedule, lambda x_t, t: 0.5 * x_t, x_T, final_denoise_fn=to_fewer)
    assert shortened.shape == (B, 3)
    np.testing.assert_allclose(0.5 * shortened, plain[:, :3], rtol=1e-6)


def test_compiles_at_most_once():
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    traces = []

    @jax.jit
    def rescore(scale, x_T, key):
        traces.append(x_T.shape)
        noise_fn = gaussian_noise_fn(key, x_T.shape)
        return p_sample_loop(schedule, lambda x_t, t: scale * x_t, x_T, noise_fn=noise_fn)

    results = [rescore(scale, random_rows(i), jax.random.key(i)) for i, scale in enumerate((0.5, 0.7, 0.9))]
    assert len(traces) == 1
    assert not np.allclose(results[0], results[1])
    assert rescore._cache_size() == 1


def test_reverse_chain_has_the_law_of_its_recursion():
    # With x_0_hat = a x_t every step is linear: mean and variance follow a recursion.
    a, start, count = 0.6, 2.0, 4000
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    betas = reference.make_betas(**SCHEDULES["linear"], num_timesteps=T)
    mean, variance = start, 0.0
    for t in reversed(range(T)):
        factor_x0, factor_xt, added = reference.posterior_coefficients(betas, t)
        factor = a * factor_x0 + factor_xt
        mean, variance = factor * mean, factor**2 * variance + added
    noise_fn = gaussian_noise_fn(jax.random.key(5), (count, 2))
    x_0 = p_sample_loop(schedule, lambda x_t, t: a * x_t, jnp.full((count, 2), start), noise_fn=noise_fn)
    for column in np.asarray(x_0).T:
        assert stats.kstest(column, stats.norm(mean, variance**0.5).cdf).pvalue > 0.01
        assert stats.kstest(column, stats.norm(mean, 1.1 * variance**0.5).cdf).pvalue < 0.01
    assert abs(np.corrcoef(np.asarray(x_0).T)[0, 1]) < 4 / count**0.5


def test_gaussian_noise_fn_is_standard_normal_and_independent_between_steps():
    noise_fn = gaussian_noise_fn(jax.random.key(0), (1000, 4))
    steps = np.stack([np.asarray(noise_fn(jnp.int32(t))).ravel() for t in range(4)])
    for draw in steps:
        assert stats.kstest(draw, "norm").pvalue > 0.01
    correlation = np.corrcoef(steps)
    assert np.abs(correlation - np.eye(4)).max() < 4 / steps.shape[1] ** 0.5


def test_gaussian_noise_fn_repeats_itself_and_depends_on_the_key():
    first, same, other = (gaussian_noise_fn(jax.random.key(seed), (3, 2))(jnp.int32(1)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.any(first == other)


@any_schedule
def test_noise_for_inference_agrees_with_reference(settings):
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    betas = reference.make_betas(**settings, num_timesteps=T)
    x_0 = random_rows()
    noise = np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)
    for num_noise_steps in range(T + 1):
        actual = noise_for_inference(schedule, x_0, num_noise_steps, lambda t: noise)
        assert_close(actual, reference.noise_for_inference(betas, x_0, num_noise_steps, noise))


def test_noise_for_inference_shares_no_draw_with_the_reverse_chain():
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    asked = []

    def noise_fn(t):
        asked.append(int(t))
        return jnp.zeros((B, D))

    noise_for_inference(schedule, random_rows(), 2, noise_fn)
    assert asked == [T]
    noise_for_inference(schedule, random_rows(), 0, noise_fn)
    assert asked == [T]


@pytest.mark.parametrize("num_noise_steps", [-1, T + 1])
def test_inference_noise_steps_out_of_range(num_noise_steps):
    schedule = make_noise_schedule(**SCHEDULES["linear"], num_timesteps=T)
    with pytest.raises(ValueError, match=rf"T' .*between 0 and T = 5, got {num_noise_steps}"):
        noise_for_inference(schedule, random_rows(), num_noise_steps, lambda t: jnp.zeros((B, D)))


def test_x0_denoise_fn_is_predict_x0_of_the_network():
    schedule = make_noise_schedule(**SCHEDULES["cosine"], num_timesteps=T)
    x_t, t = jnp.asarray(random_rows()), jnp.arange(B, dtype=jnp.int32) % T
    actual = x0_denoise_fn(schedule, lambda x, t: 0.3 * x + t[:, None])(x_t, t)
    np.testing.assert_array_equal(actual, predict_x0(schedule, x_t, t, 0.3 * x_t + t[:, None]))


def test_rows_of_integers_are_refused_rather_than_truncated():
    schedule = make_noise_schedule("linear", num_timesteps=3, noise_min=0.1, noise_max=0.3)
    with pytest.raises(TypeError, match="x_T must be floating point, got int32"):
        p_sample_loop(schedule, lambda x_t, t: 0.5 * x_t, jnp.ones((1, 3), jnp.int32))
