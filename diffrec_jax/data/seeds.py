"""Seeds of what the host draws."""

import numpy as np

from diffrec_jax.data.interactions import DataError


def check_seed(seed: int) -> None:
    """Raises DataError unless the seed is in [0, 2^63), as everywhere in this project."""
    if not 0 <= seed < 2**63:
        raise DataError(f"seed must be between 0 and 2^63 - 1, got {seed}")


def sklearn_seed(seed: int) -> int | np.random.RandomState:
    """A seed as scikit-learn takes it: its own integers have 32 bits.

    Raises:
      DataError: the seed is out of range.
    """
    check_seed(seed)
    return seed if seed < 2**32 else np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
