"""An independent reference in NumPy float64, and what its comparisons with the library share."""

import jax
import jax.numpy as jnp
import numpy as np

# One setting of every schedule kind, as keyword arguments of make_noise_schedule.
SCHEDULES = {
    "linear": {"kind": "linear", "noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.4},
    "linear-var": {
        "kind": "linear-var",
        "noise_scale": 0.01,
        "noise_min": 0.001,
        "noise_max": 0.01,
        "beta_fixed": True,
    },
    "cosine": {"kind": "cosine"},
    "binomial": {"kind": "binomial"},
}


def random_params(model, seed=0):
    """Parameters of an MLPDenoiser larger than its initial ones: no layer nearly linear, no bias negligible."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.width)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


def assert_close(actual, expected, *, rtol=1e-5):
    """Equal up to ``rtol`` of the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())
