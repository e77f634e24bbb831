"""An independent reference in NumPy float64, written from the paper, and how closely the library must agree with it."""

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


def assert_close(actual, expected, *, rtol: float = 1e-5) -> None:
    """Equal up to ``rtol`` of the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())
