import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.diffusion import sharpen_loop, smoothed

RNG = np.random.default_rng(0)
ROWS = RNG.random((4, 7))
GRAPH = RNG.random((7, 7))
GRAPH = (GRAPH + GRAPH.T) / np.linalg.norm(GRAPH + GRAPH.T, 2)


def smooth(rows):
    return rows @ jnp.float32(GRAPH)


def test_a_row_is_itself_at_first_and_smoothed_by_the_strength_at_last():
    smooth_rows = ROWS @ GRAPH
    for t, share in ((0, 0.0), (1, 0.5), (3, 1.5)):
        found = smoothed(jnp.float32(ROWS), jnp.float32(smooth_rows), jnp.int32(t), num_timesteps=3, strength=1.5)
        np.testing.assert_allclose(found, ROWS + share * (smooth_rows - ROWS), rtol=1e-5)
    each = smoothed(jnp.float32(ROWS), jnp.float32(smooth_rows), jnp.arange(4), num_timesteps=3, strength=1.5)
    np.testing.assert_allclose(each, ROWS + 0.5 * np.arange(4)[:, None] * (smooth_rows - ROWS), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_a_denoiser_that_knows_the_rows_gives_them_back(decay):
    rows = jnp.float32(ROWS)
    found = sharpen_loop(lambda z, t: rows, smooth, rows, num_timesteps=4, strength=1.2, residual_decay=decay)
    np.testing.assert_allclose(found, ROWS, rtol=1e-5)


def test_what_no_prediction_explains_fades_by_the_decay():
    """With the same prediction y at every step, z_0 - y is decay^T times what z_T holds beside z_T of y."""
    predicted = RNG.random((4, 7))
    found = sharpen_loop(
        lambda z, t: jnp.float32(predicted),
        smooth,
        jnp.float32(ROWS),
        num_timesteps=3,
        strength=1.5,
        residual_decay=0.6,
    )
    left = ROWS - predicted
    expected = predicted + 0.6**3 * (left + 1.5 * (left @ GRAPH - left))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_steps_go_from_the_last_to_the_first():
    seen = sharpen_loop(
        lambda z, t: 10 * z + t[:, None], lambda rows: rows, jnp.zeros((2, 3)), num_timesteps=3, strength=1.0,
        residual_decay=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(seen, np.full((2, 3), 321))
