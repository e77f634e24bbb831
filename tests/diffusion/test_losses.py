import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.diffusion import (
    diffusion_loss,
    epsilon_loss,
    make_noise_schedule,
    mean_cross_entropy,
    q_sample,
    x0_loss,
)
from tests.reference import SCHEDULES
from tests.reference import diffrec_numpy as reference

T, B, D = 5, 16, 9

any_schedule = pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES.keys())
with_and_without_reweight = pytest.mark.parametrize("reweight", [True, False], ids=["reweight", "plain"])


def make_case(settings, seed=0):
    """The schedule, the reference's betas, t with every step in it, x_0, noise and a network's output."""
    rng = np.random.default_rng(seed)
    schedule = make_noise_schedule(**settings, num_timesteps=T)
    betas = reference.make_betas(**settings, num_timesteps=T)
    t = np.concatenate([np.arange(T), rng.integers(0, T, B - T)]).astype(np.int32)
    x_0 = (rng.random((B, D)) < 0.3).astype(np.float32)
    noise, prediction = rng.standard_normal((2, B, D), dtype=np.float32)
    return schedule, betas, t, x_0, noise, prediction


@any_schedule
@with_and_without_reweight
def test_x0_loss_agrees_with_reference(settings, reweight):
    schedule, betas, t, x_0, _, x_0_hat = make_case(settings)
    actual = x0_loss(schedule, x_0, x_0_hat, t, reweight=reweight)
    assert actual.shape == (B,)
    expected = reference.x0_loss(betas, x_0, x_0_hat, t, reweight=reweight)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@any_schedule
@with_and_without_reweight
def test_epsilon_loss_agrees_with_reference(settings, reweight):
    schedule, betas, t, x_0, noise, epsilon_hat = make_case(settings)
    x_t = reference.q_sample(betas, x_0, t, noise)
    actual = epsilon_loss(schedule, x_0, x_t.astype(np.float32), noise, epsilon_hat, t, reweight=reweight)
    assert actual.shape == (B,)
    expected = reference.epsilon_loss(betas, x_0, x_t, noise, epsilon_hat, t, reweight=reweight)
    # At the first step x_0 - x_0_hat cancels what x_t and x_0 share: float32 keeps eps / sqrt(variance) of it.
    rtol = 1e-5 + 1e-6 / float(schedule.sqrt_variances[0])
    np.testing.assert_allclose(actual[t > 0], expected[t > 0], rtol=1e-5)
    np.testing.assert_allclose(actual[t == 0], expected[t == 0], rtol=rtol)


@any_schedule
@with_and_without_reweight
def test_diffusion_loss_is_the_loss_of_the_prediction_type(settings, reweight):
    schedule, _, t, x_0, noise, prediction = make_case(settings)
    x_t = q_sample(schedule, x_0, t, noise)
    expected = {
        "x0": x0_loss(schedule, x_0, prediction, t, reweight=reweight),
        "epsilon": epsilon_loss(schedule, x_0, x_t, noise, prediction, t, reweight=reweight),
    }
    for kind, losses in expected.items():
        actual = diffusion_loss(schedule, prediction, x_0, x_t, noise, t, prediction_type=kind, reweight=reweight)
        np.testing.assert_array_equal(actual, losses)
    assert not np.allclose(expected["x0"], expected["epsilon"])


def test_x0_loss_closed_form():
    # Binomial, T = 3: weights 1, 2, 2/3. One entry of four is off by 2, so the mean squared error is 1.
    schedule = make_noise_schedule("binomial", num_timesteps=3)
    x_0 = jnp.zeros((3, 4))
    x_0_hat = x_0.at[:, 1].set(2.0)
    t = jnp.arange(3)
    np.testing.assert_allclose(x0_loss(schedule, x_0, x_0_hat, t), [1, 2, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(x0_loss(schedule, x_0, x_0_hat, t, reweight=False), [1, 1, 1], rtol=1e-6)


def test_epsilon_loss_closed_form():
    # Binomial, T = 3: weights (-, 12, 6). At t = 0, abar = 3/4: an error of 2 in the noise is one of
    # 2 sqrt(1/4) / sqrt(3/4) = 2 / sqrt(3) in x_0, whose mean square over four entries is 1/3, half of it 1/6.
    schedule = make_noise_schedule("binomial", num_timesteps=3)
    x_0 = jnp.ones((3, 4))
    noise = jnp.full((3, 4), 0.5)
    epsilon_hat = noise.at[:, 1].add(2.0)
    t = jnp.arange(3)
    x_t = q_sample(schedule, x_0, t, noise)
    np.testing.assert_allclose(epsilon_loss(schedule, x_0, x_t, noise, epsilon_hat, t), [1 / 6, 12, 6], rtol=1e-5)
    plain = epsilon_loss(schedule, x_0, x_t, noise, epsilon_hat, t, reweight=False)
    np.testing.assert_allclose(plain, [1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("prediction_type", ["x0", "epsilon"])
@with_and_without_reweight
def test_exact_prediction_has_no_loss(prediction_type, reweight):
    schedule, _, t, x_0, noise, _ = make_case(SCHEDULES["cosine"])
    x_t = q_sample(schedule, x_0, t, noise)
    prediction = x_0 if prediction_type == "x0" else noise
    losses = diffusion_loss(
        schedule, prediction, x_0, x_t, noise, t, prediction_type=prediction_type, reweight=reweight
    )
    np.testing.assert_allclose(losses, np.zeros(B), atol=1e-10)


@with_and_without_reweight
def test_the_cross_entropy_takes_the_place_of_the_squared_error(reweight):
    schedule, betas, t, x_0, _, logits = make_case(SCHEDULES["linear"])
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    weights = np.random.default_rng(1).random((B, D))
    errors = weights * -(x_0 * np.log(p) + (1 - x_0) * np.log(1 - p))
    actual = diffusion_loss(
        schedule, logits, x_0, x_0, x_0, t, reweight=reweight, item_weights=weights, error_fn=mean_cross_entropy
    )
    # The reference's weights of each step, from errors that are all 1.
    of_step = reference.x0_loss(betas, np.zeros((B, D)), np.ones((B, D)), t, reweight=reweight)
    np.testing.assert_allclose(actual, of_step * errors.mean(axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"differ in shape: \(16, 8\) and \(16, 9\)"):
        mean_cross_entropy(logits[:, :-1], x_0)


def test_rows_do_not_mix():
    schedule, _, t, x_0, noise, prediction = make_case(SCHEDULES["linear"])
    changed = prediction.copy()
    changed[3] += 1.0
    for kind in ("x0", "epsilon"):
        x_t = q_sample(schedule, x_0, t, noise)
        first, second = (
            np.asarray(diffusion_loss(schedule, output, x_0, x_t, noise, t, prediction_type=kind))
            for output in (prediction, changed)
        )
        np.testing.assert_array_equal(np.flatnonzero(first != second), [3])


@pytest.mark.parametrize("prediction_type", ["x0", "epsilon"])
def test_gradients_are_finite(prediction_type):
    # The first step's likelihood and the other steps' error stand side by side in a where.
    schedule, _, t, x_0, noise, prediction = make_case(SCHEDULES["cosine"])
    x_t = q_sample(schedule, x_0, t, noise)

    def total(output):
        return diffusion_loss(schedule, output, x_0, x_t, noise, t, prediction_type=prediction_type).sum()

    gradient = np.asarray(jax.grad(total)(prediction))
    assert np.all(np.isfinite(gradient)) and np.all(np.any(gradient != 0, axis=1))


def test_shapes_that_differ():
    schedule, _, t, x_0, noise, prediction = make_case(SCHEDULES["linear"])
    with pytest.raises(ValueError, match=r"differ in shape: \(16, 8\) and \(16, 9\)"):
        x0_loss(schedule, x_0, prediction[:, :-1], t)
    with pytest.raises(ValueError, match=r"differ in shape: \(16, 8\) and \(16, 9\)"):
        epsilon_loss(schedule, x_0, x_0, noise, prediction[:, :-1], t)


def test_an_unknown_prediction_type_is_refused():
    schedule = make_noise_schedule("linear", num_timesteps=3, noise_min=0.1, noise_max=0.3)
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="'x_0' is unknown: choose x0 or epsilon"):
        diffusion_loss(schedule, x, x, x, x, jnp.zeros(2, jnp.int32), prediction_type="x_0")


def test_item_weights_weigh_the_squares_and_leave_the_mean_over_all_items():
    schedule = make_noise_schedule("linear-var", num_timesteps=3, noise_scale=0.1, noise_min=0.01, noise_max=0.1)
    rng = np.random.default_rng(0)
    x_0, x_0_hat = rng.random((2, 4), np.float32), rng.random((2, 4), np.float32)
    t, weights = np.array([1, 2]), np.array([[0, 1, 1, 1], [0.5, 1, 0, 2]], np.float32)
    expected = schedule.x0_loss_weights[t] * (weights * np.square(x_0 - x_0_hat)).mean(axis=1)
    np.testing.assert_allclose(x0_loss(schedule, x_0, x_0_hat, t, item_weights=weights), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="item_weights need x_0 prediction"):
        diffusion_loss(schedule, x_0_hat, x_0, x_0, x_0, t, prediction_type="epsilon", item_weights=weights)
