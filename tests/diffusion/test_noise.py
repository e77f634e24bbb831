import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.diffusion import NOISE_LAWS, register_noise_law

KNOWN = {
    "gaussian": stats.norm,
    "laplace": stats.laplace(scale=0.5**0.5),
    "student_t": stats.t(5, scale=0.6**0.5),
}


@pytest.mark.parametrize("name", NOISE_LAWS)
def test_every_law_has_mean_0_and_variance_1_and_is_what_it_is_called(name):
    noise = np.asarray(NOISE_LAWS[name](jax.random.key(3), (200, 200)), np.float64).ravel()
    assert abs(noise.mean()) < 4 / len(noise) ** 0.5
    spread = np.sqrt(max(stats.kurtosis(noise, fisher=False) - 1, 1.0) / len(noise))  # of the sample variance
    assert abs(noise.var() - 1) < 5 * spread
    if name in KNOWN:
        assert stats.kstest(noise[:10_000], KNOWN[name].cdf).pvalue > 0.01
        assert stats.kstest(noise[:10_000], stats.norm(scale=1.1).cdf).pvalue < 0.01
    else:
        assert set(noise.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("name", KNOWN)
def test_tails_are_as_heavy_as_the_law_says(name):
    noise = np.abs(np.asarray(NOISE_LAWS[name](jax.random.key(5), (1000, 1000)), np.float64).ravel())
    assert np.all(np.isfinite(noise))
    for share in (1e-3, 1e-4):
        beyond = np.sum(noise > KNOWN[name].ppf(1 - share / 2))
        assert abs(beyond - share * len(noise)) < 4 * (share * len(noise)) ** 0.5
    assert noise.max() < KNOWN[name].ppf(1 - 1e-11)  # in a million draws, once in 50,000 times


def test_a_law_is_added_once():
    register_noise_law("of this test", lambda key, shape: jnp.ones(shape))
    try:
        with pytest.raises(ValueError, match="there is a noise law 'of this test' already"):
            register_noise_law("of this test", jax.random.normal)
    finally:
        del NOISE_LAWS["of this test"]
