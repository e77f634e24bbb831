"""Where a step runs: on one device by ``jax.jit``, on all local ones by ``jax.pmap``. The only module that knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

AXIS_NAME = "devices"


@dataclass(frozen=True)
class Parallel:
    """A number of local devices, and how functions and values get onto them.

    With several devices a state carries a leading device axis (a copy each) and a batch is split along it.
    """

    num_devices: int = 1

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a per-device function reduces over; None on a single device."""
        return AXIS_NAME if self.num_devices > 1 else None

    def compile(self, function: Callable, *, donate_first: bool = False) -> Callable:
        """Maps a per-device function over the devices; ``donate_first`` lets it reuse its first argument's memory."""
        donate = (0,) if donate_first else ()
        if self.num_devices == 1:
            return jax.jit(function, donate_argnums=donate)
        return jax.pmap(function, axis_name=AXIS_NAME, donate_argnums=donate, devices=self._devices())

    def replicate(self, tree: Any) -> Any:
        """A copy of every leaf on each device."""
        if self.num_devices == 1:
            return jax.device_put(tree)
        copies = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (self.num_devices, *np.shape(leaf))), tree)
        return jax.pmap(lambda leaves: leaves, axis_name=AXIS_NAME, devices=self._devices())(copies)

    def unreplicate(self, tree: Any) -> Any:
        """One device's copy."""
        return tree if self.num_devices == 1 else jax.tree.map(lambda leaf: leaf[0], tree)

    def _devices(self) -> list:
        return jax.local_devices()[: self.num_devices]


def local_parallel(max_devices: int = 0) -> Parallel:
    """All local devices, or at most ``max_devices`` of them when that is not 0."""
    available = jax.local_device_count()
    return Parallel(min(available, max_devices) if max_devices else available)
