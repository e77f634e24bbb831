"""Dense layers whose gradients are cheap where one side is as wide as the items."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array

BLOCK, FEWEST_BLOCKS = 1024, 32
"""Of a long inner axis: its size, and how many make it long."""
_whole = ContextVar("whole", default=False)


@contextlib.contextmanager
def whole_products() -> Iterator[None]:
    """What is traced within multiplies whole arrays: for axes that are split over devices, which slices would join."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def _multiply(rows: Array, kernel: Array, kernel_axis: int = 0) -> Array:
    """Rows [B, N] times a kernel [N, H], or [H, N] with ``kernel_axis`` 1: [B, H].

    On a CPU a long N is summed over in blocks that stay in the cache: a sixth to a quarter less time.
    """
    num_blocks = rows.shape[1] // BLOCK
    if _whole.get() or num_blocks < FEWEST_BLOCKS or jax.default_backend() != "cpu":
        return rows @ jnp.moveaxis(kernel, kernel_axis, 0)

    def part(start: Array | int, size: int) -> Array:
        own = jax.lax.dynamic_slice_in_dim(kernel, start, size, kernel_axis)
        return jax.lax.dynamic_slice_in_dim(rows, start, size, 1) @ jnp.moveaxis(own, kernel_axis, 0)

    end = num_blocks * BLOCK
    total = part(end, rows.shape[1] - end)
    return jax.lax.scan(lambda total, start: (total + part(start, BLOCK), None), total, jnp.arange(0, end, BLOCK))[0]


@jax.custom_vjp
def product(rows: Array, kernel: Array) -> Array:
    """``rows @ kernel``, whose gradient has the kernel's own order of axes.

    JAX's is the transpose of another product: where it is summed over devices before it is transposed, every pass of
    the optimizer over it is one over columns.
    """
    return _multiply(rows, kernel)


product.defvjp(
    lambda rows, kernel: (_multiply(rows, kernel), (rows, kernel)),
    lambda saved, gradient: (_multiply(gradient, saved[1], kernel_axis=1), saved[0].T @ gradient),
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
