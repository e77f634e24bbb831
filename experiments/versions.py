"""Versions of what a result depends on."""

import platform
from importlib import metadata

from diffrec_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Python's, this project's and the packages' versions by name; a package that pip knows nothing of is "unknown"."""

    def of(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "unknown"

    return {"python": platform.python_version(), "diffrec-jax": __version__} | {name: of(name) for name in PACKAGES}
