import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.models.affine import Affine, column_sums, product

ROWS = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)


def test_the_layer_is_flax_dense_with_its_parameters_and_gradients():
    ours, theirs = (kind(3, bias_init=nn.initializers.normal()) for kind in (Affine, nn.Dense))
    params = ours.init(jax.random.key(0), ROWS)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), ROWS))
    weights = np.random.default_rng(1).standard_normal((7, 3), dtype=np.float32)

    def gradients(layer):
        return jax.value_and_grad(lambda params, rows: jnp.sum(weights * layer.apply(params, rows)), (0, 1))(
            params, ROWS
        )

    for found, expected in zip(jax.tree.leaves(gradients(ours)), jax.tree.leaves(gradients(theirs)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_product_is_made_in_the_kernels_order():
    kernel, given = jnp.ones((5, 3)), jnp.ones((7, 3))
    of_kernel = jax.make_jaxpr(lambda kernel: jax.vjp(lambda k: product(ROWS, k), kernel)[1](given))(kernel)
    assert of_kernel.eqns[-1].primitive.name == "dot_general"
    assert of_kernel.eqns[-1].outvars == of_kernel.jaxpr.outvars


def test_column_sums_are_sums():
    np.testing.assert_allclose(column_sums(jnp.asarray(ROWS)), ROWS.sum(axis=0), rtol=1e-5)
