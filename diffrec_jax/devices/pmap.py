"""Devices that each hold a copy of the model and a share of the batch's rows: ``jax.pmap``."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch, map_fields
from diffrec_jax.devices.base import DeviceStrategy

DEVICES = "devices"


@dataclass(frozen=True)
class PmapStrategy(DeviceStrategy):
    """A copy of the state on every device, and a share of the batch's rows: ``jax.pmap``.

    Only what has rows is mapped: a state with a leading axis of devices would be copied at each step. Process p holds
    the p-th run of shards of every batch.
    """

    num_local_devices: int
    num_processes: int = 1

    @property
    def num_devices(self) -> int:
        """Of all processes."""
        return self.num_row_shards

    @property
    def description(self) -> str:
        """For people."""
        return " by pmap"

    @property
    def num_row_shards(self) -> int:
        """All devices."""
        return self.num_local_devices * self.num_processes

    @property
    def num_state_copies(self) -> int:
        """One on each device."""
        return self.num_local_devices

    @property
    def axis_name(self) -> str | None:
        """The mapped axis."""
        return DEVICES

    @property
    def _own_devices(self) -> list:
        return jax.local_devices()[: self.num_local_devices]

    @property
    def _copied(self) -> NamedSharding:
        return NamedSharding(jax.sharding.Mesh(np.array(self._own_devices), (DEVICES,)), PartitionSpec())

    def compile(self, function: Callable, *, in_place: bool = False, gives_rows: bool = False) -> Callable:
        """Maps a per-device function over the devices' shares of its batches; without batches, each does the same."""
        donate = (0,) if in_place else ()
        everywhere = jax.jit(function, donate_argnums=donate)

        @functools.cache
        def mapped(axes: tuple[int | None, ...]) -> Callable:
            return jax.pmap(
                function,
                axis_name=DEVICES,
                in_axes=axes,
                out_axes=0 if gives_rows else None,  # type: ignore[arg-type]
                donate_argnums=donate,
                devices=None if self.num_processes > 1 else self._own_devices,
            )

        def call(*arguments: Any) -> Any:
            axes = tuple(0 if _has_rows(argument) else None for argument in arguments)
            return (mapped(axes) if 0 in axes else everywhere)(*arguments)

        return call

    def make(self, function: Callable) -> Callable:
        """Made and copied."""
        made = jax.jit(function)
        return lambda *arguments: self.place(made(*arguments))

    def make_batch(
        self,
        matrix: sparse.csr_array,
        user_ids: np.ndarray,
        *,
        batch_size: int,
        targets: np.ndarray | None = None,
        num_parts: int = 1,
        tight: bool = False,
    ) -> RowBatch:
        """This process' rows, with a leading axis of its devices (and one of parts within each)."""
        first = jax.process_index() * self.num_local_devices * num_parts
        batch = make_row_batch(
            matrix,
            user_ids,
            batch_size=batch_size,
            num_shards=self.num_row_shards * num_parts,
            own_shards=range(first, first + self.num_local_devices * num_parts),
            targets=targets,
            tight=tight,
        )
        if self.num_row_shards * num_parts == 1:
            return map_fields(lambda field: field[None], batch)
        if num_parts == 1:
            return batch
        return map_fields(lambda field: field.reshape(self.num_local_devices, num_parts, -1), batch)

    def place(self, tree: Any) -> Any:
        """A copy of every leaf on each device."""
        return jax.device_put(tree, self._copied)

    def fetch_rows(self, tree: Any) -> Any:
        """The rows of all devices, joined in their order."""
        own = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(tree))
        return multihost_utils.process_allgather(own, tiled=True) if self.num_processes > 1 else own

    def to_checkpoint(self, tree: Any) -> Any:
        """One copy, on the host."""
        return self.fetch(tree)

    def checkpoint_target(self, abstract: Any) -> Any:
        """A copy of every leaf on the first device of each process: with several, a checkpoint has to know of all."""
        every = self.num_local_devices if self.num_processes > 1 else jax.device_count()
        first = jax.make_mesh((self.num_processes,), (DEVICES,), (AxisType.Auto,), devices=jax.devices()[::every])
        copied = NamedSharding(first, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copied), abstract)

    def from_checkpoint(self, tree: Any) -> Any:
        """Copied to every device."""
        return self.place(jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree))


def _has_rows(argument: Any) -> bool:
    return any(
        isinstance(part, RowBatch) for part in jax.tree.leaves(argument, is_leaf=lambda x: isinstance(x, RowBatch))
    )
