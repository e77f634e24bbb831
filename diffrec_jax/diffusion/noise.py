"""Noise laws: what the forward process adds, by name. A law is a function (key, shape) -> noise of mean 0, variance 1.

The schedule, and the mean and variance of x_t, hold for every such law: they are moments of first and second order.
The rest is exact for Gaussian noise alone (docs/math.md): for another law the posterior's mean is the best linear one,
and a reverse step with noise has that mean and its variance, not the posterior's shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffrec_jax.typing import Array, Key

NoiseLaw = Callable[[Key, tuple[int, ...]], Array]
GAUSSIAN = "gaussian"
BERNOULLI = "bernoulli"
"""No law of noise that is added: the name of the process in ``diffrec_jax.diffusion.bernoulli``."""
STUDENT_DEGREES = 5.0


def laplace(key: Key, shape: tuple[int, ...]) -> Array:
    """Laplace noise of variance 1."""
    return jax.random.laplace(key, shape) / jnp.sqrt(2.0)


def student_t(key: Key, shape: tuple[int, ...]) -> Array:
    """Student's t noise of 5 degrees of freedom, scaled to variance 1: heavy tails, fourth moment 9.

    A radius and an angle of its own for each number, as Box and Muller's for the normal: without the rejections of
    ``jax.random.t``, which on a CPU takes tens of times as long.

    Reference: Bailey, Mathematics of Computation 62 (1994), 779-781.
    """
    radius_key, angle_key = jax.random.split(key)
    # Of all 32 bits: the tail is where the share is near 0, and uniform() knows multiples of 2^-23 alone.
    share = (jax.random.bits(radius_key, shape, jnp.uint32).astype(jnp.float32) + 0.5) * 2.0**-32
    radius = jnp.sqrt((STUDENT_DEGREES - 2.0) * jnp.expm1(-2.0 / STUDENT_DEGREES * jnp.log(share)))
    return radius * jnp.cos(2.0 * jnp.pi * jax.random.uniform(angle_key, shape))


def rademacher(key: Key, shape: tuple[int, ...]) -> Array:
    """-1 or 1, each half of the time: the lightest tails of all."""
    return jax.random.rademacher(key, shape, jnp.float32)


NOISE_LAWS: dict[str, NoiseLaw] = {
    GAUSSIAN: jax.random.normal,
    "laplace": laplace,
    "student_t": student_t,
    "rademacher": rademacher,
}


def register_noise_law(name: str, law: NoiseLaw) -> None:
    """Adds a law from outside, for every ``noise_law`` of a configuration.

    Args:
      name: what it is asked for by, and stored as in a run's configuration.
      law: (key, shape) -> independent noise of mean 0 and variance 1, float32.

    Raises:
      ValueError: there is a law of that name.
    """
    if name in (*NOISE_LAWS, BERNOULLI):
        raise ValueError(f"there is a noise law {name!r} already: choose another name")
    NOISE_LAWS[name] = law
