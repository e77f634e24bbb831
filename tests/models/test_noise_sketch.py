import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse, stats

from diffrec_jax.data import make_row_batch
from diffrec_jax.models.noise_sketch import buckets, draw_noise_sketch, expand, project_noised
from diffrec_jax.rows import to_dense

pytestmark = pytest.mark.once

SIZES = [(12, 12), (12, 4), (13, 4), (12, 5), (11, 1), (1, 1)]


@pytest.mark.parametrize(("num_items", "size"), SIZES)
def test_the_projection_is_that_of_the_noise_itself(num_items, size):
    rng = np.random.default_rng(0)
    matrix = sparse.csr_array(sparse.random(6, num_items, density=0.4, rng=rng, dtype=np.float32))
    batch = make_row_batch(matrix, np.arange(5), batch_size=6)
    table = jnp.asarray(rng.normal(size=(num_items, 3)), jnp.float32)
    z = jnp.asarray(rng.normal(size=(6, size)), jnp.float32)
    sketch = draw_noise_sketch(jax.random.key(1), num_items, size)

    def whole(table):
        return (to_dense(batch, num_items) + expand(sketch, z)) @ table

    def loss(project):
        return lambda table: jnp.sum(jnp.sin(project(table)))

    def sketched(table):
        return project_noised(table, batch, z, sketch)

    np.testing.assert_allclose(sketched(table), whole(table), atol=1e-5)
    np.testing.assert_allclose(jax.grad(loss(sketched))(table), jax.grad(loss(whole))(table), atol=1e-5)


@pytest.mark.parametrize(("num_items", "size"), SIZES)
def test_every_run_of_items_fills_its_buckets_once(num_items, size):
    sketch = draw_noise_sketch(jax.random.key(2), num_items, size)
    found = np.asarray(buckets(sketch, jnp.arange(num_items), size))
    assert found.min() >= 0 and found.max() < size
    for first in range(0, num_items, size):
        run = found[first : first + size]
        assert len(set(run)) == len(run)
    assert set(np.unique(sketch.signs)) <= {-1.0, 1.0}


def draws(num_draws, num_items, size):
    def draw(key):
        hash_key, noise_key = jax.random.split(key)
        sketch = draw_noise_sketch(hash_key, num_items, size)
        return expand(sketch, jax.random.normal(noise_key, (2, size)))

    return np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(3), num_draws)))


def test_every_coordinate_is_standard_normal_and_pairs_are_uncorrelated_over_the_hash():
    noise = draws(20_000, num_items=10, size=4)
    for row, item in ((0, 0), (0, 9), (1, 5)):
        assert stats.kstest(noise[:, row, item], "norm").pvalue > 0.01
    flat = noise.reshape(len(noise), -1)
    covariance = flat.T @ flat / len(flat)
    # The standard error of a product of two standard normals' mean is 1 / sqrt(draws), also of dependent signs.
    np.testing.assert_allclose(covariance, np.eye(20), atol=5 * np.sqrt(3 / len(flat)))


def test_a_pair_of_items_shares_a_bucket_as_often_as_a_hash_does():
    keys = jax.random.split(jax.random.key(4), 4000)
    found = np.asarray(jax.vmap(lambda key: buckets(draw_noise_sketch(key, 12, 4), jnp.arange(12), 4))(keys))
    assert not (found[:, 0] == found[:, 3]).any()  # of one run
    assert abs((found[:, 0] == found[:, 5]).mean() - 1 / 4) < 4 * np.sqrt(3 / 16 / 4000)


def test_a_sketch_is_not_larger_than_the_items():
    with pytest.raises(ValueError, match="between 1 and the 3 items, got 4"):
        draw_noise_sketch(jax.random.key(0), 3, 4)
