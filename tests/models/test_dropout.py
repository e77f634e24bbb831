import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.models.dropout import row_bernoulli, row_dropout

B, D = 400, 75  # no multiple of 32: the last word of random bits is used in part

dropout = functools.partial(jax.jit, static_argnums=2)(row_dropout)
bernoulli = functools.partial(jax.jit, static_argnums=(1, 2))(row_bernoulli)
any_rate = pytest.mark.parametrize("rate", [0.5, 0.3])


def keys(seed=0, num_rows=B):
    return jax.random.split(jax.random.key(seed), num_rows)


@any_rate
def test_keep_rate(rate):
    kept = np.asarray(dropout(keys(), jnp.ones((B, D)), rate)) != 0
    assert stats.binomtest(int(kept.sum()), B * D, 1 - rate).pvalue > 0.01
    # The same in every column, the first and the last of a word of random bits included, and in every row.
    for axis, count in ((0, B), (1, D)):
        variance = count * rate * (1 - rate)
        statistic = np.sum((kept.sum(axis=axis) - count * (1 - rate)) ** 2 / variance)
        assert 0.005 < stats.chi2.cdf(statistic, kept.shape[1 - axis]) < 0.995


@any_rate
def test_columns_are_independent(rate):
    kept = np.asarray(bernoulli(keys(1), 1 - rate, D)).astype(float)
    correlation = np.corrcoef(kept.T)[np.triu_indices(D, 1)]
    assert np.abs(correlation).max() < 5 / B**0.5
    assert abs(np.mean(correlation**2) * B - 1) < 5 * (2 / correlation.size) ** 0.5


@any_rate
def test_kept_entries_are_scaled_to_preserve_the_mean(rate):
    x = np.random.default_rng(0).uniform(1, 2, (B, D)).astype(np.float32)
    dropped = np.asarray(dropout(keys(2), jnp.asarray(x), rate))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], x[kept] / (1 - rate), rtol=1e-6)
    error = (dropped - x).mean()
    assert abs(error) < 4 * (dropped - x).std() / (B * D) ** 0.5


@any_rate
def test_a_row_depends_on_its_own_key_only(rate):
    row_keys, x = keys(3, 6), jnp.ones((6, D))
    together = np.asarray(dropout(row_keys, x, rate))
    order = np.array([4, 0, 5, 3, 1, 2])
    np.testing.assert_array_equal(dropout(row_keys[order], x, rate), together[order])
    np.testing.assert_array_equal(dropout(row_keys[2:3], x[:1], rate), together[2:3])
    changed = row_keys.at[0].set(jax.random.key(99))
    elsewhere = np.asarray(dropout(changed, x, rate))
    np.testing.assert_array_equal(elsewhere[1:], together[1:])
    assert np.any(elsewhere[0] != together[0])
    assert len({row.tobytes() for row in together}) == 6


def test_extreme_probabilities():
    assert np.all(bernoulli(keys(num_rows=3), 1.0, D))
    assert not np.any(bernoulli(keys(num_rows=3), 0.0, D))


@pytest.mark.parametrize("num_columns", [1, 2, 31, 32, 33, 64])
@pytest.mark.parametrize("probability", [0.5, 0.7])
def test_shape_of_any_number_of_columns(num_columns, probability):
    assert jax.eval_shape(lambda: row_bernoulli(keys(num_rows=2), probability, num_columns)).shape == (2, num_columns)


def test_rate_zero_keeps_everything():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(row_dropout(keys(num_rows=2), x, 0.0), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=rf"dropout rate must be in \[0, 1\), got {rate}"):
        row_dropout(keys(num_rows=2), jnp.ones((2, 3)), rate)
