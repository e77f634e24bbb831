"""Products of rows and kernels whose gradients are cheap where one side is as wide as the items."""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(rows: Array, kernel: Array, kernel_axis: int = 0) -> Array:
    """Rows [B, N] times a kernel [N, H], or [H, N] with ``kernel_axis`` 1: [B, H].

    Its gradient has the kernel's own order of axes. JAX's is the transpose of another product: where it is summed over
    devices before it is transposed, every pass of the optimizer over it is one over columns.
    """
    return _multiply(rows, kernel, kernel_axis)


def _product_gradients(kernel_axis: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, kernel = saved
    of_rows = _multiply(gradient, kernel, 1 - kernel_axis)
    return of_rows, gradient.T @ rows if kernel_axis else rows.T @ gradient


product.defvjp(
    lambda rows, kernel, kernel_axis: (_multiply(rows, kernel, kernel_axis), (rows, kernel)), _product_gradients
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
