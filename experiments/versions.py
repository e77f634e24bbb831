"""Versions of what a result depends on."""

import platform
from importlib import metadata

PACKAGES = ("diffrec-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Python's and the packages' versions by name."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
