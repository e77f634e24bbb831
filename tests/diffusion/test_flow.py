import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from diffrec_jax.diffusion import flow_sample, follow_flow


def test_the_path_goes_from_the_prior_to_the_row():
    rows, drawn = jnp.ones((3, 4000)), jnp.zeros((3, 4000))
    uniform = jax.random.uniform(jax.random.key(0), rows.shape)
    found = flow_sample(rows, drawn, jnp.array([0.0, 0.3, 1.0]), uniform)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_array_equal(found[2], 1)
    assert stats.binomtest(int(found[1].sum()), 4000, 0.3).pvalue > 0.01


ROWS = jnp.array([[1.0, 0.0, 0.0, 0.0]])


def test_a_single_step_is_a_prediction_from_the_row_at_the_last_time():
    seen = follow_flow(lambda x, t: 10 * x + t[:, None], ROWS, num_steps=9, num_steps_followed=1)
    np.testing.assert_array_equal(seen, [[18, 8, 8, 8]])


def test_an_item_comes_once_it_is_more_likely_than_not_and_the_rows_own_stay():
    """Of three steps left the first goes a third of the way: 0 + 1.6 / 3 is more than half, 1.4 / 3 is not."""
    predictions, seen = jnp.array([[-9.0, 1.6, 1.4, -3.0]]), []

    def denoise(x_t, number):
        jax.debug.callback(lambda x, n: seen.append((int(n[0]), x[0].tolist())), x_t, number)
        return predictions

    found = follow_flow(denoise, ROWS, num_steps=9, num_steps_followed=3)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, predictions)
    # Then half of the way from where it is: 0 + 1.4 / 2.
    assert sorted(seen) == [(6, [1, 0, 0, 0]), (7, [1, 1, 0, 0]), (8, [1, 1, 1, 0])]
