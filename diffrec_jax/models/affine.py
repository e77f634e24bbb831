"""Dense layers whose gradients are cheap where one side is as wide as the items."""

from collections.abc import Callable

import flax.linen as nn

from diffrec_jax.products import add_bias, product
from diffrec_jax.typing import Array


def transposed(init: Callable) -> Callable:
    """An initialiser of the transpose of what ``init`` makes."""
    return lambda key, shape: init(key, shape[::-1]).T


class Affine(nn.Module):
    """``flax.linen.Dense`` with the gradients of ``product`` and ``add_bias``."""

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()
    as_table: bool = False
    """Keep the kernel's transpose, ``table`` [features, N]: with items as features a CPU's step is 3 to 5% shorter."""

    @nn.compact
    def __call__(self, rows: Array) -> Array:
        """[B, N] -> [B, features]."""
        if self.as_table:
            kernel = self.param("table", transposed(self.kernel_init), (self.features, rows.shape[-1]))
        else:
            kernel = self.param("kernel", self.kernel_init, (rows.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        return add_bias(product(rows, kernel, int(self.as_table)), bias)
