import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import products
from diffrec_jax.models.affine import Affine
from diffrec_jax.products import column_sums, product, whole_products

ROWS = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)


@pytest.mark.parametrize("as_table", [False, True])
def test_the_layer_is_flax_dense_with_its_parameters_and_gradients(as_table):
    ours = Affine(3, bias_init=nn.initializers.normal(), as_table=as_table)
    theirs = nn.Dense(3, bias_init=nn.initializers.normal())

    def as_dense(params):
        own = params["params"]
        return {"params": {"kernel": own["table"].T, "bias": own["bias"]}} if as_table else params

    our_params, their_params = (layer.init(jax.random.key(0), ROWS) for layer in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, as_dense(our_params), their_params)
    weights = np.random.default_rng(1).standard_normal((7, 3), dtype=np.float32)

    def gradients(layer, params):
        return jax.value_and_grad(lambda params, rows: jnp.sum(weights * layer.apply(params, rows)), (0, 1))(
            params, ROWS
        )

    our_value, (our_gradient, our_rows_gradient) = gradients(ours, our_params)
    found, expected = (our_value, (as_dense(our_gradient), our_rows_gradient)), gradients(theirs, their_params)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "kernel_axis"), [((5, 3), 0), ((3, 5), 1)])
def test_the_gradient_of_a_product_is_made_in_the_kernels_order(shape, kernel_axis):
    kernel, given = jnp.ones(shape), jnp.ones((7, 3))
    of_kernel = jax.make_jaxpr(lambda k: jax.vjp(lambda k: product(ROWS, k, kernel_axis), k)[1](given))(kernel)
    assert of_kernel.eqns[-1].primitive.name == "dot_general"
    assert of_kernel.eqns[-1].outvars == of_kernel.jaxpr.outvars


@pytest.mark.parametrize("inner", [40, 43])
def test_a_long_inner_axis_is_summed_over_in_blocks(inner, monkeypatch):
    monkeypatch.setattr(products, "BLOCK", 8)
    monkeypatch.setattr(products, "FEWEST_BLOCKS", 5)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    rng = np.random.default_rng(0)
    rows, wide = (rng.standard_normal((7, size), dtype=np.float32) for size in (3, inner))
    kernel = rng.standard_normal((inner, 3), dtype=np.float32)
    given = rng.standard_normal((7, 3), dtype=np.float32)

    def assert_right(function, rows, kernel, given, kernel_axis=0):
        found, gradients = function(rows, kernel, given, kernel_axis)
        plain = kernel.T if kernel_axis else kernel
        of_kernel = given.T @ rows if kernel_axis else rows.T @ given
        np.testing.assert_allclose(found, rows @ plain, rtol=1e-5, atol=1e-5)
        for gradient, expected in zip(gradients, (given @ plain.T, of_kernel), strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)

    def with_gradients(rows, kernel, given, kernel_axis=0):
        found, pull = jax.vjp(lambda rows, kernel: product(rows, kernel, kernel_axis), rows, kernel)
        return found, pull(given)

    assert_right(with_gradients, wide, kernel, given)
    assert_right(with_gradients, wide, kernel.T, given, kernel_axis=1)
    assert_right(with_gradients, rows, kernel.T, wide)
    assert_right(with_gradients, rows, kernel, wide, kernel_axis=1)
    assert "scan" in str(jax.make_jaxpr(with_gradients)(wide, kernel, given))
    whole = whole_products()(with_gradients)
    assert_right(whole, wide, kernel, given)
    assert "scan" not in str(jax.make_jaxpr(whole)(wide, kernel, given))
    assert "scan" in str(jax.make_jaxpr(with_gradients)(rows, kernel.T, wide))


def test_column_sums_are_sums():
    np.testing.assert_allclose(column_sums(jnp.asarray(ROWS)), ROWS.sum(axis=0), rtol=1e-5)
