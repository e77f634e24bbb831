import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.diffusion import make_noise_schedule, predict_epsilon, predict_x0, q_posterior, q_sample
from tests.reference import SCHEDULES, assert_close
from tests.reference import diffrec_numpy as reference

T, B, D = 5, 16, 9

any_schedule = pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES.keys())


def make_case(settings, seed=0):
    """The schedule, the reference's betas, t with every step in it, and four random blocks [B, D]."""
    rng = np.random.default_rng(seed)
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    betas = reference.make_betas(**settings, num_timesteps=T)
    t = np.concatenate([np.arange(T), rng.integers(0, T, B - T)]).astype(np.int32)
    x_0 = (rng.random((B, D)) < 0.3).astype(np.float32)
    noise, x_t, other = rng.standard_normal((3, B, D), dtype=np.float32)
    return schedule, betas, t, x_0, noise, x_t, other


@any_schedule
def test_functions_agree_with_reference(settings):
    schedule, betas, t, x_0, noise, x_t, other = make_case(settings)
    assert_close(q_sample(schedule, x_0, t, noise), reference.q_sample(betas, x_0, t, noise))
    mean, variance = q_posterior(schedule, other, x_t, t)
    expected_mean, expected_variance = reference.q_posterior(betas, other, x_t, t)
    assert_close(mean, expected_mean)
    assert_close(variance, expected_variance)
    assert_close(predict_x0(schedule, x_t, t, noise), reference.predict_x0(betas, x_t, t, noise))
    assert_close(predict_epsilon(schedule, x_t, t, other), reference.predict_epsilon(betas, x_t, t, other))


@any_schedule
def test_scalar_t_is_the_same_t_for_every_row(settings):
    schedule, _, _, x_0, noise, x_t, _ = make_case(settings)
    for step in (0, T - 1):
        rows = jnp.full(B, step, jnp.int32)
        for function, args in ((q_sample, (x_0, noise)), (predict_x0, (x_t, noise)), (predict_epsilon, (x_t, x_0))):
            np.testing.assert_array_equal(
                function(schedule, args[0], jnp.int32(step), args[1]), function(schedule, args[0], rows, args[1])
            )
        np.testing.assert_array_equal(
            q_posterior(schedule, x_0, x_t, jnp.int32(step))[0], q_posterior(schedule, x_0, x_t, rows)[0]
        )


@any_schedule
def test_predictions_invert_q_sample(settings):
    schedule, _, t, _, noise, _, x_0 = make_case(settings)
    x_t = q_sample(schedule, x_0, t, noise)
    # Each inversion divides by the smaller of the two factors, which costs so many digits of float32.
    smallest_signal = float(schedule.sqrt_alphas_cumprod.min())
    smallest_noise = float(schedule.sqrt_variances.min())
    assert_close(predict_x0(schedule, x_t, t, noise), x_0, rtol=1e-6 / smallest_signal)
    assert_close(predict_epsilon(schedule, x_t, t, x_0), noise, rtol=1e-6 / smallest_noise)


@any_schedule
def test_predictions_are_inverse_of_each_other(settings):
    schedule, _, t, _, noise, x_t, x_0 = make_case(settings)
    ratio = float(np.max(schedule.sqrt_variances / schedule.sqrt_alphas_cumprod))
    assert_close(predict_x0(schedule, x_t, t, predict_epsilon(schedule, x_t, t, x_0)), x_0, rtol=1e-6 * max(1, ratio))
    ratio = float(np.max(schedule.sqrt_alphas_cumprod / schedule.sqrt_variances))
    assert_close(
        predict_epsilon(schedule, x_t, t, predict_x0(schedule, x_t, t, noise)), noise, rtol=1e-6 * max(1, ratio)
    )


@any_schedule
def test_posterior_at_the_first_step_is_x_0(settings):
    schedule, _, _, _, _, x_t, x_0 = make_case(settings)
    mean, variance = q_posterior(schedule, x_0, x_t, jnp.zeros(B, jnp.int32))
    np.testing.assert_array_equal(mean, x_0)
    np.testing.assert_array_equal(variance, np.zeros((B, 1)))


def test_q_sample_has_the_law_of_single_steps_composed():
    # x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, step by step, against q_sample in one go.
    settings, count = SCHEDULES["linear"], 4000
    betas = reference.make_betas(**settings, num_timesteps=T)
    rng = np.random.default_rng(1)
    chain = np.full(count, 2.0)
    for beta in betas:
        chain = np.sqrt(1 - beta) * chain + np.sqrt(beta) * rng.standard_normal(count)
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    noise = jax.random.normal(jax.random.key(0), (count, 1))
    at_once = q_sample(schedule, jnp.full((count, 1), 2.0), jnp.int32(T - 1), noise)
    assert stats.ks_2samp(chain, np.asarray(at_once)[:, 0]).pvalue > 0.01
    one_step_less = q_sample(schedule, jnp.full((count, 1), 2.0), jnp.int32(T - 2), noise)
    assert stats.ks_2samp(chain, np.asarray(one_step_less)[:, 0]).pvalue < 1e-6


def test_noise_of_another_shape():
    schedule, _, t, x_0, noise, *_ = make_case(SCHEDULES["cosine"])
    with pytest.raises(ValueError, match=r"noise has shape \(16, 8\), x_0 has \(16, 9\)"):
        q_sample(schedule, x_0, t, noise[:, :-1])
