"""Seeds: one valid range for all random generators."""

import numpy as np

MAX_SEED = 2**63 - 1


def check_seed(seed: int, name: str = "seed") -> None:
    """Raises ValueError unless the seed is in [0, 2^63)."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{name} must be between 0 and 2^63 - 1, got {seed}")


def sklearn_seed(seed: int) -> int | np.random.RandomState:
    """A seed as scikit-learn takes it: its own integers have 32 bits.

    Raises:
      ValueError: the seed is out of range.
    """
    check_seed(seed)
    return seed if seed < 2**32 else np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
