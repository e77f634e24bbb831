"""Dense layers whose gradients are cheap where one side is as wide as the items."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array


@jax.custom_vjp
def product(rows: Array, kernel: Array) -> Array:
    """``rows @ kernel``, whose gradient has the kernel's own order of axes.

    JAX's is the transpose of another product: where it is summed over devices before it is transposed, every pass of
    the optimizer over it is one over columns.
    """
    return rows @ kernel


product.defvjp(
    lambda rows, kernel: (rows @ kernel, (rows, kernel)),
    lambda saved, gradient: (gradient @ saved[1].T, saved[0].T @ gradient),
)


def column_sums(rows: Array) -> Array:
    """The sum of rows [B, N], [N], as a product: on a CPU XLA's own reduction takes tens of times as long."""
    return jnp.matmul(jnp.ones(rows.shape[0], rows.dtype), rows, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def add_bias(rows: Array, bias: Array) -> Array:
    """``rows + bias`` of rows [B, N] and a bias [N], whose gradient is ``column_sums``."""
    return rows + bias[None]


add_bias.defvjp(
    lambda rows, bias: (rows + bias[None], None),
    lambda _, gradient: (gradient, column_sums(gradient)),
)


class Affine(nn.Module):
    """``flax.linen.Dense`` with the gradients of ``product`` and ``add_bias``."""

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, rows: Array) -> Array:
        """[B, N] -> [B, features]."""
        kernel = self.param("kernel", self.kernel_init, (rows.shape[-1], self.features))
        return add_bias(product(rows, kernel), self.param("bias", self.bias_init, (self.features,)))
