"""Keys from seeds, and the default generator of random bits."""

import jax

from diffrec_jax.seeds import check_seed
from diffrec_jax.typing import Key


def default_prng_impl() -> str:
    """The generator of keys where none is asked for: what compiles quickly and draws fast on the JAX in use.

    threefry4x32 draws normals on a CPU in half of threefry2x32's time; JAX 0.11 and 0.12 need minutes to compile a
    training step with it, so it is the default of JAX 0.10 alone.
    """
    return "threefry4x32" if jax.__version_info__ < (0, 11) else "threefry2x32"


def make_key(seed: int, impl: str | None = None) -> Key:
    """The key of a seed in [0, 2^63): every seed has its own.

    ``jax.random.key`` takes 32 bits of a seed where JAX has no 64-bit integers. The upper bits are folded in.

    Args:
      seed: of everything that is drawn.
      impl: generator; None for ``default_prng_impl``.

    Raises:
      ValueError: the seed is out of range, or this JAX has no such generator.
    """
    check_seed(seed)
    upper, lower = divmod(seed, 2**32)
    key = jax.random.key(lower, impl=impl or default_prng_impl())
    return jax.random.fold_in(key, upper) if upper else key
