import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.diffusion import (
    bernoulli_marginal,
    bernoulli_p_sample,
    bernoulli_process,
    bernoulli_q_posterior,
    bernoulli_q_sample,
    bernoulli_schedule,
    make_noise_schedule,
    noise_for_inference,
    p_sample_loop,
    schedule_from_betas,
)
from tests.reference import SCHEDULES, assert_close, diffrec_numpy
from tests.reference import bernoulli_numpy as reference

T = 5
RATES = np.array([0.0, 0.01, 0.3, 0.5, 1.0], np.float32)
OF_ITEMS = RATES[None]
# A row for each x_0, x_t and t.
STATES = np.array([(x_0, x_t, t) for x_0 in (0, 1) for x_t in (0, 1) for t in range(T)])
X_0, X_T = (jnp.broadcast_to(STATES[:, [column]].astype(np.float32), (len(STATES), len(RATES))) for column in (0, 1))
STEPS = jnp.asarray(STATES[:, 2], jnp.int32)

any_schedule = pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES.keys())
marginal, posterior = jax.jit(bernoulli_marginal), jax.jit(bernoulli_q_posterior)


def make_case(settings):
    return make_noise_schedule(**settings, num_timesteps=T), diffrec_numpy.make_betas(**settings, num_timesteps=T)


def rows(value, count=1):
    return jnp.full((count, len(RATES)), value, jnp.float32)


@any_schedule
def test_the_marginal_is_that_of_all_steps_one_after_the_other(settings):
    schedule, betas = make_case(settings)
    expected = np.array([[reference.transitions(betas, t, rate)[x_0, 1] for rate in RATES] for x_0, _, t in STATES])
    np.testing.assert_allclose(marginal(schedule, X_0, STEPS, OF_ITEMS), expected, rtol=1e-5)
    of_scalars = marginal(schedule, X_0, STEPS[3], 0.3)
    np.testing.assert_allclose(of_scalars[[3, -2], 2], expected[[3, -2], 2], rtol=1e-5)


@any_schedule
def test_the_posterior_is_bayes_rule(settings):
    schedule, betas = make_case(settings)
    expected = np.array([[reference.posterior(betas, *state, rate) for rate in RATES] for state in STATES])
    possible = ~np.isnan(expected)
    # A rate of 0 makes no 1 of a 0, one of 1 no 0 of a 1.
    assert np.sum(~possible) == 2 * T and not possible[(STATES[:, 0] == 0) & (STATES[:, 1] == 1), 0].any()
    found = np.asarray(posterior(schedule, X_0, X_T, STEPS, OF_ITEMS))
    np.testing.assert_allclose(found[possible], expected[possible], rtol=1e-4, atol=1e-6)
    of_scalars = posterior(schedule, X_0, X_T, STEPS[3], 0.3)
    np.testing.assert_allclose(of_scalars[3::T, 2], expected[3::T, 2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[STEPS == 0], X_0[STEPS == 0], atol=1e-6)


@any_schedule
def test_where_x_t_cannot_come_of_x_0_the_posterior_is_its_limit(settings):
    schedule, betas = make_case(settings)
    impossible = (STATES[:, 0] == 0) & (STATES[:, 1] == 1)
    found = np.asarray(posterior(schedule, X_0, X_T, STEPS, OF_ITEMS))[impossible, 0]
    expected = [reference.posterior(betas, 0, 1, t, 1e-9) for t in range(T)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@any_schedule
def test_a_step_back_mixes_the_posteriors_of_both_x_0_and_undoes_a_step(settings):
    schedule, _ = make_case(settings)
    of_0, of_1 = (posterior(schedule, value * jnp.ones_like(X_T), X_T, STEPS, OF_ITEMS) for value in (0, 1))
    mixed = bernoulli_p_sample(schedule, 0.3 * jnp.ones_like(X_T), X_T, STEPS, None, OF_ITEMS)
    np.testing.assert_allclose(mixed, 0.7 * of_0 + 0.3 * of_1, atol=1e-6)
    later = STEPS > 0
    x_t = marginal(schedule, X_0, STEPS, OF_ITEMS)
    before = marginal(schedule, X_0, STEPS - 1, OF_ITEMS)
    undone = posterior(schedule, X_0, x_t, STEPS, OF_ITEMS)
    np.testing.assert_allclose(undone[later], before[later], atol=1e-5)


def test_draws_have_the_marginals_and_are_apart_from_each_other():
    schedule, betas = make_case(SCHEDULES["linear"])
    count, t = 20_000, 2
    for x_0 in (0, 1):
        uniform = jax.random.uniform(jax.random.key(x_0), (count, len(RATES)))
        x_t = np.asarray(bernoulli_q_sample(schedule, rows(x_0, count), jnp.full(count, t), uniform, OF_ITEMS))
        assert x_t.dtype == np.float32 and set(np.unique(x_t)) == {0, 1}
        for item, rate in enumerate(RATES):
            expected, ones = reference.transitions(betas, t, rate)[x_0, 1], int(x_t[:, item].sum())
            assert stats.binomtest(ones, count, expected).pvalue > 0.01
            earlier = reference.transitions(betas, t - 1, rate)[x_0, 1]
            assert expected in (0, 1) or stats.binomtest(ones, count, earlier).pvalue < 1e-4
        assert abs(np.corrcoef(x_t[:, 2], x_t[:, 3])[0, 1]) < 4 / count**0.5


def test_in_the_end_nothing_is_left_but_the_stationary_rate():
    schedule = schedule_from_betas(np.full(40, 0.5))
    for x_0 in (0, 1):
        assert_close(bernoulli_marginal(schedule, rows(x_0), jnp.int32(39), OF_ITEMS), OF_ITEMS)
    for t in (0, 3, 39):  # and where it began, it stays
        assert_close(bernoulli_marginal(schedule, jnp.asarray(OF_ITEMS), jnp.int32(t), OF_ITEMS), OF_ITEMS)


def test_without_noise_nothing_changes_and_a_step_back_is_the_prediction():
    schedule = bernoulli_schedule(make_noise_schedule(num_timesteps=T, noise_scale=0.0))
    x_0 = jnp.asarray([[0.0, 1.0, 0.0, 1.0, 1.0]])
    uniform = jax.random.uniform(jax.random.key(0), x_0.shape)
    for t in range(T):
        np.testing.assert_array_equal(bernoulli_q_sample(schedule, x_0, jnp.full(1, t), uniform, OF_ITEMS), x_0)
        found = bernoulli_p_sample(schedule, rows(0.25), x_0, jnp.full(1, t), None, OF_ITEMS)
        np.testing.assert_allclose(found, rows(0.25), rtol=1e-6)
    np.testing.assert_array_equal(schedule.x0_loss_weights, np.ones(T))


def test_a_chain_that_draws_gives_back_the_law_of_the_rows():
    """x_T from the forward process, each x_0_hat the true p(x_0 = 1 | x_t): then x_0 is distributed as it was."""
    schedule, betas = make_case(SCHEDULES["binomial"])
    count, ones = 20_000, np.array([0.05, 0.02, 0.5, 0.9, 0.4])
    kept, redrawn = np.cumprod(1 - betas), 1 - np.cumprod(1 - betas)
    # Of items that can be both in x_t, and of x_t = 1 and x_t = 0.
    given_0 = redrawn[:, None] * RATES
    given_1 = given_0 + kept[:, None]
    of_1 = ones * given_1 / (ones * given_1 + (1 - ones) * given_0)
    of_0 = ones * (1 - given_1) / (ones * (1 - given_1) + (1 - ones) * (1 - given_0) + 1e-30)
    tables = jnp.asarray(of_0, jnp.float32), jnp.asarray(of_1, jnp.float32)
    x_0 = (np.random.default_rng(0).random((count, len(RATES))) < ones).astype(np.float32)

    def noise_fn(t):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(1), t), x_0.shape)

    process = bernoulli_process(OF_ITEMS)
    x_T = noise_for_inference(schedule, jnp.asarray(x_0), T, noise_fn, q_sample=process.q_sample)
    found = p_sample_loop(
        schedule,
        lambda x_t, t: jnp.where(x_t > 0, tables[1][t], tables[0][t]),
        x_T,
        noise_fn=noise_fn,
        p_sample=process.p_sample,
    )
    assert np.all(np.abs(found.mean(0) - ones) < 4 * np.sqrt(ones * (1 - ones) / count))
    assert np.all(np.abs(x_T.mean(0) - ones)[2:] > 0.02)  # where it started from


@any_schedule
def test_the_chain_of_probabilities_agrees_with_the_reference(settings):
    schedule, betas = make_case(settings)
    rates = np.array([0.01, 0.2, 0.7])
    weights = np.random.default_rng(0).normal(0, 1, (3, 3))
    x_T = np.array([[0, 1, 0], [1, 1, 0]], np.float32)
    found = p_sample_loop(
        schedule,
        lambda x_t, t: x_t @ jnp.asarray(weights, jnp.float32) + 0.1 * t[:, None],
        jnp.asarray(x_T),
        p_sample=bernoulli_process(rates.astype(np.float32)[None]).p_sample,
    )
    expected = reference.p_sample_loop(betas, lambda x, t: x @ weights + 0.1 * np.array(t)[:, None], x_T, rates)
    assert_close(found, expected, rtol=1e-4)


@any_schedule
def test_a_loss_weighs_what_its_step_drew_among_all_that_was_drawn(settings):
    schedule, betas = make_case(settings)
    kept = np.concatenate([[1.0], np.cumprod(1 - betas)])
    weights = np.asarray(bernoulli_schedule(schedule).x0_loss_weights)
    np.testing.assert_allclose(weights, (kept[:-1] - kept[1:]) / (1 - kept[1:]), rtol=1e-4)
    np.testing.assert_allclose(weights[0], 1, rtol=1e-6)


def test_the_weights_are_those_of_the_variational_bound_for_small_steps():
    """At entries that are 0, for rate 0: KL(q(x_{t-1} | x_t, x_0) || p) is w_t d(x_0, x_0_hat) but for w_t squared."""
    betas = np.array([0.3, 1e-3, 1e-3])
    schedule = schedule_from_betas(betas)
    weight = float(bernoulli_schedule(schedule).x0_loss_weights[2])
    for x_0, x_0_hat in ((0, 0.2), (1, 0.2), (1, 0.9)):
        true = reference.posterior(betas, x_0, 0, 2, 0.0)
        with_it = x_0_hat * reference.posterior(betas, 1, 0, 2, 0.0)
        bound = stats.entropy([true, 1 - true], [with_it, 1 - with_it])
        divergence = x_0 * np.log(1 / x_0_hat) - x_0 + x_0_hat
        np.testing.assert_allclose(bound, weight * divergence, rtol=0.01)


def test_draws_of_another_shape():
    schedule, _ = make_case(SCHEDULES["cosine"])
    with pytest.raises(ValueError, match=r"uniform has shape \(1, 4\), x_0 has \(1, 5\)"):
        bernoulli_q_sample(schedule, rows(0), jnp.int32(1), jnp.zeros((1, 4)), OF_ITEMS)
