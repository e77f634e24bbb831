import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffrec_jax.diffusion import (
    LossHistory,
    init_loss_history,
    sample_timesteps,
    timestep_probabilities,
    update_loss_history,
)
from tests.reference import diffrec_numpy as reference

T, B, LENGTH = 3, 25, 10

update = jax.jit(update_loss_history)
probabilities_of = jax.jit(timestep_probabilities)

batches = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, T - 1),
            st.floats(0, 1e4, width=32, allow_subnormal=False),
            st.sampled_from([True, True, False]),
        ),
        min_size=B,
        max_size=B,
    ),
    min_size=1,
    max_size=4,
)


def update_both(history, expected, t, losses, mask):
    """Updates the library's history and the reference's lists, and checks that they hold the same."""
    t, losses, mask = np.asarray(t, np.int32), np.asarray(losses, np.float32), np.asarray(mask, bool)
    history = update(history, t, losses, mask)
    reference.update_loss_history(expected, t, losses, mask, length=LENGTH)
    for row, count, stored in zip(np.asarray(history.losses), np.asarray(history.counts), expected):
        assert count == len(stored)
        np.testing.assert_array_equal(row[LENGTH - count :], np.float32(stored))
        np.testing.assert_array_equal(row[: LENGTH - count], 0.0)
    return history


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches)
def test_history_is_a_fifo_of_each_timestep(examples):
    history, expected = init_loss_history(T), reference.new_loss_history(T)
    for batch in examples:
        history = update_both(history, expected, *zip(*batch))
    np.testing.assert_allclose(probabilities_of(history), expected_probabilities(expected), rtol=1e-5, atol=1e-7)


def expected_probabilities(lists):
    """The reference's probabilities, uniform where every loss is zero (which the paper leaves open)."""
    if all(not any(losses) for losses in lists):
        return np.full(len(lists), 1 / len(lists))
    return reference.timestep_probabilities(lists)


@pytest.mark.parametrize("crowd", [9, 10, 11, 25])
def test_many_examples_of_one_step_in_one_batch(crowd):
    # All of step 1, first into an empty list and then into one that is full or nearly so.
    history, expected = init_loss_history(T), reference.new_loss_history(T)
    rng = np.random.default_rng(crowd)
    t = np.where(np.arange(B) < crowd, 1, 2)
    for _ in range(2):
        history = update_both(history, expected, t, rng.random(B), np.ones(B, bool))
    assert np.asarray(history.counts).tolist() == [0, 10, min(2 * (B - crowd), 10)]


def test_oldest_goes_first():
    history = init_loss_history(1, history_length=3)
    history = update(history, np.zeros(2, np.int32), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(history.losses, [[0, 1, 2]])
    np.testing.assert_array_equal(history.counts, [2])
    history = update(history, np.zeros(2, np.int32), np.array([3, 4], np.float32))
    np.testing.assert_array_equal(history.losses, [[2, 3, 4]])
    np.testing.assert_array_equal(history.counts, [3])


def test_masked_rows_leave_no_trace():
    history, _ = full_history(seed=0)
    t, losses = np.arange(B, dtype=np.int32) % T, np.full(B, 7.0, np.float32)
    same = update(history, t, losses, np.zeros(B, bool))
    np.testing.assert_array_equal(same.losses, history.losses)
    np.testing.assert_array_equal(same.counts, history.counts)


def full_history(seed):
    """A full history of random losses of different sizes, and the reference's lists."""
    rng = np.random.default_rng(seed)
    losses = (rng.random((T, LENGTH)) * np.array([[1.0], [4.0], [20.0]])).astype(np.float32)
    history = LossHistory(losses=jnp.asarray(losses), counts=jnp.full(T, LENGTH, jnp.int32))
    return history, [row.tolist() for row in losses]


def test_probabilities_agree_with_reference():
    for seed in range(5):
        history, lists = full_history(seed)
        np.testing.assert_allclose(probabilities_of(history), reference.timestep_probabilities(lists), rtol=1e-5)


def test_probabilities_closed_form():
    # Root mean squares 1, 2 and sqrt((9 * 0 + 10 * 9) / 10) = 3: shares 1/6, 2/6, 3/6.
    losses = np.array([[1.0] * 10, [2.0] * 10, [0.0] * 9 + [90**0.5]], np.float32)
    history = LossHistory(losses=jnp.asarray(losses), counts=jnp.full(T, LENGTH, jnp.int32))
    expected = 0.999 * np.array([1, 2, 3]) / 6 + 0.001 / 3
    np.testing.assert_allclose(probabilities_of(history), expected, rtol=1e-6)


def test_uniform_until_every_list_is_full():
    history, _ = full_history(seed=1)
    uniform = np.full(T, 1 / T, np.float32)
    for counts in ([10, 9, 10], [0, 0, 0], [0, 10, 10]):
        probabilities = probabilities_of(history._replace(counts=jnp.array(counts, jnp.int32)))
        np.testing.assert_array_equal(probabilities, uniform)
    assert not np.allclose(probabilities_of(history), uniform)


def test_losses_of_zero_leave_it_uniform():
    history = LossHistory(losses=jnp.zeros((T, LENGTH)), counts=jnp.full(T, LENGTH, jnp.int32))
    np.testing.assert_allclose(probabilities_of(history), np.full(T, 1 / T), rtol=1e-6)


def test_no_timestep_is_starved():
    # One step has all the losses: the others keep their part of the uniform share.
    losses = jnp.zeros((T, LENGTH)).at[0].set(1e3)
    history = LossHistory(losses=losses, counts=jnp.full(T, LENGTH, jnp.int32))
    expected = [0.999 + 0.001 / 3, 0.001 / 3, 0.001 / 3]
    np.testing.assert_allclose(probabilities_of(history), expected, rtol=1e-5)


draw = jax.jit(lambda key, probabilities: sample_timesteps(key, probabilities, (20_000,)))


def test_sampled_frequencies():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    t, _ = draw(jax.random.key(3), jnp.asarray(probabilities, jnp.float32))
    assert t.shape == (20_000,) and t.dtype == jnp.int32
    observed = np.bincount(t, minlength=4)
    assert stats.chisquare(observed, probabilities * len(t)).pvalue > 0.01
    assert stats.chisquare(observed, np.array([0.52, 0.28, 0.15, 0.05]) * len(t)).pvalue < 1e-3


def test_importance_weights_keep_the_loss_unbiased():
    probabilities, losses = np.array([0.5, 0.3, 0.15, 0.05]), np.array([3.0, 1.0, 2.0, 10.0])
    t, weight = draw(jax.random.key(0), jnp.asarray(probabilities, jnp.float32))
    np.testing.assert_allclose(weight, 1 / (4 * probabilities[t]), rtol=1e-6)
    estimates = weight * losses[t]
    assert abs(estimates.mean() - losses.mean()) < 4 * estimates.std() / len(t) ** 0.5


def test_uniform_sampling_has_weights_of_one():
    _, weight = draw(jax.random.key(0), jnp.full(4, 0.25))
    np.testing.assert_array_equal(weight, np.ones(20_000))
    t, weight = jax.eval_shape(sample_timesteps, jax.random.key(0), jnp.full(4, 0.25))
    assert t.shape == weight.shape == ()


def test_a_step_without_probability_is_never_drawn():
    t, weight = draw(jax.random.key(0), jnp.array([0.5, 0.0, 0.3, 0.2]))
    assert set(np.asarray(t).tolist()) == {0, 2, 3}
    assert np.all(np.isfinite(weight))


@pytest.mark.parametrize(("num_losses", "num_flags"), [(3, 4), (4, 3)])
def test_shapes_that_differ(num_losses, num_flags):
    with pytest.raises(ValueError, match=rf"one shape, got \(4,\), \({num_losses},\) and \({num_flags},\)"):
        update_loss_history(
            init_loss_history(T), jnp.zeros(4, jnp.int32), jnp.zeros(num_losses), jnp.ones(num_flags, bool)
        )


def test_losses_whose_squares_overflow_still_give_probabilities():
    history = LossHistory(losses=jnp.array([[3e30] * 10, [1e30] * 10], jnp.float32), counts=jnp.full(2, 10))
    np.testing.assert_allclose(
        timestep_probabilities(history), [0.999 * 0.75 + 0.0005, 0.999 * 0.25 + 0.0005], rtol=1e-5
    )
