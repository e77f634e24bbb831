from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.diffusion import make_betas, make_noise_schedule, schedule_from_betas
from tests.reference import SCHEDULES
from tests.reference import diffrec_numpy as reference

# The released setting for Amazon-book clean.
AMAZON = {"num_timesteps": 5, "noise_scale": 1e-4, "noise_min": 5e-4, "noise_max": 5e-3, "beta_fixed": True}

any_schedule = pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES.keys())
any_length = pytest.mark.parametrize("num_timesteps", [1, 2, 5, 40])


def float64_tables(settings, num_timesteps=7):
    return make_noise_schedule(**settings, num_timesteps=num_timesteps, dtype=np.float64)


def before(table, first):
    return np.concatenate([[first], table[:-1]])


@any_schedule
@any_length
@pytest.mark.parametrize("beta_fixed", [False, True])
def test_betas_agree_with_reference(settings, num_timesteps, beta_fixed):
    settings = {**settings, "beta_fixed": beta_fixed}
    betas = make_betas(**settings, num_timesteps=num_timesteps)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, reference.make_betas(**settings, num_timesteps=num_timesteps), rtol=1e-9)


@any_schedule
@any_length
def test_tables_agree_with_reference(settings, num_timesteps):
    schedule = make_noise_schedule(**settings, num_timesteps=num_timesteps)
    betas = reference.make_betas(**settings, num_timesteps=num_timesteps)
    abar = reference.alphas_cumprod(betas)
    posterior = np.array([reference.posterior_coefficients(betas, t) for t in range(num_timesteps)])
    expected = {
        "betas": betas,
        "alphas_cumprod": abar,
        "variances": reference.variances(betas),
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_variances": np.sqrt(reference.variances(betas)),
        "posterior_coef_x0": posterior[:, 0],
        "posterior_coef_xt": posterior[:, 1],
        "posterior_variances": posterior[:, 2],
        "x0_loss_weights": reference.x0_loss_weights(betas),
        "epsilon_loss_weights": reference.epsilon_loss_weights(betas),
    }
    assert set(expected) == set(schedule._fields)
    assert schedule.num_timesteps == num_timesteps
    for name, table in expected.items():
        # Each entry by itself, not relative to the largest: weights span orders of magnitude.
        np.testing.assert_allclose(getattr(schedule, name), table, rtol=1e-5, err_msg=name)
        assert getattr(schedule, name).dtype == jnp.float32


@any_schedule
def test_tables_are_float64_tables_cast_once(settings):
    single = make_noise_schedule(**settings, num_timesteps=7)
    for name, table in float64_tables(settings)._asdict().items():
        assert isinstance(table, np.ndarray) and table.dtype == np.float64
        np.testing.assert_array_equal(getattr(single, name), table.astype(np.float32), err_msg=name)


def test_binomial_closed_form():
    # By hand: betas 1/4, 1/3, 1/2, so abar = 3/4, 1/2, 1/4 and SNR = 3, 1, 1/3.
    schedule = make_noise_schedule("binomial", num_timesteps=3, dtype=np.float64)
    np.testing.assert_allclose(schedule.betas, [1 / 4, 1 / 3, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(schedule.alphas_cumprod, [3 / 4, 1 / 2, 1 / 4], rtol=1e-15)
    np.testing.assert_allclose(schedule.variances, [1 / 4, 1 / 2, 3 / 4], rtol=1e-15)
    np.testing.assert_allclose(schedule.x0_loss_weights, [1, 2, 2 / 3], rtol=1e-14)
    # (1/2) / ((1/4)^2 (2/3)) and (3/4) / ((1/2)^2 (1/2))
    np.testing.assert_allclose(schedule.epsilon_loss_weights, [1, 12, 6], rtol=1e-14)
    # beta_t v_{t-1} / v_t
    np.testing.assert_allclose(schedule.posterior_variances, [0, 1 / 6, 1 / 3], rtol=1e-14)
    np.testing.assert_allclose(schedule.posterior_coef_x0, [1, 3**0.5 / 3, 2**0.5 / 3], rtol=1e-14)
    np.testing.assert_allclose(schedule.posterior_coef_xt, [0, 6**0.5 / 6, 2**0.5 / 3], rtol=1e-14)


def test_linear_var_is_linear_in_the_variances():
    schedule = make_noise_schedule(num_timesteps=4, noise_scale=0.1, noise_min=0.2, noise_max=0.8, dtype=np.float64)
    np.testing.assert_allclose(schedule.variances, [0.02, 0.04, 0.06, 0.08], rtol=1e-13)


def test_linear_is_linear_in_the_betas():
    betas = make_betas("linear", num_timesteps=4, noise_scale=0.1, noise_min=0.2, noise_max=0.8)
    np.testing.assert_allclose(betas, [0.02, 0.04, 0.06, 0.08], rtol=1e-13)


def test_cosine_follows_the_squared_cosine_until_the_last_beta():
    schedule = make_noise_schedule("cosine", num_timesteps=10, dtype=np.float64)
    u = np.arange(1, 10) / 10
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    curve = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / start
    np.testing.assert_allclose(schedule.alphas_cumprod[:9], curve, rtol=1e-12)
    assert schedule.betas[9] == 0.999


def test_beta_fixed_replaces_the_first_beta_only():
    free, fixed = (make_betas(**{**AMAZON, "beta_fixed": flag}) for flag in (False, True))
    assert fixed[0] == 1e-5
    np.testing.assert_allclose(free[0], 5e-8, rtol=1e-12)
    np.testing.assert_array_equal(fixed[1:], free[1:])


def test_golden_amazon_book_weight():
    # 1041 in float64; float32 arithmetic on the same formulas gives 551 (both measured, and again here).
    schedule = make_noise_schedule(**AMAZON)
    np.testing.assert_allclose(float(schedule.x0_loss_weights[-1]), 1041.39794, rtol=1e-6)
    one = np.float32(1)
    betas = reference.make_betas("linear-var", **AMAZON)
    ramp = np.float32(1e-4) * np.linspace(5e-4, 5e-3, 5, dtype=np.float32)
    naive_betas = one - (one - ramp) / np.concatenate([[one], (one - ramp)[:-1]])
    naive_betas[0] = np.float32(1e-5)
    abar = np.cumprod(one - naive_betas, dtype=np.float32)
    snr = abar / (one - abar)
    np.testing.assert_allclose(snr[-2] - snr[-1], 551, rtol=1e-3)
    np.testing.assert_allclose(reference.x0_loss_weights(betas)[-1], 1041.39794, rtol=1e-6)


def test_tiny_variances_keep_their_digits():
    # Exact rational arithmetic on the same betas: subtracting abar from one, even in float64, keeps four digits here.
    betas = np.array([1e-12, 3e-12, 2e-12, 5e-12])
    schedule = schedule_from_betas(betas, np.float64)
    abar, variances, weights = Fraction(1), [], [Fraction(1)]
    for beta in betas:
        abar *= 1 - Fraction(float(beta))
        variances.append(1 - abar)
        if len(variances) > 1:
            weights.append(1 / variances[-2] - 1 / variances[-1])  # SNR + 1 = 1 / variance
    np.testing.assert_allclose(schedule.variances, [float(value) for value in variances], rtol=1e-14)
    np.testing.assert_allclose(schedule.x0_loss_weights, [float(weight) for weight in weights], rtol=1e-13)


@any_schedule
def test_variances_and_alphas_add_up_to_one(settings):
    schedule = float64_tables(settings)
    np.testing.assert_allclose(schedule.variances + schedule.alphas_cumprod, 1.0, rtol=1e-14)
    assert np.all(np.diff(schedule.variances) > 0)


@any_schedule
def test_marginalised_posterior_is_the_earlier_marginal(settings):
    schedule = float64_tables(settings)
    mean = schedule.posterior_coef_x0 + schedule.posterior_coef_xt * schedule.sqrt_alphas_cumprod
    variance = schedule.posterior_coef_xt**2 * schedule.variances + schedule.posterior_variances
    np.testing.assert_allclose(mean, np.sqrt(before(schedule.alphas_cumprod, 1.0)), rtol=1e-12)
    np.testing.assert_allclose(variance, before(schedule.variances, 0.0), rtol=1e-12)


@any_schedule
def test_posterior_has_the_covariance_of_the_forward_chain(settings):
    # cov(x_{t-1}, x_t) is coef_xt v_t by the posterior and sqrt(alpha_t) v_{t-1} by the forward step.
    schedule = float64_tables(settings)
    forward = np.sqrt(1.0 - schedule.betas) * before(schedule.variances, 0.0)
    np.testing.assert_allclose(schedule.posterior_coef_xt * schedule.variances, forward, rtol=1e-12)


@any_schedule
@any_length
def test_posterior_of_the_first_step_is_x_0(settings, num_timesteps):
    schedule = make_noise_schedule(**settings, num_timesteps=num_timesteps)
    assert float(schedule.posterior_coef_x0[0]) == 1.0
    assert float(schedule.posterior_coef_xt[0]) == 0.0
    assert float(schedule.posterior_variances[0]) == 0.0


@any_schedule
def test_weights_telescope(settings):
    schedule = float64_tables(settings)
    snr = schedule.alphas_cumprod / schedule.variances
    np.testing.assert_allclose(schedule.x0_loss_weights[1:].sum(), snr[0] - snr[-1], rtol=1e-10)
    assert schedule.x0_loss_weights[0] == schedule.epsilon_loss_weights[0] == 1.0
    assert np.all(schedule.x0_loss_weights > 0)


def test_betas_are_not_changed_in_place():
    betas = np.array([0.1, 0.2])
    schedule_from_betas(betas)
    np.testing.assert_array_equal(betas, [0.1, 0.2])


VALID = {"num_timesteps": 5, "noise_scale": 0.1, "noise_min": 0.1, "noise_max": 0.2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "quadratic"}, "'quadratic' is unknown: choose one of linear, linear-var, cosine, binomial"),
        ({"num_timesteps": 0}, "num_timesteps must be at least 1, got 0"),
        ({"noise_scale": -0.1}, r"noise_scale must be at least 0 \(no noise\), got -0.1"),
        ({"noise_scale": float("nan")}, r"noise_scale must be at least 0 \(no noise\), got nan"),
        ({"noise_min": 0.3}, "0 < noise_min <= noise_max, got noise_min=0.3, noise_max=0.2"),
        ({"noise_min": 0.0}, "0 < noise_min <= noise_max, got noise_min=0.0"),
        ({"noise_scale": 5.0}, "noise_scale \\* noise_max must be below 1.*got 1$"),
    ],
)
@pytest.mark.parametrize("make", [make_betas, make_noise_schedule])
def test_bad_settings(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**{**VALID, **changes})


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (np.full((2, 2), 0.1), r"non-empty vector, got shape \(2, 2\)"),
        (np.zeros(0), r"non-empty vector, got shape \(0,\)"),
        (np.array([0.1, 1.0]), r"lie in \(0, 1\), got values from 0.1 to 1$"),
        (np.array([0.0, 0.5]), r"lie in \(0, 1\), got values from 0 to 0.5$"),
        (np.array([0.1, np.nan]), r"lie in \(0, 1\)"),
    ],
)
def test_bad_betas(betas, message):
    with pytest.raises(ValueError, match=message):
        schedule_from_betas(betas)


def test_a_flat_variance_has_no_betas():
    with pytest.raises(ValueError, match="linear-var needs noise_min < noise_max"):
        make_betas("linear-var", num_timesteps=3, noise_min=0.1, noise_max=0.1)
    assert make_betas("linear-var", num_timesteps=1, noise_min=0.1, noise_max=0.1) == [0.1]
