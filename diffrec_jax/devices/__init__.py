"""Where functions run and values live: on one device, by ``jax.pmap``, or by a mesh of rows and items.

A ``DeviceStrategy`` is one device; ``PmapStrategy`` maps the per-device function over all devices, each with a copy of
the state; ``MeshStrategy`` compiles the same function once for a grid, and XLA puts the communication in. Draws belong
to users, items and steps, so each of them gives the run of one device up to rounding.
"""

from typing import Literal, get_args

import jax

from diffrec_jax.devices.base import SINGLE_DEVICE, DeviceStrategy
from diffrec_jax.devices.hosts import any_stops, from_primary, is_primary, wait_for_all
from diffrec_jax.devices.mesh import MeshStrategy
from diffrec_jax.devices.pmap import PmapStrategy

__all__ = [
    "SINGLE_DEVICE",
    "DeviceStrategy",
    "MeshStrategy",
    "ParallelKind",
    "PmapStrategy",
    "any_stops",
    "from_primary",
    "is_primary",
    "make_strategy",
    "wait_for_all",
]
ParallelKind = Literal["pmap", "mesh"]


def make_strategy(
    kind: ParallelKind = "pmap", *, num_items: int, item_shards: int = 1, max_devices: int = 0
) -> DeviceStrategy:
    """All devices of all processes, or at most ``max_devices`` of this one where that is not 0.

    ``pmap`` needs none of the other numbers; ``mesh`` splits ``num_items`` over ``item_shards`` devices and the rows
    of a batch over the others.

    Raises:
      ValueError: an unknown kind; item_shards that do not divide the devices, or that pmap cannot have; a part of the
        devices of several processes.
    """
    if kind not in get_args(ParallelKind):
        raise ValueError(f"parallel {kind!r} is unknown: choose one of {', '.join(get_args(ParallelKind))}")
    if max_devices and jax.process_count() > 1:
        raise ValueError("several processes use all of their devices: leave --max_devices out")
    num_devices = min(jax.device_count(), max_devices or jax.device_count())
    if kind == "pmap":
        if item_shards > 1:
            raise ValueError("--item_shards needs --parallel=mesh: pmap keeps all items on every device")
        return (
            PmapStrategy(num_devices // jax.process_count(), jax.process_count())
            if num_devices > 1
            else DeviceStrategy()
        )
    if num_devices % item_shards:
        raise ValueError(f"--item_shards={item_shards} does not divide the {num_devices} devices")
    return MeshStrategy(num_devices // item_shards, item_shards, num_items)
