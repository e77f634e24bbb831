"""Names for the arrays and callables that the layers exchange.

Axes: B users of a batch, I items, H hidden units, T timesteps, N stored interactions of a batch.
"""

from typing import Any, Protocol

import jax

Array = jax.Array
Key = jax.Array
"""A typed PRNG key (``jax.random.key``), scalar."""
RowKeys = jax.Array
"""One typed PRNG key per row of a batch, [B]."""
Params = Any
"""A pytree of arrays."""


class DenoiseFn(Protocol):
    """Predicts x_0 from a noised row: ``(x_t [B, D], t [B] int32, 0-based) -> x_0 [B, D]``."""

    def __call__(self, x_t: Array, t: Array, /) -> Array: ...  # noqa: D102


class NoiseFn(Protocol):
    """Noise of step t: ``t (int32 scalar) -> [B, D]``, of unit variance in the space of the chain (or what else its
    ``Process`` draws with)."""

    def __call__(self, t: Array, /) -> Array: ...  # noqa: D102


class ScoreFn(Protocol):
    """Scores every item for each row: ``(scoring state, RowBatch, row_keys [B]) -> [B, I]``; higher is better."""

    def __call__(self, scoring_state: Any, batch: Any, row_keys: RowKeys, /) -> Array: ...  # noqa: D102
